"""Random sequences: extrusions one after the other on what is there, one to eight of them.

Breadth is the aim, not realism: how often each thing comes is near to what Omni-CAD's models show, and each step
changes the solid.
"""

import math
import random
from dataclasses import replace

from pipeline.cad.language.program import (
    Extent,
    ExtentKind,
    Extrude,
    Operation,
    Plane,
    Point2,
    Profile,
    Sketch,
    Vec3,
    map_sketch,
)
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN, NEW
from pipeline.cad.parts.general.bodies import Body, box_of
from pipeline.cad.parts.general.faces import Face, faces_of, middle_of, midst, spread, tilted
from pipeline.cad.parts.general.outlines import mapped, nice, outline
from pipeline.cad.parts.general.sketches import BUSY, FIRST, LATER, profiles, with_holes
from pipeline.cad.parts.shapes import AXES

STEPS = (0.46, 0.26, 0.12, 0.055, 0.035, 0.03, 0.02, 0.02)  # shares of parts with one extrusion, two, ...
OPERATIONS = {JOIN: 0.43, CUT: 0.34, NEW: 0.18, INTERSECT: 0.05}
BASES = {"top": 0.6, "front": 0.28, "right": 0.09}  # what is left is oblique
# Deciles: a first extrusion's height and a later one's, as shares of the longest side there is; a sketch's aspect.
HEIGHTS = (0.004, 0.022, 0.045, 0.08, 0.12, 0.17, 0.25, 0.36, 0.6, 1.2, 12.0)
RISES = (0.004, 0.018, 0.033, 0.05, 0.075, 0.11, 0.15, 0.21, 0.3, 0.45, 1.0)
ASPECTS = (1.0, 1.0, 1.15, 1.4, 1.7, 2.0, 2.5, 3.2, 4.5, 8.0, 30.0)
SMALL = 0.012  # of the part: no sketch is smaller
TRIES = 4  # at a step; a part for which all fail ends there


def extrusions(rng: random.Random) -> list[Extrude]:
    """A random part in millimetres: each extrusion changes the solid, as far as points can tell."""
    number = rng.choices(range(1, len(STEPS) + 1), STEPS)[0]
    body, made, faces = Body(), list[Extrude](), list[Face]()
    while len(made) < number:
        for _ in range(TRIES):
            step = _later(rng, body, faces) if made else _first(rng)
            if body.add(step):
                made.append(step)
                faces += faces_of(step) if step.operation is not CUT else []
                break
        else:
            if made:
                break
    return made


def _first(rng: random.Random) -> Extrude:
    """A new body on a base plane, or on an oblique one."""
    longest = math.exp(rng.uniform(math.log(20), math.log(300)))
    aspect = _between(rng, ASPECTS)
    width, height = (longest, longest / aspect) if rng.random() < 0.6 else (longest / aspect, longest)
    if rng.random() < 0.15:
        drawn: tuple[Profile, ...] = (with_holes(rng, outline(rng, width, height, BUSY), 0.8),)
    else:
        drawn = profiles(rng, width, height, FIRST, patterned=0.04, divided=0.17)
    rise = nice(max(box_of([profile.outer for profile in drawn])[1]) * _between(rng, HEIGHTS))
    name = rng.choices([*BASES, "oblique"], [*BASES.values(), 1 - sum(BASES.values())])[0]
    x_axis, normal = AXES["top" if name == "oblique" else name]
    plane = Plane((0.0, 0.0, 0.0), x_axis, normal)
    plane = tilted(rng, plane) if name == "oblique" else plane
    at = (nice(rng.uniform(0.1, 1.0) * width), nice(rng.uniform(0.1, 1.0) * height))
    kind = rng.random()
    low = 0.0 if kind < 0.75 else -rise if kind < 0.9 else -rise / 2 if kind < 0.96 else -nice(rise * 0.3)
    return _extrude(rng, plane, drawn, at if rng.random() < 0.2 else (0.0, 0.0), (low, low + rise), NEW)


def _later(rng: random.Random, body: Body, faces: list[Face]) -> Extrude:
    """One more extrusion: whether it changes anything is still to be seen."""
    operation = rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
    low, high = body.box()
    if operation is INTERSECT:
        return _intersection(rng, midst(rng, low, high))
    if operation is NEW and rng.random() < 0.2:
        return _apart(rng, faces[0], low, high)
    face = midst(rng, low, high) if rng.random() < 0.08 else _chosen(rng, faces)
    longest = max(b - a for a, b in zip(low, high, strict=True))
    drawn, size = _drawn(rng, face, SMALL * longest)
    at, plane = _place(rng, face, size), face.plane
    if rng.random() < 0.05:
        plane, at = tilted(rng, replace(plane, origin=plane.to_world(at))), (0.0, 0.0)
    return _extrude(rng, plane, drawn, at, _interval(rng, face, operation, longest), operation)


def _drawn(rng: random.Random, face: Face, least: float) -> tuple[tuple[Profile, ...], tuple[float, float]]:
    """A sketch for a face, around the origin, and the box that it was drawn in, no narrower than ``least``."""
    (width, height), kind = face.size, rng.random()
    if face.outline and kind < 0.12:  # the outline of what is there, smaller
        scale, (x, y) = rng.uniform(0.4, 0.95), face.centre
        loop = mapped(face.outline, lambda p: ((p[0] - x) * scale, (p[1] - y) * scale), scale)
        return (Profile(loop),), (width * scale, height * scale)
    if kind < 0.37:  # as long as the face
        fit = (1.0, rng.uniform(0.05, 0.7)) if rng.random() < 0.5 else (rng.uniform(0.05, 0.7), 1.0)
    elif kind < 0.47:
        fit = (1.0, 1.0)
    else:
        fit = (rng.uniform(0.12, 0.95), rng.uniform(0.12, 0.95))
    w, h = max(width * fit[0], least), max(height * fit[1], least)
    if rng.random() < 0.25:
        w = h = min(w, h)
    return profiles(rng, w, h, LATER, patterned=0.25, divided=0.1), (w, h)


def _place(rng: random.Random, face: Face, size: tuple[float, float]) -> Point2:
    """The centre of a sketch: in the middle of a face or on a line through it, anywhere, at an edge or over it."""
    (x, y), where = face.centre, rng.random()
    free_x, free_y = (face.size[0] - size[0]) / 2, (face.size[1] - size[1]) / 2
    if where < 0.5:
        return x, y
    if where < 0.85:
        x += rng.uniform(-1, 1) * free_x
    else:
        x += rng.choice((-1, 1)) * (free_x + (size[0] / 2 if where > 0.93 else 0.0))
    return x, y + (rng.uniform(-1, 1) * free_y if rng.random() < 0.7 else 0.0)


def _interval(rng: random.Random, face: Face, operation: Operation, longest: float) -> tuple[float, float]:
    """From where to where along the normal."""
    if face.outward == 0:
        if operation is CUT:
            half = nice(face.depth * (rng.uniform(0.2, 0.9) if rng.random() < 0.4 else 1.1) + 0.5)
        else:
            half = nice(face.depth + longest * _between(rng, RISES))
        return -half, half
    if operation is CUT:
        kind = rng.random()
        away = -face.depth if kind < 0.4 else -nice(face.depth * rng.uniform(0.1, 0.9))
        away = away if kind < 0.78 else -nice(face.depth * rng.uniform(1.05, 1.2) + 0.2 * longest * rng.random())
        back = 0.0 if rng.random() < 0.92 else -away
    else:
        away = nice(longest * _between(rng, RISES))
        back = 0.0 if rng.random() < 0.9 else -nice(face.depth * rng.uniform(0.1, 1.0))
    begin, end = sorted((away * face.outward, back * face.outward))
    return begin, end


def _apart(rng: random.Random, face: Face, low: Vec3, high: Vec3) -> Extrude:
    """A body beside what is there, in the plane of the first sketch."""
    plane = face.plane
    width, height = (spread(low, high, axis) for axis in (plane.x_axis, plane.y_axis))
    x, y = middle_of(low, high, plane)
    w, h = nice(width * rng.uniform(0.2, 1.0)), nice(height * rng.uniform(0.2, 1.0))
    side, gap = rng.choice((-1, 1)), rng.choice((1.0, rng.uniform(1.0, 1.5)))
    if rng.random() < 0.5:
        x += side * nice((width + w) / 2 * gap)
    else:
        y += side * nice((height + h) / 2 * gap)
    rise = nice(max(width, height) * _between(rng, RISES)) * rng.choice((-1, -1, 1)) * face.outward
    drawn = profiles(rng, w, h, LATER, patterned=0.05, divided=0.05)
    return _extrude(rng, plane, drawn, (x, y), (min(0.0, rise), max(0.0, rise)), NEW)


def _intersection(rng: random.Random, face: Face) -> Extrude:
    """A profile about as large as what is there, through all of it."""
    w, h = (nice(side * rng.uniform(0.7, 1.05)) for side in face.size)
    drawn = (with_holes(rng, outline(rng, w, h, FIRST), 0.1),)
    half = nice(face.depth * 1.1 + 0.5)
    return _extrude(rng, face.plane, drawn, face.centre, (-half, half), INTERSECT)


def _chosen(rng: random.Random, faces: list[Face]) -> Face:
    """Large faces and new ones more often."""
    weights = [math.sqrt(face.size[0] * face.size[1]) * (1 + i / len(faces)) for i, face in enumerate(faces)]
    return rng.choices(faces, weights)[0]


def _extrude(
    rng: random.Random,
    plane: Plane,
    drawn: tuple[Profile, ...],
    at: Point2,
    interval: tuple[float, float],
    operation: Operation,
) -> Extrude:
    """Profiles moved to a place and extruded over an interval; at times the sketch faces the other way."""
    sketch = map_sketch(Sketch(plane, drawn), plane, lambda p: (p[0] + at[0], p[1] + at[1]))
    low, high = interval
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


def _between(rng: random.Random, deciles: tuple[float, ...]) -> float:
    """A number whose logarithm is spread evenly between neighbouring deciles."""
    place = rng.random() * (len(deciles) - 1)
    low, high = (math.log(decile) for decile in deciles[int(place) : int(place) + 2])
    return math.exp(low + (high - low) * (place % 1))
