"""Families of synthetic parts that a mill makes: plates, blocks, brackets and sections."""

import math
import random

from pipeline.cad.language.program import Arc, Extent, Line, Loop, Profile
from pipeline.cad.parts.captions import article, count, proportion
from pipeline.cad.parts.draft import CUT, JOIN, Draft, holes_phrase
from pipeline.cad.parts.shapes import circle, extrude, polygon, rectangle, regular, rounded, symmetric, two_sided


def arch(width: float, rise: float) -> Loop:
    """A wall of the front plane with a round top around (0, rise)."""
    r = width / 2
    return Loop(
        (
            Line((-r, 0.0), (r, 0.0)),
            Line((r, 0.0), (r, float(rise))),
            Arc.through((r, float(rise)), (-r, float(rise)), math.pi),
            Line((-r, float(rise)), (-r, 0.0)),
        )
    )


def plate(rng: random.Random) -> Draft:
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
    words = [f"{holes_phrase(len(holes))}{' near the corners' if len(holes) == 4 else ''}"]
    middle = rng.random()
    if middle < 0.35:
        holes.append(circle(rng.randrange(int(d * 0.25), int(d * 0.45), 2)))
        words.append("a large bore in the middle")
    elif middle < 0.6:
        holes.append(rounded(w * 0.3, d * 0.2, d * 0.1))
        words.append("a slot in the middle")
    body = f"{proportion(rng, t, w)}{'rounded ' if is_round else ''}rectangular plate"
    return Draft([extrude("top", [Profile(outer, tuple(holes))], t)], body, words, (w, d, t))


def l_bracket(rng: random.Random) -> Draft:
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
    words.append(f"{holes_phrase(number)} in the base")
    if rng.random() < 0.6:
        wall = [Profile(circle(hole, y, (b + t) / 2)) for y in spread]
        parts.append(extrude("right", wall, t, CUT))
        words.append(f"{holes_phrase(number)} in the upright leg")
    if rng.random() < 0.4:
        leg = round(min(a, b) * 0.5)
        rib = polygon([(t, t), (t + leg, t), (t, t + leg)])
        parts.append(extrude("front", rib, two_sided(t / 2, t / 2), JOIN))
        words.append("a triangular gusset in the corner")
    return Draft(
        parts, rng.choice(("L-shaped bracket", "angle bracket", "right-angle bracket")), words, (a, 2 * half, b)
    )


def enclosure(rng: random.Random) -> Draft:
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
    return Draft(parts, f"{'rounded ' if is_round else ''}rectangular enclosure", words, (w, d, h))


def ribbed_base(rng: random.Random) -> Draft:
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
    return Draft(parts, f"{proportion(rng, t, w)}rectangular base", words, (w, d, t + rise))


def channel(rng: random.Random) -> Draft:
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
        words.append(f"{holes_phrase(number)} through the web")
    nouns = ("channel", "profile", "beam") if name == "U" else ("profile", "beam")
    body = f"{'long ' if length > 2.5 * w else ''}{name}-shaped {rng.choice(nouns)}"
    return Draft(parts, body, words, (w, length, h))


def link(rng: random.Random) -> Draft:
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
    return Draft(parts, body, words, (length + width, width, height))


def bearing_block(rng: random.Random) -> Draft:
    """A pillow block: a base with two bolt holes and an arched top with a bore through it."""
    d, t = rng.randrange(20, 45, 2), rng.randrange(8, 17, 2)
    bore = rng.randrange(14, 41, 2)
    outer = bore + 2 * rng.randrange(5, 13)
    rise = t + outer // 2 + rng.randrange(2, 11)
    w = outer + 2 * rng.randrange(16, 33, 2)
    r = outer / 2
    x = (w / 2 + r) / 2
    hole = max(4, round((w - outer) / 2 * 0.35))
    parts = [
        extrude("top", [Profile(rectangle(w, d), (circle(hole, -x), circle(hole, x)))], t),
        extrude("front", arch(outer, rise), symmetric(d / 2), JOIN),
        extrude("front", circle(bore, 0.0, rise), two_sided(d / 2, d / 2), CUT),
    ]
    words = ["an arched top with a bore through it", "two mounting holes in the base"]
    return Draft(parts, rng.choice(("bearing block", "pillow block", "bearing support")), words, (w, d, rise + r))


def clevis(rng: random.Random) -> Draft:
    """A fork: a base with two lugs and a pin hole through both."""
    eye = rng.randrange(20, 45, 2)
    w, d, t = eye + rng.randrange(0, 41, 4), rng.randrange(28, 61, 2), rng.randrange(6, 17, 2)
    gap, rise = round(d * rng.choice((0.3, 0.4, 0.5))), t + rng.randrange(16, 41, 2)
    top = rise + eye / 2
    parts = [
        extrude("top", rectangle(w, d), t),
        extrude("front", arch(eye, rise), symmetric(d / 2), JOIN),
        extrude("top", rectangle(w, gap), top - t, CUT, (0.0, 0.0, float(t))),
        extrude("front", circle(round(eye * rng.choice((0.4, 0.5))), 0.0, rise), symmetric(d / 2), CUT),
    ]
    words = ["two parallel lugs with round tops", "a pin hole through both"]
    return Draft(parts, rng.choice(("clevis", "fork bracket", "clevis bracket")), words, (w, d, top))


def _outline(rng: random.Random, size: float, x: float = 0.0, y: float = 0.0) -> tuple[Loop, str, float]:
    """An outline about as large as ``size``, the adjective of its prism, and its depth."""
    kind = rng.random()
    if kind < 0.3:
        return circle(size, x, y), "cylindrical", size
    depth = float(round(size * rng.choice((0.4, 0.6, 0.8, 1.0))))
    if kind < 0.6:
        return rectangle(size, depth, x, y), "square" if depth == size else "rectangular", depth
    if kind < 0.8:
        return rounded(size, depth, depth / 4, x, y), "rounded", depth
    return rounded(size, depth, depth / 2, x, y), "cylindrical" if depth == size else "slot-shaped", depth


def machined_block(rng: random.Random) -> Draft:
    """A prism with whatever was asked for: bosses, pockets, holes, slots and steps, in any order."""
    w, h = float(rng.randrange(40, 121, 2)), float(rng.randrange(10, 71, 2))
    if rng.random() < 0.15:
        sides = rng.choice((5, 6, 8))
        outer, body, d = regular(sides, w), f"{count(sides, 'side').replace(' sides', '-sided')} prism", w
    else:
        outer, adjective, d = _outline(rng, w)
        body = f"{adjective} block"
    parts, words, top = [extrude("top", outer, h)], [], h
    kinds = rng.sample(("boss", "pocket", "hole", "slot", "step"), rng.choice((0, 1, 1, 2, 2, 3)))
    for kind in kinds:
        x, y = (round(s * rng.choice((0.0, 0.0, -0.2, 0.2))) for s in (w, d))
        if kind == "boss":
            loop, adjective, _ = _outline(rng, round(min(w, d) * rng.choice((0.3, 0.4, 0.5))), x, y)
            rise = rng.randrange(4, 41, 2)
            parts.append(extrude("top", loop, rise, JOIN, (0.0, 0.0, h)))
            words.append(f"{article(adjective)} boss on top")
            top = h + rise
        elif kind == "pocket":
            loop, adjective, _ = _outline(rng, round(min(w, d) * rng.choice((0.3, 0.4, 0.5))), x, y)
            parts.append(extrude("top", loop, -round(h * rng.choice((0.3, 0.5, 0.7))), CUT, (0.0, 0.0, h)))
            words.append(f"{article(adjective)} pocket in the top")
        elif kind == "hole":
            size = max(4, round(min(w, d) * rng.choice((0.12, 0.16, 0.2))))
            number = rng.choice((1, 2, 2))
            places = [(x, y)] if number == 1 else [(-0.3 * w, 0.0), (0.3 * w, 0.0)]
            parts.append(extrude("top", [Profile(circle(size, *place)) for place in places], h, CUT))
            words.append(f"{holes_phrase(number)} through it")
        elif kind == "slot":
            loop = rectangle(round(w * rng.choice((0.2, 0.3))), round(h * 0.4) * 2, x, h)
            parts.append(extrude("front", loop, symmetric(d / 2), CUT))
            words.append("a slot across the top")
        else:
            side = rng.choice((-1, 1))
            cut = rectangle(round(w * 0.25) * 2, round(h * rng.choice((0.3, 0.5))) * 2, side * w / 2, h)
            parts.append(extrude("front", cut, symmetric(d / 2), CUT))
            words.append("a step at one end")
    return Draft(parts, f"{proportion(rng, h, w)}{body}", words, (w, d, top))
