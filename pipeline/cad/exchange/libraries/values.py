"""What scripts of both libraries are read into: numbers, planes, loops and regions, each checked as it is made."""

import math
import reprlib
from typing import Any

import numpy as np

from pipeline.cad.language.planar import cross_or_touch
from pipeline.cad.language.program import Arc, Circle, Edge, Line, Loop, Plane, Point2, Profile, Vec3, dot
from pipeline.cad.language.regions import Regions

MAX_MM = 1e9
MAX_LOOPS = 1000  # in a sketch
MAX_CURVES = 20_000  # in a part
TOUCH_MM = 1e-6  # points nearer than that are one


class ScriptError(Exception):
    """What a rule says of a statement.

    Attributes:
        line: where, as soon as that is known.
    """

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


def number(value: Any) -> float:
    """A length or a direction's part, checked."""
    if isinstance(value, bool) or not isinstance(value, float):
        raise ScriptError(f"{shown(value)} is not a number")
    if not abs(value) <= MAX_MM:
        raise ScriptError(f"{value:g} is out of range")
    return value


def vector(value: Any, size: int) -> tuple[float, ...]:
    """A tuple of so many numbers, checked."""
    if not isinstance(value, tuple) or len(value) != size:
        raise ScriptError(f"{shown(value)} is not a tuple of {size} numbers")
    return tuple(number(part) for part in value)


def point2(*value: Any) -> Point2:
    """Two numbers, or one tuple of them."""
    x, y = vector(value[0] if len(value) == 1 else value, 2)
    return x, y


def plane(origin: Any, x_axis: Any, normal: Any) -> Plane:
    """A sketch plane; axes are made unit vectors at right angles, as the libraries do."""
    o, x, z = vector(origin, 3), vector(x_axis, 3), vector(normal, 3)
    n = _unit((z[0], z[1], z[2]))
    along = dot((x[0], x[1], x[2]), n)
    return Plane((o[0], o[1], o[2]), _unit((x[0] - along * n[0], x[1] - along * n[1], x[2] - along * n[2])), n)


def _unit(direction: Vec3) -> Vec3:
    length = math.sqrt(dot(direction, direction))
    if length < 1e-9:
        raise ScriptError("a plane's axes are parallel, or one has no length")
    return direction[0] / length, direction[1] / length, direction[2] / length


NAMED_PLANES = {
    "XY": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    "YZ": ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    "ZX": ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    "XZ": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "YX": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "ZY": ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)),
}


def named_plane(name: str) -> Plane:
    """One of the planes through the origin."""
    if name not in NAMED_PLANES:
        raise ScriptError(f"no plane {name!r:.40}; there are {', '.join(NAMED_PLANES)}")
    return Plane((0.0, 0.0, 0.0), *NAMED_PLANES[name])


def arc_through(start: Point2, middle: Point2, end: Point2) -> Edge:
    """The arc from ``start`` over ``middle`` to ``end``."""
    (ax, ay), (bx, by), (cx, cy) = start, middle, end
    d = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    size = max(math.dist(start, middle), math.dist(middle, end))
    if abs(d) <= 1e-12 * size * size or math.dist(start, end) <= TOUCH_MM:
        raise ScriptError("an arc's three points lie on a line")
    a, b, c = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
    centre = ((a * (by - cy) + b * (cy - ay) + c * (ay - by)) / d, (a * (cx - bx) + b * (ax - cx) + c * (bx - ax)) / d)
    begins, ends = (math.atan2(y - centre[1], x - centre[0]) for x, y in (start, end))
    turn = (ends - begins) % (2 * math.pi)
    return Arc(start, end, centre, turn if d > 0 else turn - 2 * math.pi)


def circle(centre: Point2, radius: Any) -> Loop:
    """A circle by itself."""
    if number(radius) <= 0:
        raise ScriptError(f"a circle of radius {radius:g}")
    return Loop((Circle(centre, radius),))


def rectangle(centre: Point2, width: Any, height: Any) -> Loop:
    """A rectangle around a point."""
    if not (number(width) > 0 and number(height) > 0):
        raise ScriptError(f"a rectangle of {width:g} x {height:g}")
    x, y = centre
    w, h = width / 2, height / 2
    corners = [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]
    return Loop(tuple(Line(corners[i - 1], corners[i]) for i in range(4)))


def closed_loop(edges: tuple[Edge, ...]) -> Loop:
    """Edges head to tail as a loop."""
    if len(edges) < 2:
        raise ScriptError("a loop of less than two edges")
    for i, edge in enumerate(edges):
        if math.dist(edges[i - 1].end, edge.start) > TOUCH_MM * 10:
            raise ScriptError("a loop whose edges do not meet")
    return Loop(edges)


def profiles(loops: tuple[Loop, ...]) -> tuple[Profile, ...]:
    """The regions that loops bound: each that is in no other, less those within it."""
    if len(loops) < 2:
        return tuple(map(Profile, loops))
    if len(loops) > MAX_LOOPS:
        raise ScriptError(f"more than {MAX_LOOPS} loops in one sketch")
    order = sorted(range(len(loops)), key=lambda i: -abs(loops[i].signed_area))
    ordered = tuple(loops[i] for i in order)
    if not abs(ordered[-1].signed_area) > 0:
        raise ScriptError("a loop around nothing")
    within = _within(ordered)
    depth = within.sum(axis=0)
    if (depth == 0).sum() > 1 and cross_or_touch(loops):  # holes of one outline may touch it
        raise ScriptError("loops that cross or touch in one sketch: give each an extrusion of its own")
    if depth.max() > 1:  # CadQuery would take it off twice
        raise ScriptError("a loop within a hole of the same sketch: give it an extrusion of its own")
    holes = {order[i]: sorted(order[k] for k in np.flatnonzero(within[i])) for i in np.flatnonzero(depth == 0)}
    return tuple(Profile(loops[i], tuple(loops[k] for k in holes[i])) for i in sorted(holes))


def _within(loops: tuple[Loop, ...]) -> np.ndarray:
    """(L, L) bool: whether the second is in the first, the larger: by most of the middles of its curves."""
    regions = Regions.of([Profile(loop) for loop in loops])
    middles = [np.array([complex(*point) for point in _middles(loop)]) for loop in loops]
    ends = np.cumsum([len(each) for each in middles])
    within = np.zeros((len(loops), len(loops)), bool)
    for i in range(len(loops) - 1):
        places = np.concatenate(middles[i + 1 :]) - regions.centres[i]
        found = regions.contains(i, np.array([places.real, places.imag, np.ones(len(places))]))
        starts = ends[i:-1] - ends[i]
        within[i, i + 1 :] = np.add.reduceat(found, starts) * 2 > np.diff([*starts, len(found)])
    return within


def _middles(loop: Loop) -> list[Point2]:
    first = loop.curves[0]
    if isinstance(first, Circle):
        (x, y), r = first.centre, first.radius
        return [(x + r * math.cos(turn), y + r * math.sin(turn)) for turn in (0.3, 2.4, 4.5)]
    return [
        edge.at(0.5)
        if isinstance(edge, Arc)
        else ((edge.start[0] + edge.end[0]) / 2, (edge.start[1] + edge.end[1]) / 2)
        for edge in loop.edges
    ]


def whole(value: Any, least: int = 1, most: int = MAX_LOOPS) -> int:
    """A count, checked."""
    if not number(value).is_integer() or not least <= value <= most:
        raise ScriptError(f"{value:g} is no number from {least} to {most}")
    return int(value)


def switch(value: Any) -> bool:
    """``True`` or ``False``, checked."""
    if not isinstance(value, bool):
        raise ScriptError(f"{shown(value)} is neither True nor False")
    return value


def shown(value: Any) -> str:
    """A value in a message: not all of it, which tuples of tuples would make endless."""
    known = isinstance(value, float | str | tuple | list)
    return f"{reprlib.repr(value):.40}" if known else f"a {type(value).__name__}"
