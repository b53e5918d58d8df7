"""Loops and extrusions by what a draughtsman calls them: building blocks of synthetic parts and of tests."""

import math

from pipeline.cad.language.program import (
    Arc,
    Circle,
    Edge,
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
)

AXES: dict[str, tuple[Vec3, Vec3]] = {  # x axis and normal of a sketch plane
    "top": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "front": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "right": ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
}


def rectangle(width: float, height: float, x: float = 0.0, y: float = 0.0) -> Loop:
    """Centred on (x, y)."""
    a, b = width / 2, height / 2
    return polygon([(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)])


def polygon(points: list[Point2]) -> Loop:
    """Straight edges through the points and back."""
    return Loop(tuple(Line(points[i], points[(i + 1) % len(points)]) for i in range(len(points))))


def circle(diameter: float, x: float = 0.0, y: float = 0.0) -> Loop:
    """A full circle around (x, y)."""
    return Loop((Circle((x, y), diameter / 2),))


def rounded(width: float, height: float, radius: float, x: float = 0.0, y: float = 0.0) -> Loop:
    """A rectangle with filleted corners; a slot where ``radius`` is half the height."""
    a, b = width / 2, height / 2
    corners = [(x + a, y - b), (x + a, y + b), (x - a, y + b), (x - a, y - b)]
    turns = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]  # direction of travel before each corner
    edges: list[Edge] = []
    previous: Point2 | None = None
    for (cx, cy), (dx, dy) in zip(corners, turns, strict=True):
        enter = (cx - dx * radius, cy - dy * radius)
        leave = (cx - dy * radius, cy + dx * radius)
        if previous is not None and math.dist(previous, enter) > 1e-9:
            edges.append(Line(previous, enter))
        edges.append(Arc.through(enter, leave, math.pi / 2))
        previous = leave
    first = edges[0].start
    if previous is not None and math.dist(previous, first) > 1e-9:
        edges.append(Line(previous, first))
    return Loop(tuple(edges))


def regular(sides: int, across_flats: float, phase: float = 0.0) -> Loop:
    """A regular polygon around the origin, by the distance of opposite flats."""
    radius = across_flats / 2 / math.cos(math.pi / sides)
    angles = [phase + 2 * math.pi * i / sides for i in range(sides)]
    return polygon([(radius * math.cos(a), radius * math.sin(a)) for a in angles])


def ring_of(number: int, diameter: float, hole: float, phase: float = 0.0) -> list[Loop]:
    """Circles evenly spaced on a bolt circle."""
    angles = [phase + 2 * math.pi * i / number for i in range(number)]
    return [circle(hole, diameter / 2 * math.cos(a), diameter / 2 * math.sin(a)) for a in angles]


def extrude(
    plane: str,
    profiles: list[Profile] | Loop,
    extent: float | Extent,
    operation: Operation = Operation.NEW,
    at: Vec3 = (0.0, 0.0, 0.0),
) -> Extrude:
    """One extrusion; a number is a one-sided distance."""
    x_axis, normal = AXES[plane]
    drawn = [Profile(profiles)] if isinstance(profiles, Loop) else profiles
    sized = extent if isinstance(extent, Extent) else Extent(ExtentKind.ONE_SIDED, float(extent))
    return Extrude((Sketch(Plane(at, x_axis, normal), tuple(drawn)),), operation, sized)


def symmetric(half: float) -> Extent:
    """``half`` to each side of the sketch."""
    return Extent(ExtentKind.SYMMETRIC, half)


def two_sided(one: float, two: float) -> Extent:
    """``one`` along the normal, ``two`` against it."""
    return Extent(ExtentKind.TWO_SIDED, one, two)
