"""Loops in the plane: one way to write each, corners with fillets, and whether loops cross.

A loop written as corners has a fillet where an arc runs smoothly from one line into the next; the corner is
where the lines would meet. Omni-CAD's arcs are such fillets more often than not (798 of 1,517 in 134 files).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.program import Arc, Circle, Edge, Line, Loop, Point2

SAME = 1e-6  # relative to the loop's size: points this close are one
TINY = 1e-7  # relative: what is shorter is nothing
SMOOTH = 1e-3  # radians between tangents that are one
SPIKE = math.radians(179)  # a path that turns by more comes back on itself, and nothing can be rounded
MAX_FILLET = math.radians(150)  # beyond it the lines meet far away


@dataclass(frozen=True, slots=True)
class Corner:
    """A point of a loop.

    Attributes:
        at: where the lines meet.
        radius: of the fillet, 0 for a sharp corner.
        sweep: of the edge that leaves, 0 for a line.
    """

    at: Point2
    radius: float = 0.0
    sweep: float = 0.0


def merged(loop: Loop, bend: float = 0.0) -> Loop:
    """The loop with lines that go on straight, and arcs that go on round, as one edge; a full turn is a circle.

    Args:
        bend: lines that turn by less (radians) go on straight, too.
    """
    edges = list(loop.edges)
    if not edges:
        return loop
    size = max(math.dist(edges[0].start, edge.end) for edge in edges) or 1.0
    edges = [edge for edge in edges if math.dist(edge.start, edge.end) > SAME * size] or edges
    out: list[Edge] = []
    for edge in edges:
        joined = _joined(out[-1], edge, size, bend) if out else None
        if joined is None:
            out.append(edge)
        else:
            out[-1] = joined
    while len(out) > 2 and (joined := _joined(out[-1], out[0], size, bend)) is not None:
        out = [joined, *out[1:-1]]
    if len(out) <= 2 and all(isinstance(edge, Arc) for edge in out):
        arc = out[0]
        assert isinstance(arc, Arc)
        turned = sum(edge.sweep for edge in out if isinstance(edge, Arc))
        one_centre = all(isinstance(e, Arc) and math.dist(e.centre, arc.centre) < 1e-4 * size for e in out)
        if one_centre and abs(abs(turned) - 2 * math.pi) < SMOOTH:
            return Loop((Circle(arc.centre, arc.radius),))
    return Loop(tuple(out))


def _joined(first: Edge, second: Edge, size: float, bend: float) -> Edge | None:
    """Two edges that follow each other as one, where they are one."""
    if isinstance(first, Line) and isinstance(second, Line):
        # Nowhere further from the joint line than the tolerance, and not back over itself.
        (ax, ay), (bx, by), (cx, cy) = first.start, first.end, second.end
        length = math.hypot(cx - ax, cy - ay)
        off = abs((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
        ahead = (bx - ax) * (cx - bx) + (by - ay) * (cy - by) > 0
        straight = off <= SAME * size * length or abs(turn_of(first.start, first.end, second.end)) < bend
        return Line(first.start, second.end) if ahead and straight else None
    if isinstance(first, Arc) and isinstance(second, Arc) and first.sweep * second.sweep > 0:
        near = 1e-4 * min(first.radius, second.radius)
        sweep = first.sweep + second.sweep
        together = math.dist(first.centre, second.centre) < near and abs(first.radius - second.radius) < near
        if together and abs(sweep) < 2 * math.pi - SMOOTH:
            return Arc(first.start, second.end, first.centre, sweep)
    return None


def tangent(edge: Edge, at_end: bool) -> Point2:
    """The unit direction in which an edge starts or ends."""
    if isinstance(edge, Line):
        length = math.dist(edge.start, edge.end) or 1.0
        return ((edge.end[0] - edge.start[0]) / length, (edge.end[1] - edge.start[1]) / length)
    (x, y), (cx, cy) = edge.end if at_end else edge.start, edge.centre
    turn = math.copysign(edge.radius, edge.sweep) or 1.0
    return (-(y - cy) / turn, (x - cx) / turn)


def _is_fillet(before: Edge, arc: Edge, after: Edge) -> bool:
    return (
        isinstance(arc, Arc)
        and isinstance(before, Line)
        and isinstance(after, Line)
        and SMOOTH < abs(arc.sweep) < MAX_FILLET
        and math.dist(tangent(before, True), tangent(arc, False)) < SMOOTH
        and math.dist(tangent(arc, True), tangent(after, False)) < SMOOTH
    )


def corners(loop: Loop, fillets: bool = True) -> list[Corner]:
    """The corners of a loop that is not a circle, in its own direction; without ``fillets`` arcs stay arcs."""
    edges = loop.edges
    is_fillet = [
        fillets and _is_fillet(edges[i - 1], edge, edges[(i + 1) % len(edges)]) for i, edge in enumerate(edges)
    ]
    out = []
    for i, edge in enumerate(edges):
        if is_fillet[i]:
            assert isinstance(edge, Arc)
            (x, y), (u, v) = edge.start, tangent(edge, False)
            reach = edge.radius * math.tan(abs(edge.sweep) / 2)
            out.append(Corner((x + u * reach, y + v * reach), edge.radius))
        elif isinstance(edge, Arc):
            out.append(Corner(edge.start, 0.0, edge.sweep))
        elif not is_fillet[i - 1]:
            out.append(Corner(edge.start))
    return out


def reaches(corners: Sequence[Corner]) -> list[float]:
    """How far each corner's fillet reaches along its two edges."""
    out = []
    for i, corner in enumerate(corners):
        turn = turn_of(corners[i - 1].at, corner.at, corners[(i + 1) % len(corners)].at) if corner.radius else 0.0
        out.append(corner.radius * math.tan(abs(turn) / 2) if abs(turn) < SPIKE else 0.0)
    return out


def turn_of(before: Point2, at: Point2, after: Point2) -> float:
    """By how much a path through three points turns: signed, in radians."""
    ux, uy, vx, vy = at[0] - before[0], at[1] - before[1], after[0] - at[0], after[1] - at[1]
    return math.atan2(ux * vy - uy * vx, ux * vx + uy * vy)


def fit(corners: Sequence[Corner]) -> list[float]:
    """The share of each fillet's radius for which there is room beside its neighbours': 1 where it fits."""
    reach = reaches(corners)
    room = []
    for i, corner in enumerate(corners):
        j = (i + 1) % len(corners)
        taken = reach[i] + reach[j]
        room.append(min(1.0, math.dist(corner.at, corners[j].at) / taken) if taken else 1.0)
    return [min(room[i - 1], room[i]) for i in range(len(corners))]


def loop_of(corners: Sequence[Corner]) -> Loop:
    """The loop through corners. Fillets for which there is no room are made smaller until there is."""
    share, reach = fit(corners), reaches(corners)
    size = max(math.dist(corners[0].at, corner.at) for corner in corners) or 1.0
    edges: list[Edge] = []
    entry = [_ends(corners, i, reach[i] * share[i], size) for i in range(len(corners))]
    for i, corner in enumerate(corners):
        begin, end = entry[i]
        if begin != end:
            turn = turn_of(corners[i - 1].at, corner.at, corners[(i + 1) % len(corners)].at)
            edges.append(Arc.through(begin, end, turn))
        j = (i + 1) % len(corners)
        after = entry[j][0]
        if corner.sweep:
            edges.append(Arc.through(end, after, corner.sweep))
        elif math.dist(end, after) > TINY * size:
            edges.append(Line(end, after))
        else:  # a fillet takes all of the edge: what follows begins where it ends
            entry[j] = (end, end if entry[j][0] == entry[j][1] else entry[j][1])
    return Loop(tuple(edges))


def _ends(corners: Sequence[Corner], i: int, reach: float, size: float) -> tuple[Point2, Point2]:
    """Where the fillet of corner ``i`` begins and ends: the corner itself twice where it is sharp."""
    (x, y), before, after = corners[i].at, corners[i - 1].at, corners[(i + 1) % len(corners)].at
    if reach <= TINY * size:
        return (x, y), (x, y)
    back, ahead = math.dist(before, (x, y)), math.dist(after, (x, y))
    begin = (x + (before[0] - x) / back * reach, y + (before[1] - y) / back * reach)
    end = (x + (after[0] - x) / ahead * reach, y + (after[1] - y) / ahead * reach)
    return begin, end


def cross_or_touch(loops: Sequence[Loop]) -> bool:
    """Whether any of the loops meets itself or another; arcs are looked at as sixteen chords."""
    starts, ends, numbers, lengths = [], [], [], []
    for number, loop in enumerate(loops):
        points = loop.outline()
        starts += points
        ends += points[1:] + points[:1]
        numbers += [(number, i) for i in range(len(points))]
        lengths.append(len(points))
    a, b = np.array(starts), np.array(ends)
    owner, place = np.array(numbers).T
    length = np.array(lengths)[owner]
    (left, bottom), (right, top) = np.minimum(a, b).T, np.maximum(a, b).T
    for begin in range(0, len(a), 256):  # a block of segments against those from it on: few pairs have boxes that meet
        block, rest = (slice(begin, begin + 256), None), slice(begin, None)
        near = (left[block] <= right[rest]) & (right[block] >= left[rest])
        near &= (bottom[block] <= top[rest]) & (top[block] >= bottom[rest])
        i, j = np.nonzero(near) + np.array([[begin]])
        step = (place[j] - place[i]) % length[j]
        other = (j > i) & ((owner[j] != owner[i]) | ((step != 1) & (step != length[j] - 1)))
        i, j = i[other], j[other]
        meets = (_side(a[i], b[i], a[j]) * _side(a[i], b[i], b[j]) <= 0) & (
            _side(a[j], b[j], a[i]) * _side(a[j], b[j], b[i]) <= 0
        )
        if meets.any():
            return True
    return False


def _side(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
    """On which side of the line from a to b: the sign of twice the triangle's area."""
    ab, ap = b - a, p - a
    return np.asarray(np.sign(ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]))
