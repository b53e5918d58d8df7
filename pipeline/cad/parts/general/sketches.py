"""Random sketches: outlines with holes, several profiles, patterns of them."""

import math
import random
from collections.abc import Mapping

from pipeline.cad.language.planar import Corner, cross_or_touch, loop_of
from pipeline.cad.language.program import Circle, Line, Loop, Profile
from pipeline.cad.parts import shapes
from pipeline.cad.parts.general.bodies import Chords, box_of
from pipeline.cad.parts.general.outlines import TURN, mapped, nice, outline, pick

# How often an outline is drawn: of a first sketch, of what is added to a solid or cut from it, of a busy first sketch,
# of a hole.
FIRST = {
    "rectangle": 0.28,
    "circle": 0.19,
    "rounded": 0.06,
    "slot": 0.03,
    "skyline": 0.13,
    "polygon": 0.06,
    "mirrored": 0.05,
    "regular": 0.03,
    "toothed": 0.02,
    "teardrop": 0.02,
    "sector": 0.03,
    "segment": 0.02,
    "bulged": 0.05,
    "wavy": 0.06,
}
LATER = {
    "rectangle": 0.27,
    "circle": 0.37,
    "rounded": 0.05,
    "slot": 0.05,
    "skyline": 0.05,
    "polygon": 0.04,
    "mirrored": 0.02,
    "regular": 0.03,
    "teardrop": 0.01,
    "sector": 0.03,
    "segment": 0.04,
    "bulged": 0.04,
}
BUSY = {"wavy": 0.35, "skyline": 0.25, "toothed": 0.15, "mirrored": 0.15, "rectangle": 0.1}
HOLE = {
    "circle": 0.66,
    "rectangle": 0.11,
    "rounded": 0.05,
    "slot": 0.06,
    "skyline": 0.02,
    "polygon": 0.02,
    "mirrored": 0.02,
    "regular": 0.02,
    "sector": 0.02,
    "bulged": 0.02,
}
PATTERNS = {"mirror": 0.3, "linear": 0.25, "circular": 0.2, "corners": 0.15, "grid": 0.1}
WALL = 0.04  # of a sketch's size: as close as loops come to one another
Placed = tuple[float, float, float]  # centre and turn of a copy


def profiles(
    rng: random.Random, width: float, height: float, weights: Mapping[str, float], patterned: float, divided: float
) -> tuple[Profile, ...]:
    """One profile or several around the origin, in a box of about this size.

    Args:
        patterned: share of sketches with copies of one profile.
        divided: share of those whose profiles have common edges.
    """
    kind = rng.random()
    if kind < patterned:
        places, (w, h) = pattern(rng, width, height)
        drawn = copies(with_holes(rng, outline(rng, w, h, weights)), places)
        apart = len(places) < 3 or not cross_or_touch([profile.outer for profile in drawn])
        return drawn if apart else drawn[:1]
    if kind < patterned + divided:
        return split(rng, width, height, weights)
    profile = with_holes(rng, outline(rng, width, height, weights))
    turn = math.radians(rng.choice((30, 45, 60, rng.uniform(5, 85)))) if rng.random() < 0.05 else 0.0
    return copies(profile, [(0.0, 0.0, turn)]) if turn else (profile,)


def with_holes(rng: random.Random, outer: Loop, chance: float = 0.44) -> Profile:
    """A profile: mostly without holes, else with one, or with a pattern or two of them."""
    if rng.random() >= chance:
        return Profile(outer)
    holes = _frame(rng, outer) if rng.random() < 0.15 else []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5)) - len(holes)):
        holes += _holes(rng, outer, holes)
    # Circles keep away from straight lines by themselves.
    straight = all(isinstance(curve, Line) for curve in outer.curves)
    simple = straight and all(isinstance(hole.curves[0], Circle) for hole in holes)
    return Profile(outer, tuple(holes) if simple or not cross_or_touch([outer, *holes]) else ())


def _frame(rng: random.Random, outer: Loop) -> list[Loop]:
    """A hole nearly as long as the part."""
    middle, (width, height) = box_of((outer,))
    inset = min(width, height) * rng.choice((0.05, 0.1, 0.15, 0.25))
    loop = outline(rng, width - 2 * inset, height - 2 * inset, HOLE)
    first = loop.curves[0]
    if isinstance(first, Circle) and first.radius > Chords.of((outer,)).clearance([middle])[0]:
        return []
    return [moved(loop, (*middle, 0.0))]


def _holes(rng: random.Random, outer: Loop, holes: list[Loop]) -> list[Loop]:
    """Holes of one shape beside those that are there: in the middle, in a pattern, or where there is room."""
    chords = Chords.of((outer, *holes))
    (x, y), (width, height) = box_of((outer,))
    least, kind = WALL / 2 * max(width, height), rng.random()
    places: list[Placed] = [(x, y, 0.0)]
    if kind > 0.75:
        places = [(x + a, y + b, turn) for a, b, turn in pattern(rng, width, height)[0]]
    elif kind > 0.5:
        tries = [(x + rng.uniform(-0.5, 0.5) * width, y + rng.uniform(-0.5, 0.5) * height) for _ in range(5)]
        rooms = chords.clearance(tries)
        places = [(*tries[rooms.index(max(rooms))], 0.0)]
    at = [(a, b) for a, b, _ in places]
    apart = min((math.dist(a, b) for i, a in enumerate(at) for b in at[:i]), default=math.inf)
    room = min(min(chords.clearance(at)) - least, apart / 2.2)
    if room < least:
        return []
    reach = 2 * room * (rng.uniform(0.3, 1.0) if len(at) == 1 else rng.uniform(0.2, 0.8))
    name = pick(rng, HOLE)
    box = (reach, reach) if name == "circle" else _inscribed(rng, reach)
    loop = outline(rng, *box, {name: 1.0})
    first = loop.curves[0]
    if isinstance(first, Circle) and first.radius > room:  # it was rounded up
        loop = shapes.circle(reach)
    return [moved(loop, place) for place in places]


def _inscribed(rng: random.Random, diameter: float) -> tuple[float, float]:
    """Width and height of a box in a circle."""
    angle = rng.uniform(0.3, math.pi / 2 - 0.3)
    return diameter * math.cos(angle), diameter * math.sin(angle)


def split(rng: random.Random, width: float, height: float, weights: Mapping[str, float]) -> tuple[Profile, ...]:
    """Regions of one sketch that share edges, as where a line crosses an outline or a circle lies in it."""
    kind = rng.choice(("nested", "nested", "strips", "strips", "chord", "bow"))
    w, h = nice(width) / 2, nice(height) / 2
    if kind == "nested":
        profile = with_holes(rng, outline(rng, width, height, weights), 1.0)
        return (profile, *(Profile(hole) for hole in profile.holes))
    if kind == "strips":
        number = rng.choice((2, 2, 3, 4, 6))
        widths = [nice(2 * w * rng.uniform(0.3, 1.0) / number) for _ in range(number)]
        lefts = [sum(widths[:i]) - sum(widths) / 2 for i in range(number)]
        strips = [shapes.rectangle(wide, 2 * h, left + wide / 2) for wide, left in zip(widths, lefts, strict=True)]
        return tuple(Profile(strip) for strip in strips)
    if kind == "bow":  # a half disc on a side
        bow = loop_of([Corner((w, -h), sweep=math.pi), Corner((w, h))])
        return Profile(shapes.rectangle(2 * w, 2 * h)), Profile(bow)
    radius = min(w, h)
    at = radius * rng.uniform(-0.7, 0.7)
    half, sweep = math.sqrt(radius**2 - at**2), 2 * math.acos(at / radius)
    above = loop_of([Corner((half, at), sweep=sweep), Corner((-half, at))])
    below = loop_of([Corner((-half, at), sweep=TURN - sweep), Corner((half, at))])
    return Profile(above), Profile(below)


def pattern(rng: random.Random, width: float, height: float) -> tuple[list[Placed], tuple[float, float]]:
    """Places of copies in a box around the origin, and the size that each may have."""
    kind = pick(rng, PATTERNS)
    fill = rng.uniform(0.3, 0.85)
    if kind == "mirror":
        if width >= height or rng.random() < 0.2:
            x = width * rng.uniform(0.2, 0.4)
            return [(-x, 0.0, 0.0), (x, 0.0, math.pi)], (min(2 * x, width - 2 * x) * fill, height * fill)
        y = height * rng.uniform(0.2, 0.4)
        return [(0.0, -y, 0.0), (0.0, y, math.pi)], (width * fill, min(2 * y, height - 2 * y) * fill)
    if kind == "linear":
        number = rng.choice((2, 3, 3, 4, 4, 5, 6, 8, 12))
        is_wide = width >= height
        pitch = (width if is_wide else height) / number
        at = [(i - (number - 1) / 2) * pitch for i in range(number)]
        if is_wide:
            return [(x, 0.0, 0.0) for x in at], (pitch * fill, height * rng.uniform(0.3, 0.9))
        return [(0.0, y, 0.0) for y in at], (width * rng.uniform(0.3, 0.9), pitch * fill)
    if kind == "circular":
        number, radius = rng.choice((3, 3, 4, 4, 5, 6, 6, 8, 12)), min(width, height) / 2 * rng.uniform(0.5, 0.75)
        turns = [TURN * i / number for i in range(number)]
        size = min(2 * radius * math.sin(math.pi / number), min(width, height) - 2 * radius) * fill
        return [(radius * math.cos(a), radius * math.sin(a), a) for a in turns], (size, size)
    if kind == "corners":
        inset = min(width, height) * rng.uniform(0.12, 0.25)
        x, y = width / 2 - inset, height / 2 - inset
        corners = ((-x, -y), (x, -y), (x, y), (-x, y))
        return [(*corner, 0.0) for corner in corners], (2 * inset * fill, 2 * inset * fill)
    columns, rows = rng.choice((2, 2, 3, 4, 6)), rng.choice((2, 2, 3, 4))
    xs = [(i - (columns - 1) / 2) * width / columns for i in range(columns)]
    ys = [(i - (rows - 1) / 2) * height / rows for i in range(rows)]
    return [(x, y, 0.0) for y in ys for x in xs], (width / columns * fill, height / rows * fill)


def copies(profile: Profile, places: list[Placed]) -> tuple[Profile, ...]:
    """The profile at each place."""
    return tuple(
        Profile(moved(profile.outer, place), tuple(moved(hole, place) for hole in profile.holes)) for place in places
    )


def moved(loop: Loop, place: Placed) -> Loop:
    """The loop turned about the origin, then shifted."""
    x, y, turn = place
    c, s = math.cos(turn), math.sin(turn)
    return mapped(loop, lambda p: (x + p[0] * c - p[1] * s, y + p[0] * s + p[1] * c))
