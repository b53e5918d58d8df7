"""CadQuery's words that change what is there: edges along an axis rounded or cut off, outlines made larger or smaller.

They are read where they change no more than corners between straight lines.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.cad.exchange.libraries.bodies import ADDS, Body
from pipeline.cad.exchange.libraries.values import TOUCH_MM, ScriptError, number
from pipeline.cad.exchange.libraries.workplane import Workplane, positive
from pipeline.cad.language.planar import Corner, corners, fit, loop_of, merged, turn_of
from pipeline.cad.language.program import Circle, Extrude, Line, Loop, Operation, Point2, Profile, Vec3, axis_of

ALONG = {"|X": 0, "|Y": 1, "|Z": 2}


def edges(wp: Workplane, selector: Any = None) -> Workplane:
    """The edges of the solid along an axis."""
    if not wp.holds or selector not in ALONG:
        raise ScriptError(f"`edges` is read of a solid, with one of {', '.join(ALONG)}")
    return replace(wp, holds=False, upright=ALONG[selector])


def fillet(wp: Workplane, radius: Any) -> Workplane:
    """Those edges rounded."""
    return _finished(wp, "fillet", lambda at: [Corner(at[1], positive(radius))])


def chamfer(wp: Workplane, length: Any) -> Workplane:
    """Those edges cut off, by so much on both sides."""
    return _finished(
        wp, "chamfer", lambda at: [Corner(_towards(at[1], each, positive(length))) for each in (at[0], at[2])]
    )


Finish = Callable[[tuple[Point2, Point2, Point2]], list[Corner]]


def _finished(wp: Workplane, word: str, finish: Finish) -> Workplane:
    """The first extrusion with finished corners, where since then round holes alone were made, none near one."""
    if wp.upright is None or wp.solid is None:
        raise ScriptError(f"`{word}` is read of the edges along an axis: .edges('|Z')")
    first, *holes = wp.solid.extrudes
    if any(_axis(step) != wp.upright for step in wp.solid.extrudes) or not all(map(_is_round_hole, holes)):
        raise ScriptError(f"`{word}` is read of one extrusion along that axis, and round holes along it")
    sketches, touched = [], list[tuple[Vec3, Vec3]]()
    for sketch in first.sketches:
        profiles = []
        for profile in sketch.profiles:
            loops = []
            for loop in profile.loops:
                loops.append(_with_corners(loop, word, finish))
                reaches = _reaches(loop, loops[-1])
                touched += [(sketch.plane.to_world(at), (reach, reach, reach)) for at, reach in reaches]
                if loop is profile.outer and any(_is_near(hole, *each) for hole in profile.holes for each in reaches):
                    raise ScriptError(f"`{word}` of an edge that a hole is near to is not read")
            profiles.append(Profile(loops[0], tuple(loops[1:])))
        sketches.append(replace(sketch, profiles=tuple(profiles)))
    made = replace(first, sketches=tuple(sketches))
    across = [axis for axis in range(3) if axis != wp.upright]
    for hole in holes:
        low, high = Body((replace(hole, operation=Operation.NEW),)).box
        for corner, reach in touched:
            if all(low[i] < corner[i] + reach[i] and corner[i] - reach[i] < high[i] for i in across):
                raise ScriptError(f"`{word}` of an edge that a hole is near to is not read")
    return replace(wp, solid=Body((made, *holes)), upright=None, holds=True)


def _axis(step: Extrude) -> int | None:
    """Along which axis an extrusion goes."""
    axes = {found[0] if (found := axis_of(sketch.plane.normal, 1e-9)) else None for sketch in step.sketches}
    return axes.pop() if len(axes) == 1 else None


def _is_round_hole(step: Extrude) -> bool:
    profiles = [profile for sketch in step.sketches for profile in sketch.profiles]
    return step.operation not in (*ADDS, Operation.INTERSECT) and all(
        not profile.holes and isinstance(profile.outer.curves[0], Circle) for profile in profiles
    )


def _with_corners(loop: Loop, word: str, finish: Finish) -> Loop:
    loop = merged(loop)  # of two arcs a circle
    if isinstance(loop.curves[0], Circle):
        return loop
    points = [edge.start for edge in loop.edges]
    if not all(isinstance(edge, Line) for edge in loop.edges):
        raise ScriptError(f"`{word}` of outlines with arcs is not read")
    around = [(points[i - 1], points[i], points[(i + 1) % len(points)]) for i in range(len(points))]
    made = [finish(each) for each in around]
    reaches = [max(_reach(each, corner) for corner in new) for each, new in zip(around, made, strict=True)]
    for i, (_, at, after) in enumerate(around):
        if reaches[i] + reaches[(i + 1) % len(points)] > math.dist(at, after) - TOUCH_MM:
            raise ScriptError(f"`{word}` for which there is no room")
    return loop_of([corner for new in made for corner in new])


def _reach(around: tuple[Point2, Point2, Point2], corner: Corner) -> float:
    """How much of an edge a finished corner takes."""
    if corner.radius:
        return corner.radius * math.tan(abs(turn_of(*around)) / 2)
    return math.dist(around[1], corner.at)


def _reaches(before: Loop, after: Loop) -> list[tuple[Point2, float]]:
    """The corners that are finished, and how far around them that may be seen along each axis."""
    if isinstance(after.curves[0], Circle):
        return []
    kept = [point for edge in after.edges for point in (edge.start, edge.end)]
    return [(each.at, min(math.dist(each.at, point) for point in kept)) for each in corners(merged(before))]


def _is_near(hole: Loop, at: Point2, reach: float) -> bool:
    """Whether a hole's box comes so near to a point, along both axes."""
    return all(min(ends) < at[i] + reach and at[i] - reach < max(ends) for i, ends in enumerate(zip(*hole.outline())))


def _towards(at: Point2, to: Point2, by: float) -> Point2:
    if at == to:
        raise ScriptError("an edge of no length")
    share = by / math.dist(at, to)
    return at[0] + share * (to[0] - at[0]), at[1] + share * (to[1] - at[1])


def offset(wp: Workplane, d: Any, kind: Any = "arc") -> Workplane:
    """What is drawn, larger or smaller by so much: outlines of straight lines that turn one way."""
    if kind not in ("arc", "intersection") or wp.edges or not wp.loops:
        raise ScriptError("`offset2D` is read of wires, with the kind 'arc' or 'intersection'")
    made = tuple(_offset(loop, number(d), kind == "arc") for loop in wp.loops)
    return replace(wp, loops=()).wired(made, ())


def _offset(loop: Loop, by: float, rounded: bool) -> Loop:
    loop = merged(loop if loop.signed_area > 0 else loop.reversed())
    if isinstance(loop.curves[0], Circle):  # CadQuery 2.8 puts its centre twice as far from the part's origin
        raise ScriptError("`offset2D` of a circle is not read; draw it with another radius")
    points = [edge.start for edge in loop.edges]
    around = [(points[i - 1], points[i], points[(i + 1) % len(points)]) for i in range(len(points))]
    if not all(isinstance(edge, Line) for edge in loop.edges) or any(turn_of(*each) <= 0 for each in around):
        raise ScriptError("`offset2D` is read of straight lines that turn one way")
    radius = by if rounded and by > 0 else 0.0
    moved = [Corner(_beside(*each, by), radius) for each in around]
    for i, edge in enumerate(loop.edges):
        (ax, ay), (bx, by_) = moved[i].at, moved[(i + 1) % len(moved)].at
        if (bx - ax) * (edge.end[0] - edge.start[0]) + (by_ - ay) * (edge.end[1] - edge.start[1]) <= TOUCH_MM:
            raise ScriptError("`offset2D` by so much that an edge is gone")
    if radius and min(fit(moved)) < 1 - 1e-9:
        raise ScriptError("`offset2D` by so much that an edge is gone")
    return loop_of(moved)


def _beside(before: Point2, at: Point2, after: Point2, by: float) -> Point2:
    """Where lines meet that run so far on the right of those through three points."""
    turn = turn_of(before, at, after)
    u = _towards((0.0, 0.0), (at[0] - before[0], at[1] - before[1]), 1.0)
    along = by * math.tan(turn / 2)
    return at[0] + by * u[1] + along * u[0], at[1] - by * u[0] + along * u[1]
