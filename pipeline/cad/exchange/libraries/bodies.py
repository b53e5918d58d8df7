"""What has been extruded by a script so far: how bodies are put together, moved, and where their faces lie."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.cad.exchange.libraries.values import MAX_CURVES, TOUCH_MM, ScriptError
from pipeline.cad.language.program import (
    CadProgram,
    Extent,
    ExtentKind,
    Extrude,
    Line,
    Operation,
    Plane,
    Profile,
    Sketch,
    Vec3,
    axis_of,
    cross,
    dot,
    map_sketch,
)
from pipeline.cad.solids.prisms import bounds, inside
from pipeline.runtime.errors import RejectError

MAX_EXTRUDES = 1000
ADDS = (Operation.NEW, Operation.JOIN)
NEAR = 1e-6  # relative
MOST_POINTS = 20_000
GRID = 24  # points to a side, where a face is looked for


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
        return _bounded(Body((replace(one, sketches=(*before, *rest)),)))

    def combined(self, operation: Operation, other: "Body") -> "Body":
        """This and then ``other``, where the language can say it: it has no brackets.

        Raises:
            ScriptError: it cannot.
        """
        if not self.extrudes:
            return other if operation is Operation.JOIN else Body(())
        if not other.extrudes:
            raise ScriptError("nothing has been extruded that could be combined")
        first, *rest = other.extrudes
        order = _in_order(operation, self, replace(first, operation=operation), rest)
        if len(order) > MAX_EXTRUDES:
            raise ScriptError(f"more than {MAX_EXTRUDES} extrusions")
        return _bounded(Body(order))

    def moved(self, point: Callable[[Vec3], Vec3], direction: Callable[[Vec3], Vec3], mirrored: bool = False) -> "Body":
        """The body after a motion, which is given for points and for directions."""

        def sketch_of(sketch: Sketch) -> Sketch:
            old = sketch.plane
            plane = Plane(point(old.origin), direction(old.x_axis), direction(old.normal))
            return map_sketch(sketch, plane, lambda at: (at[0], -at[1] if mirrored else at[1]), 1.0, mirrored)

        return Body(tuple(replace(step, sketches=tuple(map(sketch_of, step.sketches))) for step in self.extrudes))

    @property
    def box(self) -> tuple[Vec3, Vec3]:
        """Lowest and highest corner of a box around it, its own unless what reaches furthest is cut off."""
        try:
            return bounds(CadProgram(self.extrudes))
        except RejectError as error:
            raise ScriptError(error.detail) from error

    def reach(self, plane: Plane) -> tuple[float, float]:
        """How far it reaches along a plane's normal, from the plane, at most: lowest and highest."""
        low, high = self.box
        corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
        heights = [dot(corner, plane.normal) - dot(plane.origin, plane.normal) for corner in corners]
        return min(heights), max(heights)

    def face(self, direction: Vec3) -> Plane:
        """The plane of its furthest face along an axis; x is CadQuery's: parallel to the XY plane.

        Raises:
            ScriptError: nothing flat is furthest there, or it may have been cut off.
        """
        found = axis_of(direction)
        assert found is not None, "one of the axes"
        axis, sign = found
        low, high = self.box
        height = high[axis] if sign > 0 else low[axis]
        size = math.dist(low, high)
        points = [
            each
            for step in self.extrudes
            if step.operation is not Operation.CUT
            for sketch in step.sketches
            for profile in sketch.profiles
            for each in _below(step.extent, sketch.plane, profile, (axis, sign), height, NEAR * size)
        ]
        untouched = all(step.operation in ADDS for step in self.extrudes)
        if not points or not (untouched or inside(CadProgram(self.extrudes), np.array(points[:MOST_POINTS])).any()):
            raise ScriptError(f"which face is furthest along {'-' if sign < 0 else ''}{'xyz'[axis]} is not read here")
        origin = tuple(height if each == axis else 0.0 for each in range(3))
        x_axis = cross((0.0, 0.0, 1.0), direction) if axis != 2 else (1.0, 0.0, 0.0)
        return Plane((origin[0], origin[1], origin[2]), x_axis, direction)


def _bounded(body: Body) -> Body:
    profiles = (profile for step in body.extrudes for sketch in step.sketches for profile in sketch.profiles)
    if sum(len(loop.curves) for profile in profiles for loop in profile.loops) > MAX_CURVES:
        raise ScriptError(f"a part of more than {MAX_CURVES:,} curves")
    return body


def _in_order(operation: Operation, body: Body, first: Extrude, rest: list[Extrude]) -> tuple[Extrude, ...]:
    """Extrusions one after the other that make ``body`` combined with ``first`` and what was done to it."""
    others = [step.operation for step in rest]
    own = [step.operation for step in body.extrudes[1:]]
    swapped = (
        replace(first, operation=Operation.NEW),
        *rest,
        replace(body.extrudes[0], operation=operation),
        *body.extrudes[1:],
    )
    if operation is not Operation.INTERSECT and all(each in ADDS for each in others):
        return (*body.extrudes, first, *(replace(step, operation=operation) for step in rest))
    if operation is Operation.JOIN and all(each in ADDS for each in own):
        return swapped
    if operation is Operation.JOIN and all(_is_apart(step, body) for step in rest if step.operation not in ADDS):
        return (*body.extrudes, first, *rest)
    if operation is Operation.INTERSECT and not any(each in ADDS for each in others):
        return (*body.extrudes, first, *rest)
    if operation is Operation.INTERSECT and not any(each in ADDS for each in own):
        return swapped
    raise ScriptError(f"a part that was itself cut or joined before cannot {operation} another; do it step by step")


def _is_apart(step: Extrude, body: Body) -> bool:
    """Whether a cut reaches nothing of a body."""
    if step.operation is not Operation.CUT:
        return False
    (low, high), (body_low, body_high) = Body((replace(step, operation=Operation.NEW),)).box, body.box
    return any(high[i] <= body_low[i] or low[i] >= body_high[i] for i in range(3))


def _below(
    extent: Extent, plane: Plane, profile: Profile, towards: tuple[int, int], height: float, little: float
) -> list[Vec3]:
    """Points a little below the flat faces that an extrusion has at a height along an axis; none where it has none."""
    axis, sign = towards
    low, high = extent.interval
    shares = [(i + 0.5) / GRID for i in range(GRID)]
    if along := axis_of(plane.normal, NEAR):
        if along[0] == axis:
            end, inwards = (high, -little) if along[1] == sign else (low, little)
            if abs(plane.to_world((0.0, 0.0), end)[axis] - height) > little:
                return []
            xs, ys = zip(*profile.outer.outline(), strict=True)
            return [
                plane.to_world((min(xs) + u * (max(xs) - min(xs)), min(ys) + v * (max(ys) - min(ys))), end + inwards)
                for u in shares
                for v in shares
            ]
        points = []
        for edge in profile.outer.edges:
            ends = [plane.to_world(at)[axis] for at in (edge.start, edge.end)]
            if isinstance(edge, Line) and max(abs(each - height) for each in ends) <= little:
                for u in shares:
                    at = (
                        edge.start[0] + u * (edge.end[0] - edge.start[0]),
                        edge.start[1] + u * (edge.end[1] - edge.start[1]),
                    )
                    for v in shares:
                        on = list(plane.to_world(at, low + v * (high - low)))
                        on[axis] -= sign * little
                        points.append((on[0], on[1], on[2]))
        return points
    return []


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
