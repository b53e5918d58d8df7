"""Where the next sketch can be drawn: caps and sides of what is there, and planes through the midst of it."""

import math
import random
from dataclasses import dataclass, replace

from pipeline.cad.language.program import Arc, Extrude, Line, Loop, Plane, Point2, Vec3, dot
from pipeline.cad.parts.draft import JOIN, NEW
from pipeline.cad.parts.general.bodies import box_of
from pipeline.cad.parts.shapes import AXES

LONG = 0.3  # of an outline: the sides that count


@dataclass(frozen=True, slots=True)
class Face:
    """A place for a sketch.

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


def faces_of(extrude: Extrude) -> list[Face]:
    """The caps of a new prism and its long flat sides, of its first two profiles alone."""
    (sketch,) = extrude.sketches
    low, high = extrude.extent.interval
    plane, out = sketch.plane, []
    for profile in sketch.profiles[:2]:
        centre, size = box_of([profile.outer])
        for height, outward in ((high, 1), (low, -1)):
            cap = replace(plane, origin=plane.to_world((0.0, 0.0), height))
            out.append(Face(cap, centre, size, outward, high - low, profile.outer))
        if extrude.operation in (NEW, JOIN):
            out += _sides(plane, profile.outer, low, high, LONG * max(size))
    return out


def _sides(plane: Plane, outer: Loop, low: float, high: float, least: float) -> list[Face]:
    """The flat sides of a prism, at least so long."""
    turn, around = math.copysign(1.0, outer.signed_area), outer.outline(8)
    beyond = 1.05 if any(isinstance(edge, Arc) for edge in outer.edges) else 1.0  # what lies outside of chords
    out = []
    for edge in outer.edges:
        length = math.dist(edge.start, edge.end)
        if not isinstance(edge, Line) or length < least:
            continue
        dx, dy = ((b - a) / length for a, b in zip(edge.start, edge.end, strict=True))
        x, y = (edge.start[0] + edge.end[0]) / 2, (edge.start[1] + edge.end[1]) / 2
        middle = plane.to_world((x, y), (low + high) / 2)
        side = Plane(middle, _direction(plane, dx, dy), _direction(plane, dy * turn, -dx * turn))
        depth = max((x - u) * dy * turn - (y - v) * dx * turn for u, v in around)
        out.append(Face(side, (0.0, 0.0), (length, high - low), 1, depth * beyond))
    return out


def _direction(plane: Plane, x: float, y: float) -> Vec3:
    """A direction of the plane as one of space."""
    a, b = plane.x_axis, plane.y_axis
    return (x * a[0] + y * b[0], x * a[1] + y * b[1], x * a[2] + y * b[2])


def midst(rng: random.Random, low: Vec3, high: Vec3) -> Face:
    """A plane parallel to a base plane through about the middle of a box."""
    x_axis, normal = AXES[rng.choice(list(AXES))]
    x, y, z = (round(a + b) / 2 for a, b in zip(low, high, strict=True))
    face = Face(Plane((x, y, z), x_axis, normal), (0.0, 0.0), (0.0, 0.0), 0, 0.0)
    width, height, depth = (spread(low, high, axis) for axis in (x_axis, face.plane.y_axis, normal))
    return replace(face, size=(width, height), depth=depth / 2)


def spread(low: Vec3, high: Vec3, axis: Vec3) -> float:
    """How long a box is along an axis, from face to face where the axis is one of its own."""
    return sum(abs(part) * (b - a) for part, a, b in zip(axis, low, high, strict=True))


def middle_of(low: Vec3, high: Vec3, plane: Plane) -> Point2:
    """The middle of a box in a plane's coordinates."""
    o = plane.origin
    away = ((low[0] + high[0]) / 2 - o[0], (low[1] + high[1]) / 2 - o[1], (low[2] + high[2]) / 2 - o[2])
    return (dot(away, plane.x_axis), dot(away, plane.y_axis))


def tilted(rng: random.Random, plane: Plane) -> Plane:
    """The plane turned about one of its axes."""
    angle = math.radians(rng.choice((-1, 1)) * rng.choice((15, 30, 30, 45, 45, 60, rng.uniform(10, 80))))
    c, s = math.cos(angle), math.sin(angle)
    x, y, n = plane.x_axis, plane.y_axis, plane.normal
    if rng.random() < 0.5:
        return replace(plane, normal=_turned(n, y, c, s))
    return replace(plane, x_axis=_turned(x, n, c, -s), normal=_turned(n, x, c, s))


def _turned(a: Vec3, b: Vec3, c: float, s: float) -> Vec3:
    return (a[0] * c + b[0] * s, a[1] * c + b[1] * s, a[2] * c + b[2] * s)
