"""What scripts of both libraries are read into: loops, planes and bodies, each checked as it is made."""

import math
import reprlib
from dataclasses import dataclass, replace
from typing import Any

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
    dot,
)

MAX_MM = 1e9
MAX_EXTRUDES = 1000
TOUCH_MM = 1e-6  # points nearer than that are one


class ScriptError(Exception):
    """What a rule says of a statement; the line is added where the statement is known."""


@dataclass(frozen=True, slots=True)
class Body:
    """What has been extruded so far; lengths are millimetres.

    Attributes:
        extrudes: in order; the first one's operation is new.
    """

    extrudes: tuple[Extrude, ...]

    def beside(self, other: "Body") -> "Body":
        """Both as profiles of one extrusion."""
        if len(self.extrudes) != 1 or len(other.extrudes) != 1:
            raise ScriptError("only single extrusions can be put together")
        (one,), (two,) = self.extrudes, other.extrudes
        if one.extent != two.extent:
            raise ScriptError("extrusions that are put together reach equally far")
        *before, last = one.sketches
        first, *rest = two.sketches
        if last.plane == first.plane:
            before, rest = [*before, Sketch(last.plane, last.profiles + first.profiles)], list(rest)
        else:
            before, rest = [*before, last], [first, *rest]
        return Body((replace(one, sketches=(*before, *rest)),))

    def combined(self, operation: Operation, other: "Body") -> "Body":
        """This and then ``other``; one that is itself a combination can only be added, where it adds alone."""
        if not self.extrudes:
            return other if operation is Operation.JOIN else Body(())
        adds = all(extrude.operation in (Operation.NEW, Operation.JOIN) for extrude in other.extrudes)
        if len(other.extrudes) > 1 and not (operation is Operation.JOIN and adds):
            raise ScriptError(f"only a single extrusion can {operation}")
        if len(self.extrudes) + len(other.extrudes) > MAX_EXTRUDES:
            raise ScriptError(f"more than {MAX_EXTRUDES} extrusions")
        return Body(self.extrudes + tuple(replace(extrude, operation=operation) for extrude in other.extrudes))


def extruded(profiles: tuple[Profile, ...], plane: Plane, offset: float, amount: float, both: bool) -> Body:
    """Profiles from ``offset`` above their plane, by ``amount`` along its normal, or by that to both sides."""
    if not profiles:
        raise ScriptError("nothing is drawn that could be extruded")
    if abs(amount) < TOUCH_MM:
        raise ScriptError("an extrusion by 0")
    low, high = min(offset, offset + amount), max(offset, offset + amount)
    if both:
        extent = Extent(ExtentKind.SYMMETRIC, abs(amount))
        plane = replace(plane, origin=plane.to_world((0.0, 0.0), offset))
    elif low < 0 < high:
        extent = Extent(ExtentKind.TWO_SIDED, high, -low)
    else:
        plane = replace(plane, origin=plane.to_world((0.0, 0.0), offset))
        extent = Extent(ExtentKind.ONE_SIDED, amount)
    return Body((Extrude((Sketch(plane, profiles),), Operation.NEW, extent),))


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


def profile(loops: tuple[Loop, ...]) -> Profile:
    """A region: the largest of the loops less the others, which lie within it."""
    outer = max(loops, key=lambda loop: abs(loop.signed_area))
    holes = tuple(loop for loop in loops if loop is not outer)
    (left, low), (right, high) = _box(outer)
    reach = TOUCH_MM + 1e-3 * max(right - left, high - low)  # arcs are looked at by some of their points
    for hole in holes:
        (x0, y0), (x1, y1) = _box(hole)
        if x0 < left - reach or x1 > right + reach or y0 < low - reach or y1 > high + reach:
            raise ScriptError("a loop beside another in one sketch: give each an extrusion of its own")
    return Profile(outer, holes)


def _box(loop: Loop) -> tuple[Point2, Point2]:
    xs, ys = zip(*loop.outline(), strict=True)
    return (min(xs), min(ys)), (max(xs), max(ys))


def switch(value: Any) -> bool:
    """``True`` or ``False``, checked."""
    if not isinstance(value, bool):
        raise ScriptError(f"{shown(value)} is neither True nor False")
    return value


def shown(value: Any) -> str:
    """A value in a message: not all of it, which tuples of tuples would make endless."""
    known = isinstance(value, float | str | tuple | list)
    return f"{reprlib.repr(value):.40}" if known else f"a {type(value).__name__}"
