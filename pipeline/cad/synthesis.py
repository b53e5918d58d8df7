"""A corpus that the project makes itself: parts that a machinist would recognise, with captions.

Each family draws its dimensions in whole millimetres, builds a program with the operations Omni-CAD knows,
and says in words what a person would. A model is a function of (seed, number) alone.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.cad import captions
from pipeline.cad.captions import count, proportion
from pipeline.cad.program import Arc, CadProgram, Extent, Extrude, Frame, Line, Loop, Operation, Profile
from pipeline.cad.shapes import (
    circle,
    extrude,
    polygon,
    rectangle,
    regular,
    ring_of,
    rounded,
    symmetric,
    two_sided,
)

MM = 1e-3
NEW, JOIN, CUT, INTERSECT = Operation.NEW, Operation.JOIN, Operation.CUT, Operation.INTERSECT


@dataclass(frozen=True, slots=True)
class Part:
    """A synthetic model in metres, with its words."""

    program: CadProgram
    caption: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """What a family makes, in millimetres."""

    extrudes: list[Extrude]
    body: str
    features: list[str]
    size_mm: tuple[float, float, float]


def make_part(seed: int, number: int, families: tuple[str, ...]) -> Part:
    """Model ``number`` of the corpus of ``seed``."""
    rng = random.Random(f"{seed}/{number}")
    draft = FAMILIES[families[number % len(families)]](rng)
    text = captions.caption(rng, draft.body, draft.features, draft.size_mm)
    millimetres = CadProgram(tuple(draft.extrudes))
    return Part(millimetres.restored(Frame((0.0, 0.0, 0.0), MM)), text)


def _holes_phrase(number: int) -> str:
    return count(number, "circular hole")


def plate(rng: random.Random) -> _Draft:
    """A flat plate, square or filleted, with holes near its corners and perhaps a bore or a slot."""
    w, d = rng.randrange(60, 161, 4), rng.randrange(40, 101, 4)
    t, hole = rng.randrange(4, 17, 2), rng.randrange(5, 11)
    inset = hole + rng.randrange(2, 6)
    is_round = rng.random() < 0.4
    outer = rounded(w, d, inset) if is_round else rectangle(w, d)
    x, y = w / 2 - inset, d / 2 - inset
    holes = [circle(hole, sx * x, sy * y) for sx in (-1, 1) for sy in (-1, 1)]
    if rng.random() < 0.3:
        holes = [holes[0], holes[3]] if rng.random() < 0.5 else [circle(hole, -x, 0), circle(hole, x, 0)]
    words = [f"{_holes_phrase(len(holes))}{' near the corners' if len(holes) == 4 else ''}"]
    middle = rng.random()
    if middle < 0.35:
        holes.append(circle(rng.randrange(int(d * 0.25), int(d * 0.45), 2)))
        words.append("a large bore in the middle")
    elif middle < 0.6:
        holes.append(rounded(w * 0.3, d * 0.2, d * 0.1))
        words.append("a slot in the middle")
    body = f"{proportion(rng, t, w)}{'rounded ' if is_round else ''}rectangular plate"
    return _Draft([extrude("top", [Profile(outer, tuple(holes))], t)], body, words, (w, d, t))


def washer(rng: random.Random) -> _Draft:
    """A ring, at times with a shoulder."""
    outer = rng.randrange(24, 101, 2)
    inner = max(6, round(outer * rng.choice((0.3, 0.4, 0.5, 0.6))))
    t = rng.randrange(2, max(4, outer // 5))
    parts = [extrude("top", [Profile(circle(outer), (circle(inner),))], t)]
    words = ["a circular hole through the centre"]
    height = t
    if rng.random() < 0.4:
        wall = max(2, round((outer - inner) / 2 * 0.4))
        rise = rng.randrange(t, 3 * t + 1)
        collar = [Profile(circle(inner + 2 * wall), (circle(inner),))]
        parts.append(extrude("top", collar, rise, JOIN, (0.0, 0.0, float(t))))
        words.append("a raised collar around the hole")
        height += rise
    body = f"{proportion(rng, t, outer)}{rng.choice(('washer', 'ring', 'circular disc'))}"
    return _Draft(parts, body, words, (outer, outer, height))


def flange(rng: random.Random) -> _Draft:
    """A disc with a bolt circle, a hub and a bore."""
    outer = rng.randrange(60, 141, 4)
    t = rng.randrange(6, 19, 2)
    hub = round(outer * rng.choice((0.35, 0.42, 0.5)))
    bore = round(hub * rng.choice((0.45, 0.6, 0.7)))
    rise = rng.randrange(8, 49, 4)
    bolts = rng.choice((3, 4, 6, 8))
    hole = max(4, round(min(outer * 0.08, (outer - hub) / 2 * 0.5)))
    profile = Profile(circle(outer), (circle(bore), *ring_of(bolts, (outer + hub) / 2, hole)))
    parts = [
        extrude("top", [profile], t),
        extrude("top", [Profile(circle(hub), (circle(bore),))], rise, JOIN, (0.0, 0.0, float(t))),
    ]
    words = [f"{count(bolts, 'bolt hole')} around it", f"{proportion(rng, rise, hub)}cylindrical hub with a bore"]
    words[1] = captions.article(words[1])
    return _Draft(parts, f"{proportion(rng, t, outer)}circular flange", words, (outer, outer, t + rise))


def stepped_shaft(rng: random.Random) -> _Draft:
    """Coaxial cylinders along x, perhaps with a keyway or a centre bore."""
    steps = rng.choice((2, 3, 3, 4))
    diameters = [rng.randrange(12, 61, 2) for _ in range(steps)]
    for i in range(1, steps):
        if diameters[i] == diameters[i - 1]:
            diameters[i] += 6
    parts, x = [], 0.0
    for i, diameter in enumerate(diameters):
        length = rng.randrange(16, 65, 4)
        parts.append(extrude("right", circle(diameter), length, JOIN if i else NEW, (x, 0.0, 0.0)))
        x += length
    words = [count(steps, "cylindrical section")]
    choice = rng.random()
    if choice < 0.35:
        width, depth = min(8, max(3, diameters[0] // 4)), max(2, diameters[0] // 6)
        slot = rounded(12, width, width / 2, 8)
        parts.append(extrude("top", slot, depth + 1, CUT, (0.0, 0.0, diameters[0] / 2 - depth)))
        words.append("a keyway at one end")
    elif choice < 0.6:
        bore = max(4, round(min(diameters) * 0.5))
        parts.append(extrude("right", circle(bore), x, CUT))
        words.append("a bore along its axis")
    body = rng.choice(("stepped shaft", "stepped cylindrical shaft", "shaft"))
    return _Draft(parts, body, words, (x, max(diameters), max(diameters)))


def hex_nut(rng: random.Random) -> _Draft:
    """A hexagonal prism with a bore: a nut, or a bolt where it has a shank."""
    flats = rng.randrange(16, 61, 2)
    t = round(flats * rng.choice((0.4, 0.5, 0.8)))
    phase = rng.choice((0.0, math.pi / 6))
    if rng.random() < 0.5:
        bore = round(flats * rng.choice((0.4, 0.5, 0.6)))
        profile = [Profile(regular(6, flats, phase), (circle(bore),))]
        extent: float | Extent = symmetric(t / 2) if rng.random() < 0.5 else float(t)
        words = ["a circular hole through the middle"]
        return _Draft(
            [extrude("top", profile, extent)], f"{proportion(rng, t, flats)}hexagonal nut", words, (flats, flats, t)
        )
    shank, length = round(flats * rng.choice((0.45, 0.55, 0.65))), rng.randrange(flats, 4 * flats, 4)
    parts = [extrude("top", regular(6, flats, phase), t), extrude("top", circle(shank), -length, JOIN)]
    words = [f"a {'long' if length > 2 * flats else 'short'} cylindrical shank"]
    return _Draft(parts, "hexagonal bolt head", words, (flats, flats, t + length))


def l_bracket(rng: random.Random) -> _Draft:
    """An angle drawn from the side and extruded both ways, with holes in its legs."""
    a, b = rng.randrange(40, 101, 4), rng.randrange(30, 81, 4)
    t, half = rng.randrange(4, 13, 2), rng.randrange(10, 33, 2)
    outline = polygon([(0, 0), (a, 0), (a, t), (t, t), (t, b), (0, b)])
    parts = [extrude("front", outline, symmetric(half))]
    hole = max(4, round(half * 0.5))
    words = []
    number = rng.choice((1, 1, 2))
    spread = [0.0] if number == 1 else [-half * 0.45, half * 0.45]
    if number == 2:
        hole = max(4, round(half * 0.35))
    base = [Profile(circle(hole, (a + t) / 2, y)) for y in spread]
    parts.append(extrude("top", base, t, CUT))
    words.append(f"{_holes_phrase(number)} in the base")
    if rng.random() < 0.6:
        wall = [Profile(circle(hole, y, (b + t) / 2)) for y in spread]
        parts.append(extrude("right", wall, t, CUT))
        words.append(f"{_holes_phrase(number)} in the upright leg")
    if rng.random() < 0.4:
        leg = round(min(a, b) * 0.5)
        rib = polygon([(t, t), (t + leg, t), (t, t + leg)])
        parts.append(extrude("front", rib, two_sided(t / 2, t / 2), JOIN))
        words.append("a triangular gusset in the corner")
    return _Draft(
        parts, rng.choice(("L-shaped bracket", "angle bracket", "right-angle bracket")), words, (a, 2 * half, b)
    )


def enclosure(rng: random.Random) -> _Draft:
    """An open box: a block with a pocket cut from the top, at times with bosses or a cable hole."""
    w, d = rng.randrange(50, 131, 4), rng.randrange(40, 91, 4)
    h, wall = rng.randrange(16, 61, 4), rng.randrange(2, 7)
    is_round = rng.random() < 0.4
    radius = 2 * wall + 2
    outer = rounded(w, d, radius) if is_round else rectangle(w, d)
    inner = rounded(w - 2 * wall, d - 2 * wall, radius - wall) if is_round else rectangle(w - 2 * wall, d - 2 * wall)
    parts = [extrude("top", outer, h), extrude("top", inner, -(h - wall), CUT, (0.0, 0.0, float(h)))]
    words = ["a deep pocket open at the top" if h > 2 * d / 3 else "a pocket open at the top"]
    if rng.random() < 0.4:
        size = max(6, 3 * wall)
        x, y = w / 2 - wall - size, d / 2 - wall - size
        bosses = [
            Profile(circle(size, sx * x, sy * y), (circle(size / 2, sx * x, sy * y),))
            for sx in (-1, 1)
            for sy in (-1, 1)
        ]
        parts.append(extrude("top", bosses, round(h * 0.5) - wall, JOIN, (0.0, 0.0, float(wall))))
        words.append("four cylindrical bosses inside")
    if rng.random() < 0.4:
        side = circle(max(6, round(h * 0.3)), 0.0, round(h * 0.6))
        parts.append(extrude("right", side, wall, CUT, (w / 2 - wall, 0.0, 0.0)))
        words.append("a round opening in one side")
    return _Draft(parts, f"{'rounded ' if is_round else ''}rectangular enclosure", words, (w, d, h))


def ribbed_base(rng: random.Random) -> _Draft:
    """A base plate with parallel ribs or pins on it."""
    w, d, t = rng.randrange(60, 141, 4), rng.randrange(40, 91, 4), rng.randrange(4, 11)
    parts = [extrude("top", rectangle(w, d), t)]
    number, rise = rng.randrange(2, 6), rng.randrange(8, 41, 2)
    if rng.random() < 0.65:
        rib = max(2, round(w / number * 0.25))
        xs = [(-w / 2 + rib) + i * (w - 2 * rib) / (number - 1) for i in range(number)]
        top = [Profile(rectangle(rib, d, x)) for x in xs]
        words = [f"{count(number, 'parallel rib')} on top"]
    else:
        pin = max(6, round(min(w / number, d) * 0.4))
        xs = [-w / 2 + (i + 0.5) * w / number for i in range(number)]
        top = [Profile(circle(pin, x)) for x in xs]
        words = [f"{count(number, 'cylindrical pin')} in a row"]
    parts.append(extrude("top", top, rise, JOIN, (0.0, 0.0, float(t))))
    return _Draft(parts, f"{proportion(rng, t, w)}rectangular base", words, (w, d, t + rise))


def channel(rng: random.Random) -> _Draft:
    """A U, T or I section extruded to a length, perhaps with holes through the web."""
    w, h, length = rng.randrange(24, 81, 4), rng.randrange(20, 61, 4), rng.randrange(40, 181, 4)
    t = max(3, round(min(w, h) * rng.choice((0.12, 0.18, 0.24))))
    a, name = w / 2, rng.choice(("U", "T", "I"))
    if name == "U":
        outline = [(-a, 0), (a, 0), (a, h), (a - t, h), (a - t, t), (-a + t, t), (-a + t, h), (-a, h)]
    elif name == "T":
        outline = [(-t / 2, 0), (t / 2, 0), (t / 2, h - t), (a, h - t), (a, h), (-a, h), (-a, h - t), (-t / 2, h - t)]
    else:
        right = [(a, 0), (a, t), (t / 2, t), (t / 2, h - t), (a, h - t), (a, h)]
        outline = right + [(-x, y) for x, y in reversed(right)]
    extent = symmetric(length / 2) if rng.random() < 0.5 else float(length)
    parts = [extrude("front", polygon([(float(x), float(y)) for x, y in outline]), extent)]
    words = []
    if name == "U" and rng.random() < 0.6:
        number = rng.randrange(1, 4)
        hole = max(4, round((w - 2 * t) * 0.4))
        # The front plane's normal is -y: the section lies above y = low.
        low = -length / 2 if isinstance(extent, Extent) else -float(length)
        ys = [low + (i + 0.5) * length / number for i in range(number)]
        parts.append(extrude("top", [Profile(circle(hole, 0.0, y)) for y in ys], t, CUT))
        words.append(f"{_holes_phrase(number)} through the web")
    nouns = ("channel", "profile", "beam") if name == "U" else ("profile", "beam")
    body = f"{'long ' if length > 2.5 * w else ''}{name}-shaped {rng.choice(nouns)}"
    return _Draft(parts, body, words, (w, length, h))


def link(rng: random.Random) -> _Draft:
    """A link with round ends and two eyes, perhaps with raised eyes."""
    length, width, t = rng.randrange(50, 141, 4), rng.randrange(16, 45, 2), rng.randrange(4, 17, 2)
    eye = round(width * rng.choice((0.4, 0.5, 0.6)))
    x = length / 2
    eyes = (circle(eye, -x), circle(eye, x))
    bar = rounded(length + width, width, width / 2)
    parts = [extrude("top", [Profile(bar, eyes)], symmetric(t / 2))]
    words = ["two circular holes at its ends"]
    height = t
    if rng.random() < 0.5:
        rise = rng.randrange(2, 11)
        bosses = [Profile(circle(width, s * x), (circle(eye, s * x),)) for s in (-1, 1)]
        parts.append(extrude("top", bosses, rise, JOIN, (0.0, 0.0, t / 2)))
        words.append("a raised boss around each hole")
        height += rise
    noun = rng.choice(("link", "lever arm", "connecting bar"))
    body = f"{'long ' if length > 4 * width else ''}{noun} with rounded ends"
    return _Draft(parts, body, words, (length + width, width, height))


def bearing_block(rng: random.Random) -> _Draft:
    """A pillow block: a base with two bolt holes and an arched top with a bore through it."""
    d, t = rng.randrange(20, 45, 2), rng.randrange(8, 17, 2)
    bore = rng.randrange(14, 41, 2)
    outer = bore + 2 * rng.randrange(5, 13)
    rise = t + outer // 2 + rng.randrange(2, 11)
    w = outer + 2 * rng.randrange(16, 33, 2)
    r = outer / 2
    arch = Loop(
        (
            Line((-r, 0.0), (r, 0.0)),
            Line((r, 0.0), (r, float(rise))),
            Arc.through((r, float(rise)), (-r, float(rise)), math.pi),
            Line((-r, float(rise)), (-r, 0.0)),
        )
    )
    x = (w / 2 + r) / 2
    hole = max(4, round((w - outer) / 2 * 0.35))
    parts = [
        extrude("top", [Profile(rectangle(w, d), (circle(hole, -x), circle(hole, x)))], t),
        extrude("front", arch, symmetric(d / 2), JOIN),
        extrude("front", circle(bore, 0.0, rise), two_sided(d / 2, d / 2), CUT),
    ]
    words = ["an arched top with a bore through it", "two mounting holes in the base"]
    return _Draft(parts, rng.choice(("bearing block", "pillow block", "bearing support")), words, (w, d, rise + r))


def rounded_knob(rng: random.Random) -> _Draft:
    """A cylinder intersected with a prism: a knob with flats, on a stem."""
    outer, h = rng.randrange(30, 81, 2), rng.randrange(12, 41, 2)
    sides = rng.choice((4, 6, 8))
    flats = outer * rng.choice((0.86, 0.9, 0.94)) if sides != 4 else outer * 0.8
    stem, length = round(outer * rng.choice((0.3, 0.4))), rng.randrange(10, 41, 2)
    parts = [
        extrude("top", circle(outer), h),
        extrude("top", regular(sides, flats, math.pi / sides), h, INTERSECT),
        extrude("top", circle(stem), -length, JOIN),
    ]
    words = [
        f"{count(sides, 'flat face')} around it",
        f"{captions.article(proportion(rng, length, stem) + 'cylindrical stem')}",
    ]
    return _Draft(parts, f"{proportion(rng, h, outer)}round knob", words, (outer, outer, h + length))


FAMILIES: dict[str, Callable[[random.Random], _Draft]] = {
    "plate": plate,
    "washer": washer,
    "flange": flange,
    "stepped_shaft": stepped_shaft,
    "hex_nut": hex_nut,
    "l_bracket": l_bracket,
    "enclosure": enclosure,
    "ribbed_base": ribbed_base,
    "channel": channel,
    "link": link,
    "bearing_block": bearing_block,
    "rounded_knob": rounded_knob,
}
