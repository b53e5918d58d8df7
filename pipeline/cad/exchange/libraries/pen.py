"""CadQuery's pen: lines and arcs from point to point, closed to wires."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.cad.exchange.libraries.values import ScriptError, arc_through, closed_loop, number, point2, switch
from pipeline.cad.exchange.libraries.workplane import Workplane
from pipeline.cad.language.planar import tangent
from pipeline.cad.language.program import Arc, Line, Loop, Point2, map_loop


def line_to(wp: Workplane, x: Any, y: Any) -> Workplane:
    """A straight edge from the pen."""
    return wp.drawn(Line(wp.begin("lineTo"), point2(x, y)))


def line(wp: Workplane, xDist: Any, yDist: Any) -> Workplane:
    """The same by so much."""
    x, y = wp.begin("line")
    return line_to(wp, x + number(xDist), y + number(yDist))


def polar(wp: Workplane, distance: Any, angle: Any) -> Workplane:
    """The same in a direction (degrees)."""
    turn = math.radians(number(angle))
    return line(wp, number(distance) * math.cos(turn), distance * math.sin(turn))


def polyline(wp: Workplane, listOfXYTuple: Any, forConstruction: Any = False, includeCurrent: Any = False) -> Workplane:
    """Straight edges from point to point."""
    if switch(forConstruction) or not isinstance(listOfXYTuple, list | tuple):
        raise ScriptError("`polyline` is read of a list of points that are drawn")
    points = [point2(each) for each in listOfXYTuple]
    if switch(includeCurrent):
        points = [wp.begin("polyline"), *points]
    if len(points) < 2:
        raise ScriptError("`polyline` of less than two points")
    return wp.drawn(*(Line(*ends) for ends in itertools.pairwise(points)))


def three_point_arc(wp: Workplane, point1: Any, point2_: Any) -> Workplane:
    """An arc from the pen over one point to another."""
    return wp.drawn(arc_through(wp.begin("threePointArc"), point2(point1), point2(point2_)))


def sagitta_arc(wp: Workplane, endPoint: Any, sag: Any) -> Workplane:
    """An arc from the pen, so high over its chord; above 0 on the left."""
    (ax, ay), (bx, by) = wp.begin("sagittaArc"), point2(endPoint)
    length = math.dist((ax, ay), (bx, by)) or 1.0
    over = number(sag) / length
    return three_point_arc(wp, ((ax + bx) / 2 - (by - ay) * over, (ay + by) / 2 + (bx - ax) * over), (bx, by))


def radius_arc(wp: Workplane, endPoint: Any, radius: Any) -> Workplane:
    """An arc from the pen of such a radius, the shorter one; above 0 on the left."""
    half = math.dist(wp.begin("radiusArc"), point2(endPoint)) / 2
    if abs(number(radius)) < half - 1e-6:
        raise ScriptError("an arc whose radius is too small to reach the point")
    sag = abs(radius) - math.sqrt(max(radius * radius - half * half, 0.0))
    return sagitta_arc(wp, endPoint, math.copysign(sag, radius))


def tangent_arc(wp: Workplane, endpoint: Any, forConstruction: Any = False, relative: Any = True) -> Workplane:
    """An arc that goes on from the last edge."""
    if not wp.edges or switch(forConstruction):
        raise ScriptError("`tangentArcPoint` goes on from an edge that is drawn")
    (x, y), (u, v), to = wp.begin("tangentArcPoint"), tangent(wp.edges[-1], True), point2(endpoint)
    dx, dy = to if switch(relative) else (to[0] - x, to[1] - y)
    turn = 2 * math.atan2(u * dy - v * dx, u * dx + v * dy)
    if abs(math.remainder(turn, 2 * math.pi)) < 1e-9:
        raise ScriptError("an arc's three points lie on a line")
    return wp.drawn(Arc.through((x, y), (x + dx, y + dy), turn))


def close(wp: Workplane) -> Workplane:
    """Back to where the loop began."""
    if not wp.edges:
        raise ScriptError("`close` where nothing is drawn")
    first, last = wp.edges[0].start, wp.edges[-1].end
    edges = wp.edges if math.dist(first, last) < 1e-6 else (*wp.edges, Line(last, first))
    return replace(wp, edges=()).wired((closed_loop(edges),), ())


def wire(wp: Workplane) -> Workplane:
    """What is drawn as a loop; it has come back to where it began."""
    return replace(wp, edges=()).wired((closed_loop(wp.edges),), ()) if wp.edges else wp


def mirrored(word: str, flip: Callable[[Point2], Point2]) -> Callable[[Workplane], Workplane]:
    """``mirrorX``, ``mirrorY``: lines from an axis back to it, closed by their mirror image."""

    def mirror(wp: Workplane) -> Workplane:
        ends = (wp.edges[0].start, wp.edges[-1].end) if wp.edges else ()
        if not ends or wp.loops or any(math.dist(end, flip(end)) > 2e-6 for end in ends):
            raise ScriptError(f"`{word}` is read of lines that begin and end on the axis")
        image = map_loop(Loop(wp.edges), flip, mirrored=True).reversed()
        return replace(wp, edges=()).wired((closed_loop(wp.edges + image.edges),), ())

    return mirror


LINES: dict[str, Callable[..., Workplane]] = {
    "lineTo": line_to,
    "line": line,
    "hLine": lambda wp, distance: line(wp, distance, 0.0),
    "vLine": lambda wp, distance: line(wp, 0.0, distance),
    "hLineTo": lambda wp, xCoord: line_to(wp, xCoord, wp.begin("hLineTo")[1]),
    "vLineTo": lambda wp, yCoord: line_to(wp, wp.begin("vLineTo")[0], yCoord),
    "polarLine": polar,
    "polyline": polyline,
    "threePointArc": three_point_arc,
    "sagittaArc": sagitta_arc,
    "radiusArc": radius_arc,
    "tangentArcPoint": tangent_arc,
    "close": close,
    "wire": wire,
    "mirrorX": mirrored("mirrorX", lambda at: (at[0], -at[1])),
    "mirrorY": mirrored("mirrorY", lambda at: (-at[0], at[1])),
}
