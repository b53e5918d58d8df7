"""Random outlines: what a draughtsman draws as one closed line. Each fits a box around the origin."""

import math
import random
from collections.abc import Callable, Mapping
from itertools import accumulate

from pipeline.cad.language.planar import Corner, cross_or_touch, loop_of
from pipeline.cad.language.program import Loop, Plane, Point2, Profile, Sketch, map_sketch
from pipeline.cad.parts import shapes
from pipeline.cad.parts.general.bodies import box_of

TURN = 2 * math.pi
SHORT = 0.005  # millimetres: an edge that is none
PLANE = Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))


def nice(length: float) -> float:
    """A length as people choose them: whole, at small sizes halves, tenths or hundredths."""
    step = 1.0 if length >= 20 else 0.5 if length >= 4 else 0.1 if length >= 1 else 0.01
    return max(step, round(length / step) * step)


def pick(rng: random.Random, weights: Mapping[str, float]) -> str:
    """A name by its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def rectangle(_rng: random.Random, width: float, height: float) -> Loop:
    """Two lengths as they are."""
    return shapes.rectangle(nice(width), nice(height))


def circle(_rng: random.Random, width: float, height: float) -> Loop:
    """As large as the box is narrow."""
    return shapes.circle(nice(min(width, height)))


def rounded(rng: random.Random, width: float, height: float) -> Loop:
    """A rectangle, some or all of its corners filleted or chamfered."""
    w, h = nice(width), nice(height)
    return _finished(rng, [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)], 1.0)


def slot(_rng: random.Random, width: float, height: float) -> Loop:
    """Two lines between half circles."""
    long, short = nice(max(width, height)), nice(min(width, height))
    long = max(long, 1.25 * short)
    a, b = (long - short) / 2, short / 2
    corners = [Corner((-a, -b)), Corner((a, -b), sweep=math.pi), Corner((a, b)), Corner((-a, b), sweep=math.pi)]
    return _turned(loop_of(corners), 0 if width >= height else 1)


def skyline(rng: random.Random, width: float, height: float) -> Loop:
    """Columns side by side: L, T, U, Z, H, crosses, stairs and combs."""
    turns = rng.randrange(4)
    if turns % 2:
        width, height = height, width
    widths, tops, bottoms = _columns(rng)
    across, up = width / sum(widths), height / max(tops)
    xs = list(accumulate((nice(each * across) for each in widths), initial=0.0))
    heights = [nice(top * up) for top in tops]
    floors = [nice(low * up) if low else 0.0 for low in bottoms]
    necks = [min(heights[i : i + 2]) - max(floors[i : i + 2]) for i in range(len(widths))]
    if min(necks) < 0.05 * height:  # a column over its neighbour's top, or nearly
        floors = [0.0] * len(widths)
    lower = [(x, floor) for i, floor in enumerate(floors) for x in xs[i : i + 2]]
    upper = [(x, tall) for i, tall in enumerate(heights) for x in xs[i : i + 2]]
    return _turned(_finished(rng, _cleaned(lower + upper[::-1]), 0.3), turns)


def _columns(rng: random.Random) -> tuple[list[float], list[float], list[float]]:
    """Widths, tops and bottoms, high and low in turn, often the same from both ends."""
    number = rng.choice((2, 2, 3, 3, 3, 4, 5, 7, 12))
    symmetric = number > 2 and rng.random() < 0.6
    high, low = (0.55, 1.0), (0.12, 0.5)
    widths = [rng.uniform(0.2, 1.0) for _ in range(number)]
    tops = [rng.uniform(*(high if i % 2 else low)) for i in range(number)]
    if rng.random() < 0.5:
        tops = [*tops[1:], rng.uniform(*(high if number % 2 else low))]
    bottoms = [0.0] * number
    if rng.random() < 0.3:
        bottoms = [rng.choice((0.0, 0.0, rng.uniform(0.0, 0.8 * top))) for top in tops]
    if symmetric:
        widths, tops, bottoms = (_both_ways(each) for each in (widths, tops, bottoms))
    return widths, tops, bottoms


def _both_ways(values: list[float]) -> list[float]:
    """The first half, and again from the end."""
    half = len(values) // 2
    return values[: len(values) - half] + values[:half][::-1]


def polygon(rng: random.Random, width: float, height: float) -> Loop:
    """Corners around a centre: triangles, quadrilaterals, convex and re-entrant ones."""
    number = rng.choice((3, 4, 4, 5, 5, 6, 7, 8, 10, 14))
    convex = rng.random() < 0.5
    angles = [TURN * (i + rng.uniform(-0.3, 0.3)) / number for i in range(number)]
    radii = [1.0 if convex else rng.uniform(0.35, 1.0) for _ in angles]
    points = [(r * width / 2 * math.cos(a), r * height / 2 * math.sin(a)) for a, r in zip(angles, radii, strict=True)]
    return _finished(rng, [_nice(point) for point in points], 0.2)


def mirrored(rng: random.Random, width: float, height: float) -> Loop:
    """One side drawn, the other mirrored."""
    number = rng.choice((2, 2, 3, 3, 4, 5, 7))
    levels = [(i + rng.uniform(-0.3, 0.3)) / (number - 1) - 0.5 for i in range(number)]
    if rng.random() < 0.5:  # on even levels
        levels = [round(2 * number * level) / (2 * number) for level in levels]
        levels = sorted(set(levels)) if len(set(levels)) > 1 else [-0.5, 0.5]
    side = [_nice((rng.uniform(0.2, 1.0) * width / 2, level * height)) for level in levels]
    points = side + [(-x, y) for x, y in reversed(side)]
    return _turned(_finished(rng, points, 0.25), rng.choice((0, 0, 1)))


def regular(rng: random.Random, width: float, height: float) -> Loop:
    """A regular polygon on a corner or on a side."""
    sides = rng.choice((3, 5, 6, 6, 6, 8, 8, 12))
    phase = rng.choice((0.0, math.pi / sides, math.pi / 2))
    return shapes.regular(sides, nice(min(width, height) * math.cos(math.pi / sides)), phase)


def toothed(rng: random.Random, width: float, height: float) -> Loop:
    """The same teeth all round: stars, cogs, castle nuts."""
    number, outer = rng.randrange(4, 17), min(width, height) / 2
    inner = outer * rng.uniform(0.5, 0.88)
    gap, flank = rng.uniform(0.25, 0.6), rng.choice((0.0, rng.uniform(0.05, 0.2)))
    points = []
    for i in range(number):
        for share, radius in ((0.0, inner), (gap, inner), (gap + flank, outer), (1.0 - flank, outer)):
            angle = TURN * (i + share) / number
            points.append((radius * math.cos(angle), radius * math.sin(angle)))
    if rng.random() < 0.3:  # a star
        points = [point for i, point in enumerate(points) if i % 2]
    return shapes.polygon(points)


def teardrop(rng: random.Random, width: float, height: float) -> Loop:
    """Two circles and the lines that touch both."""
    long, large = max(width, height), min(width, height) / 2
    small = large * rng.uniform(0.3, 1.0)
    apart = max(long - large - small, 1.15 * large - small, 0.4 * large)
    angle = math.acos((large - small) / apart) if large - small < apart else 0.5
    c, s = math.cos(angle), math.sin(angle)
    corners = [
        Corner((large * c, -large * s)),
        Corner((apart + small * c, -small * s), sweep=2 * angle),
        Corner((apart + small * c, small * s)),
        Corner((large * c, large * s), sweep=TURN - 2 * angle),
    ]
    return _turned(loop_of(corners), rng.choice((0, 1, 2)))


def sector(rng: random.Random, width: float, height: float) -> Loop:
    """Part of a disc or of a ring."""
    outer = min(width, height) / 2 * rng.uniform(1.0, 1.6)
    angle = math.radians(rng.choice((30, 45, 60, 90, 90, 120, 180, 180, 240, 270, rng.uniform(25, 320))))
    end = (math.cos(angle), math.sin(angle))
    if rng.random() < 0.3 and angle < math.radians(330):
        corners = [Corner((0.0, 0.0)), Corner((outer, 0.0), sweep=angle), Corner((outer * end[0], outer * end[1]))]
        if abs(angle - math.pi) < 1e-6:
            corners = corners[1:]
    else:
        inner = outer * rng.uniform(0.3, 0.9)
        ends = math.pi if rng.random() < 0.3 and angle < 4 else 0.0  # a curved slot
        corners = [
            Corner((inner, 0.0), sweep=ends),
            Corner((outer, 0.0), sweep=angle),
            Corner((outer * end[0], outer * end[1]), sweep=ends),
            Corner((inner * end[0], inner * end[1]), sweep=-angle),
        ]
    return _turned(loop_of(corners), rng.randrange(4))


def segment(rng: random.Random, width: float, height: float) -> Loop:
    """A chord and an arc, or two arcs: segments, lenses, crescents."""
    half = max(width, height) / 2
    sweep = rng.choice((math.pi, math.pi, rng.uniform(0.6, 4.8)))
    second = 0.0
    if rng.random() < 0.3:
        second = rng.choice((sweep, rng.uniform(0.5, 3.0), -sweep * rng.uniform(0.3, 0.8)))
    corners = [Corner((-half, 0.0), sweep=second), Corner((half, 0.0), sweep=sweep)]
    return _turned(loop_of(corners), rng.randrange(4))


def bulged(rng: random.Random, width: float, height: float) -> Loop:
    """A polygon with arcs in place of some of its edges."""
    if rng.random() < 0.6:
        w, h = nice(width) / 2, nice(height) / 2
        points = [(-w, -h), (w, -h), (w, h), (-w, h)]
        if rng.random() < 0.3:
            points[0] = (points[0][0] * rng.uniform(0.3, 0.8), -h)
    else:
        angles = [TURN * (i + rng.uniform(-0.25, 0.25)) / 6 for i in range(rng.choice((6, 6, 5)))]
        points = [_nice((width / 2 * math.cos(a), height / 2 * math.sin(a))) for a in angles]
    some = rng.choice((1, 1, 2, 3))
    curved = set(rng.sample(range(len(points)), min(some, len(points))))
    same = rng.choice((math.pi, math.pi / 2, math.pi, None))
    corners = [
        Corner(point, sweep=(same or rng.choice((-1, 1, 1)) * rng.uniform(0.4, 2.6)) if i in curved else 0.0)
        for i, point in enumerate(points)
    ]
    return loop_of(corners)


def wavy(rng: random.Random, width: float, height: float) -> Loop:
    """Lines, arcs and fillets in turn around an uneven polygon."""
    number = int(math.exp(rng.uniform(math.log(5), math.log(28))))
    angles = [TURN * (i + rng.uniform(-0.3, 0.3)) / number for i in range(number)]
    radii = [rng.uniform(0.55, 1.0) for _ in angles]
    points = [
        _nice((r * width / 2 * math.cos(a), r * height / 2 * math.sin(a))) for a, r in zip(angles, radii, strict=True)
    ]
    bow = rng.choice((0.0, 0.5, 0.5))
    size = nice(min(width, height) * rng.uniform(0.01, 0.06))
    sweeps = [rng.uniform(-1.2, 1.6) if rng.random() < bow else 0.0 for _ in points]
    return loop_of(
        [
            Corner(point, 0.0 if sweeps[i] or sweeps[i - 1] or rng.random() < 0.3 else size, sweeps[i])
            for i, point in enumerate(points)
        ]
    )


OUTLINES: dict[str, Callable[[random.Random, float, float], Loop]] = {
    outline.__name__: outline
    for outline in (
        rectangle,
        circle,
        rounded,
        slot,
        skyline,
        polygon,
        mirrored,
        regular,
        toothed,
        teardrop,
        sector,
        segment,
        bulged,
        wavy,
    )
}
PLAIN = ("rectangle", "circle", "rounded", "slot", "regular")  # that need not be fitted
CROSSING = ("bulged", "wavy")  # that may cross themselves


def outline(rng: random.Random, width: float, height: float, weights: Mapping[str, float]) -> Loop:
    """A random outline in a box of this size around the origin; a rectangle where what was drawn crosses itself."""
    name = pick(rng, weights)
    loop = OUTLINES[name](rng, width, height)
    if name in PLAIN:
        return loop
    if min(math.dist(edge.start, edge.end) for edge in loop.edges) < SHORT or (
        name in CROSSING and cross_or_touch([loop])
    ):
        return rectangle(rng, width, height)
    return fitted(loop, width, height)


def fitted(loop: Loop, width: float, height: float) -> Loop:
    """The loop in the middle of a box, made smaller where it is too large."""
    (x, y), (w, h) = box_of((loop,))
    scale = min(1.0, width / w, height / h)
    return mapped(loop, lambda p: ((p[0] - x) * scale, (p[1] - y) * scale), scale)


def mapped(loop: Loop, move: Callable[[Point2], Point2], scale: float = 1.0) -> Loop:
    """The loop with every point moved by a similarity that does not mirror."""
    sketch = map_sketch(Sketch(PLANE, (Profile(loop),)), PLANE, move, scale)
    return sketch.profiles[0].outer


def _turned(loop: Loop, quarters: int) -> Loop:
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    return mapped(loop, lambda p: (p[0] * c - p[1] * s, p[0] * s + p[1] * c)) if quarters else loop


def _nice(point: Point2) -> Point2:
    x, y = (math.copysign(nice(abs(value)), value) for value in point)
    return x, y


def _cleaned(points: list[Point2]) -> list[Point2]:
    """Without corners that are there twice or on a straight line."""
    kept = [point for i, point in enumerate(points) if point != points[i - 1]]
    return [
        (x, y)
        for i, (x, y) in enumerate(kept)
        if not (kept[i - 1][0] == x == kept[(i + 1) % len(kept)][0])
        and not (kept[i - 1][1] == y == kept[(i + 1) % len(kept)][1])
    ]


def _finished(rng: random.Random, points: list[Point2], chance: float) -> Loop:
    """A polygon, by ``chance`` with fillets or chamfers at all of its corners or some."""
    sides = [math.dist(points[i - 1], point) for i, point in enumerate(points)]
    if rng.random() >= chance or min(sides) < SHORT:
        return shapes.polygon(points)
    size = nice(min(sides) * rng.uniform(0.1, 0.48))
    size = size if 2 * size < min(sides) else min(sides) * 0.4
    everywhere = rng.random() < 0.7
    chosen = [everywhere or rng.random() < 0.5 for _ in points]
    if rng.random() < 0.75:
        return loop_of([Corner(point, size if some else 0.0) for point, some in zip(points, chosen, strict=True)])
    out: list[Point2] = []
    for i, ((x, y), some) in enumerate(zip(points, chosen, strict=True)):
        for x1, y1 in (points[i - 1], points[(i + 1) % len(points)]) if some else ():
            share = size / math.dist((x, y), (x1, y1))
            out.append((x + (x1 - x) * share, y + (y1 - y) * share))
        if not some:
            out.append((x, y))
    return shapes.polygon(out)
