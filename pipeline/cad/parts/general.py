"""Parts of no family: random sketches, extruded one after the other on what is there, one to eight times.

Breadth is the aim, not realism: how often each thing comes is near to what Omni-CAD's models show, and each step
changes the solid.
"""

import math
import random
from dataclasses import dataclass, replace

from pipeline.cad.language.program import (
    Extent,
    ExtentKind,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Sketch,
    Vec3,
    dot,
    map_sketch,
)
from pipeline.cad.parts import general_sketches as sketches
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN, NEW
from pipeline.cad.parts.general_judge import Body, Region
from pipeline.cad.parts.general_outlines import PLANE, mapped, nice, outline
from pipeline.cad.parts.shapes import AXES

STEPS = (0.46, 0.26, 0.12, 0.055, 0.035, 0.03, 0.02, 0.02)  # shares of parts with one extrusion, two, ...
OPERATIONS = {JOIN: 0.43, CUT: 0.34, NEW: 0.18, INTERSECT: 0.05}
BASES = {"top": 0.6, "front": 0.28, "right": 0.09}  # what is left is oblique
# Deciles: a first extrusion's height and a later one's, as shares of the longest side there is; a sketch's aspect.
HEIGHTS = (0.004, 0.022, 0.045, 0.08, 0.12, 0.17, 0.25, 0.36, 0.6, 1.2, 12.0)
RISES = (0.004, 0.018, 0.033, 0.05, 0.075, 0.11, 0.15, 0.21, 0.3, 0.45, 1.0)
ASPECTS = (1.0, 1.0, 1.15, 1.4, 1.7, 2.0, 2.5, 3.2, 4.5, 8.0, 30.0)
SMALL = 0.012  # of the part: no sketch is smaller
TRIES = 4  # at a step; what fails them all is left out


@dataclass(frozen=True, slots=True)
class Face:
    """Where a sketch can be drawn.

    Attributes:
        centre: of the box of what is there, in the plane.
        size: of that box.
        outward: 1 where the normal leads out of the solid, -1 where it leads in, 0 in the midst of it.
        depth: of the solid behind it.
        outline: of what is there; None for a rectangle.
    """

    plane: Plane
    centre: Point2
    size: tuple[float, float]
    outward: int
    depth: float
    outline: Loop | None = None


def extrusions(rng: random.Random) -> list[Extrude]:
    """A random part in millimetres: each extrusion changes the solid, as far as points can tell."""
    number = rng.choices(range(1, len(STEPS) + 1), STEPS)[0]
    body, made, faces = Body(), list[Extrude](), list[Face]()
    while not made:
        first = _first(rng)
        if body.add(first):
            made.append(first)
            faces += _faces(first)
    while len(made) < number:
        for _ in range(TRIES):
            step = _step(rng, body, faces)
            if body.add(step):
                made.append(step)
                faces += _faces(step) if step.operation is not CUT else []
                break
        else:
            break
    return made


def _first(rng: random.Random) -> Extrude:
    longest = math.exp(rng.uniform(math.log(20), math.log(300)))
    aspect = _quantile(rng, ASPECTS)
    width, height = (longest, longest / aspect) if rng.random() < 0.6 else (longest / aspect, longest)
    if rng.random() < 0.15:
        profiles: tuple[Profile, ...] = (sketches.with_holes(rng, outline(rng, width, height, sketches.BUSY), 0.8),)
    else:
        profiles = sketches.profiles(rng, width, height, sketches.FIRST, 0.05, 0.17)
    left, bottom, right, top = Region.of([profile.outer for profile in profiles]).box
    rise = nice(max(right - left, top - bottom) * _quantile(rng, HEIGHTS))
    name = rng.choices([*BASES, "oblique"], [*BASES.values(), 1 - sum(BASES.values())])[0]
    x_axis, normal = AXES["top" if name == "oblique" else name]
    plane = Plane((0.0, 0.0, 0.0), x_axis, normal)
    plane = _tilted(rng, plane) if name == "oblique" else plane
    if rng.random() < 0.2:
        profiles = _shifted(profiles, nice(rng.uniform(0.1, 1.0) * width), nice(rng.uniform(0.1, 1.0) * height))
    kind = rng.random()
    low = 0.0 if kind < 0.75 else -rise if kind < 0.9 else -rise / 2 if kind < 0.96 else -nice(rise * 0.3)
    return _extrude(rng, plane, profiles, low, low + rise, NEW)


def _step(rng: random.Random, body: Body, faces: list[Face]) -> Extrude:
    """One more extrusion on what is there: whether it changes anything is still to be seen."""
    operation = rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
    low, high = body.box()
    longest = max(b - a for a, b in zip(low, high, strict=True))
    if operation is NEW and rng.random() < 0.3:
        return _apart(rng, faces[0], low, high, longest)
    face = _midst(rng, low, high) if operation is INTERSECT or rng.random() < 0.08 else _chosen(rng, faces)
    if operation is INTERSECT:
        return _intersection(rng, face)
    width, height = face.size
    x, y = face.centre
    share, least = rng.random(), SMALL * longest
    if share < 0.25:  # as long as the face
        fit = (1.0, rng.uniform(0.05, 0.7)) if rng.random() < 0.5 else (rng.uniform(0.05, 0.7), 1.0)
    elif share < 0.35:
        fit = (1.0, 1.0)
    else:
        fit = (rng.uniform(0.12, 0.95), rng.uniform(0.12, 0.95))
    w, h = width * fit[0], height * fit[1]
    if rng.random() < 0.25 and min(w, h) > 0:
        w = h = min(w, h)
    if face.outline and share > 0.88:
        scale, middle = rng.uniform(0.4, 0.95), face.centre
        profiles: tuple[Profile, ...] = (
            Profile(mapped(face.outline, lambda p: ((p[0] - middle[0]) * scale, (p[1] - middle[1]) * scale), scale)),
        )
        w, h = width * scale, height * scale
    else:
        profiles = sketches.profiles(rng, max(w, least), max(h, least), sketches.LATER, 0.25, 0.1)
    where = rng.random()
    free_x, free_y = (width - w) / 2, (height - h) / 2
    if where > 0.5:
        x += rng.uniform(-1, 1) * free_x if where < 0.85 else rng.choice((-1, 1)) * (free_x + w / 2 * (where > 0.93))
    if where > 0.65:
        y += rng.uniform(-1, 1) * free_y
    plane = face.plane
    if rng.random() < 0.05:
        plane = _tilted(rng, replace(plane, origin=plane.to_world((x, y))))
        x, y = 0.0, 0.0
    begin, end = _interval(rng, face, operation, longest)
    return _extrude(rng, plane, _shifted(profiles, x, y), begin, end, operation)


def _interval(rng: random.Random, face: Face, operation: Operation, longest: float) -> tuple[float, float]:
    """From where to where along the normal."""
    if face.outward == 0:
        half = nice(face.depth * (rng.uniform(0.2, 0.9) if rng.random() < 0.4 else 1.0))
        half += nice(longest * _quantile(rng, RISES)) if operation is not CUT else 0.0
        return -half, half
    if operation is CUT:
        kind = rng.random()
        away = -face.depth if kind < 0.4 else -nice(face.depth * rng.uniform(0.1, 0.9))
        away = away if kind < 0.78 else -nice(face.depth * rng.uniform(1.05, 1.2) + 0.2 * longest * rng.random())
        back = 0.0 if rng.random() < 0.92 else -away
    else:
        away = nice(longest * _quantile(rng, RISES))
        back = 0.0 if rng.random() < 0.9 else -nice(face.depth * rng.uniform(0.1, 1.0))
    begin, end = sorted((away * face.outward, back * face.outward))
    return begin, end


def _apart(rng: random.Random, face: Face, low: Vec3, high: Vec3, longest: float) -> Extrude:
    """A body beside what is there, in the plane of the first sketch."""
    plane = face.plane
    width, height = (
        max(abs(dot((high[0] - low[0], high[1] - low[1], high[2] - low[2]), _absolute(axis))), 1.0)
        for axis in (plane.x_axis, plane.y_axis)
    )
    middle = tuple((a + b) / 2 - o for a, b, o in zip(low, high, plane.origin, strict=True))
    x, y = (dot((middle[0], middle[1], middle[2]), axis) for axis in (plane.x_axis, plane.y_axis))
    w, h = nice(width * rng.uniform(0.2, 1.0)), nice(height * rng.uniform(0.2, 1.0))
    profiles = sketches.profiles(rng, w, h, sketches.LATER, 0.05, 0.05)
    gap = 0.5 + rng.choice((0.5, rng.uniform(0.5, 1.0)))
    if rng.random() < 0.5:
        x += rng.choice((-1, 1)) * nice((width + w) / 2 * gap)
    else:
        y += rng.choice((-1, 1)) * nice((height + h) / 2 * gap)
    rise = nice(longest * _quantile(rng, RISES))
    begin, end = (-rise, 0.0) if face.outward * rng.choice((-1, -1, 1)) > 0 else (0.0, rise)
    return _extrude(rng, plane, _shifted(profiles, x, y), begin, end, NEW)


def _intersection(rng: random.Random, face: Face) -> Extrude:
    """A profile about as large as what is there, through all of it."""
    w, h = (nice(side * rng.uniform(0.7, 1.05)) for side in face.size)
    profiles = (sketches.with_holes(rng, outline(rng, w, h, sketches.FIRST), 0.1),)
    half = nice(face.depth * 1.05)
    return _extrude(rng, face.plane, _shifted(profiles, *face.centre), -half, half, INTERSECT)


def _chosen(rng: random.Random, faces: list[Face]) -> Face:
    """Large faces and new ones more often."""
    weights = [math.sqrt(face.size[0] * face.size[1]) * (1 + i / len(faces)) for i, face in enumerate(faces)]
    return rng.choices(faces, weights)[0]


def _midst(rng: random.Random, low: Vec3, high: Vec3) -> Face:
    """A plane parallel to a base plane through the middle of a box."""
    x_axis, normal = AXES[rng.choice(list(AXES))]
    middle = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2
    plane = Plane((nice_at(middle[0]), nice_at(middle[1]), nice_at(middle[2])), x_axis, normal)
    size = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    width, height, depth = (dot(size, _absolute(axis)) for axis in (x_axis, plane.y_axis, normal))
    return Face(plane, (0.0, 0.0), (width, height), 0, depth / 2)


def nice_at(place: float) -> float:
    """A place in halves."""
    return round(place * 2) / 2


def _faces(extrude: Extrude) -> list[Face]:
    """The caps of a new prism, and the flat sides of its first profile that are large."""
    (sketch,) = extrude.sketches
    low, high = extrude.extent.interval
    plane = sketch.plane
    out = []
    for profile in sketch.profiles[:2]:
        left, bottom, right, top = Region.of([profile.outer]).box
        centre, size = ((left + right) / 2, (bottom + top) / 2), (right - left, top - bottom)
        for height, outward in ((high, 1), (low, -1)):
            cap = replace(plane, origin=plane.to_world((0.0, 0.0), height))
            out.append(Face(cap, centre, size, outward, high - low, profile.outer))
    outer = sketch.profiles[0].outer
    turn = 1.0 if outer.signed_area > 0 else -1.0
    longest, around = max(size), outer.outline(2)
    for edge in outer.edges:
        length = math.dist(edge.start, edge.end)
        if isinstance(edge, Line) and length > 0.3 * longest and extrude.operation in (NEW, JOIN):
            dx, dy = ((b - a) / length for a, b in zip(edge.start, edge.end, strict=True))
            along = _world(plane, dx, dy)
            normal = _world(plane, dy * turn, -dx * turn)
            middle = ((edge.start[0] + edge.end[0]) / 2, (edge.start[1] + edge.end[1]) / 2)
            side = Plane(plane.to_world(middle, (low + high) / 2), along, normal)
            depth = max((middle[0] - x) * dy * turn - (middle[1] - y) * dx * turn for x, y in around)
            out.append(Face(side, (0.0, 0.0), (length, high - low), 1, depth))
    return out


def _world(plane: Plane, x: float, y: float) -> Vec3:
    """A direction of the plane as one of space."""
    a, b = plane.x_axis, plane.y_axis
    return (x * a[0] + y * b[0], x * a[1] + y * b[1], x * a[2] + y * b[2])


def _absolute(axis: Vec3) -> Vec3:
    return (abs(axis[0]), abs(axis[1]), abs(axis[2]))


def _tilted(rng: random.Random, plane: Plane) -> Plane:
    """The plane turned about one of its axes."""
    angle = math.radians(rng.choice((-1, 1)) * rng.choice((15, 30, 30, 45, 45, 60, rng.uniform(10, 80))))
    c, s = math.cos(angle), math.sin(angle)
    x, y, n = plane.x_axis, plane.y_axis, plane.normal
    if rng.random() < 0.5:
        return replace(plane, normal=(n[0] * c + y[0] * s, n[1] * c + y[1] * s, n[2] * c + y[2] * s))
    return replace(
        plane,
        x_axis=(x[0] * c - n[0] * s, x[1] * c - n[1] * s, x[2] * c - n[2] * s),
        normal=(n[0] * c + x[0] * s, n[1] * c + x[1] * s, n[2] * c + x[2] * s),
    )


def _shifted(profiles: tuple[Profile, ...], x: float, y: float) -> tuple[Profile, ...]:
    sketch = Sketch(PLANE, profiles)
    return map_sketch(sketch, PLANE, lambda p: (p[0] + x, p[1] + y)).profiles


def _extrude(
    rng: random.Random, plane: Plane, profiles: tuple[Profile, ...], low: float, high: float, operation: Operation
) -> Extrude:
    """From ``low`` to ``high`` along the normal, at times along the normal's opposite."""
    sketch = Sketch(plane, profiles)
    if rng.random() < 0.05:
        normal = (-plane.normal[0], -plane.normal[1], -plane.normal[2])
        sketch = map_sketch(sketch, replace(plane, normal=normal), lambda p: (p[0], -p[1]), mirrored=True)
        low, high = -high, -low
    if abs(low + high) < 1e-9:
        extent = Extent(ExtentKind.SYMMETRIC, high)
    elif low < 0 < high:
        extent = Extent(ExtentKind.TWO_SIDED, high, -low)
    else:
        extent = Extent(ExtentKind.ONE_SIDED, high if low >= 0 else low)
    return Extrude((sketch,), operation, extent)


def _quantile(rng: random.Random, deciles: tuple[float, ...]) -> float:
    """A number whose logarithm is spread evenly between neighbouring deciles."""
    place = rng.random() * (len(deciles) - 1)
    i = int(place)
    low, high = (math.log(decile) for decile in deciles[i : i + 2])
    return math.exp(low + (high - low) * (place - i))
