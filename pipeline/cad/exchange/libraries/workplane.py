"""CadQuery's workplane as it draws: planes, places on its stack, lines and wires. ``chains`` makes solids of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pipeline.cad.exchange.libraries.bodies import Body
from pipeline.cad.exchange.libraries.values import (
    MAX_CURVES,
    ScriptError,
    circle,
    number,
    plane,
    point2,
    rectangle,
    switch,
    vector,
    whole,
)
from pipeline.cad.language.program import Arc, Circle, Edge, Line, Loop, Plane, Point2, Vec3, cross, dot, map_loop


@dataclass(frozen=True, slots=True)
class Spot:
    """A place on the stack, where something is drawn: by how much it is turned there (radians)."""

    at: Point2 = (0.0, 0.0)
    turn: float = 0.0

    def moved(self, point: Point2) -> Point2:
        """A point around the origin, there."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return self.at[0] + cos * point[0] - sin * point[1], self.at[1] + sin * point[0] + cos * point[1]


HERE = (Spot(),)


@dataclass(frozen=True, slots=True)
class Workplane:
    """A chain of calls so far; lengths are millimetres, points the plane's own.

    Attributes:
        spots: where wires and holes go; empty where the stack holds nothing that we know the middle of.
        pen: where a line begins; None where CadQuery has no such point.
        edges: drawn, and in no wire yet.
        loops: drawn, and not extruded yet.
        shown: the wires on the stack.
        solid: the part that is worked on.
        holds: whether it is on the stack.
        face: of it, that was chosen.
        raised: the plane above the one that it was begun with, to whose both sides an extrusion may then reach.
        upright: the axis along which edges of it were chosen.
    """

    plane: Plane
    spots: tuple[Spot, ...] = HERE
    pen: Point2 | None = (0.0, 0.0)
    edges: tuple[Edge, ...] = ()
    loops: tuple[Loop, ...] = ()
    shown: tuple[Loop, ...] = ()
    solid: Body | None = None
    holds: bool = False
    face: Plane | None = None
    raised: float = 0.0
    upright: int | None = None

    def at(self, *spots: Spot) -> "Workplane":
        """With places on the stack."""
        if not spots:
            raise ScriptError("no points")
        return replace(self, spots=spots, pen=spots[-1].at, shown=(), holds=False, face=None, upright=None)

    def drawn(self, *edges: Edge) -> "Workplane":
        """With edges more, and the pen at their end."""
        return replace(
            self, edges=self.edges + edges, spots=(), pen=edges[-1].end, shown=(), holds=False, face=None, upright=None
        )

    def wired(self, loops: tuple[Loop, ...], middles: tuple[Spot, ...], counts: bool = True) -> "Workplane":
        """With loops more, unless they do not count; they are on the stack."""
        made = self.loops + loops if counts else self.loops
        if sum(len(loop.curves) for loop in made) > MAX_CURVES:
            raise ScriptError(f"more than {MAX_CURVES:,} curves are drawn")
        return replace(self, loops=made, spots=middles, pen=None, shown=loops, holds=False, face=None, upright=None)

    def begin(self, word: str) -> Point2:
        """Where a line begins."""
        if self.pen is None:
            raise ScriptError(f"`{word}` from no point: `moveTo` one first")
        return self.pen

    def each(self, word: str, loop: Loop, middle: Point2 = (0.0, 0.0), construction: Any = False) -> "Workplane":
        """A loop that is drawn around the origin, at each place on the stack."""
        spots = self.places(word)
        if len(spots) * len(loop.curves) > MAX_CURVES:
            raise ScriptError(f"`{word}` of more than {MAX_CURVES:,} curves")
        made = tuple(map_loop(loop, spot.moved) for spot in spots)
        return self.wired(made, tuple(Spot(spot.moved(middle)) for spot in spots), not switch(construction))

    def places(self, word: str) -> tuple[Spot, ...]:
        """The places on the stack."""
        if not self.spots:
            raise ScriptError(f"`{word}` around what is on the stack here is not read; give points, or `workplane()`")
        return self.spots


# -- planes -------------------------------------------------------------------------------------------------------


def workplane(
    wp: Workplane, offset: Any = 0.0, invert: Any = False, centerOption: Any = "ProjectedOrigin", origin: Any = None
) -> Workplane:
    """A new plane on the chosen face, or above the present one."""
    if wp.edges or wp.loops:
        raise ScriptError("`workplane` before what is drawn is extruded")
    if centerOption != "ProjectedOrigin":
        raise ScriptError("`workplane` is read with its own centerOption alone, ProjectedOrigin")
    on = wp.face or replace(wp.plane, origin=_on_stack(wp))
    start = _vec3(origin) if origin is not None else wp.plane.origin
    away = dot(start, on.normal) - dot(on.origin, on.normal)
    sign = -1.0 if switch(invert) else 1.0
    normal = _scaled(on.normal, sign)
    at = _plus(_plus(start, on.normal, -away), normal, number(offset))
    goes_on = wp.face is None and not wp.holds and origin is None and sign > 0
    return Workplane(plane(at, on.x_axis, normal), solid=wp.solid, raised=wp.raised + offset if goes_on else 0.0)


def _on_stack(wp: Workplane) -> Vec3:
    """A point of the plane that what is on the stack lies in."""
    if not wp.holds:
        if len(wp.spots) > 1:
            raise ScriptError("`workplane` on several points")
        return wp.plane.origin
    assert wp.solid is not None, "it is on the stack"
    first, *others = wp.solid.extrudes
    low, high = first.extent.interval
    on = first.sketches[0].plane
    if others or len(first.sketches) > 1 or abs(abs(dot(on.normal, wp.plane.normal)) - 1) > 1e-9:
        raise ScriptError("`workplane` through a solid's middle is not read; choose one of its `faces`")
    return on.to_world((0.0, 0.0), (low + high) / 2)


def center(wp: Workplane, x: Any, y: Any) -> Workplane:
    """The origin somewhere else in the plane."""
    by = point2(x, y)

    def back(at: Point2) -> Point2:
        return at[0] - by[0], at[1] - by[1]

    if wp.edges:
        raise ScriptError("`center` before `close`")
    moved = replace(wp.plane, origin=wp.plane.to_world(by))
    return replace(wp, plane=moved, loops=tuple(map_loop(loop, back) for loop in wp.loops)).at(*HERE)


def transformed(wp: Workplane, rotate: Any = (0.0, 0.0, 0.0), offset: Any = (0.0, 0.0, 0.0)) -> Workplane:
    """The plane turned around its axes (degrees; z, then y, then x), and moved in its own coordinates."""
    if wp.edges or wp.loops:
        raise ScriptError("`transformed` before what is drawn is extruded")
    old, angles, (x, y, z) = wp.plane, _vec3(rotate), _vec3(offset)
    x_axis, normal = old.x_axis, old.normal
    for axis, angle in ((old.normal, angles[2]), (old.y_axis, angles[1]), (old.x_axis, angles[0])):
        x_axis, normal = (turned(each, axis, math.radians(angle)) for each in (x_axis, normal))
    return Workplane(plane(old.to_world((x, y), z), x_axis, normal), solid=wp.solid)


def turned(direction: Vec3, axis: Vec3, angle: float) -> Vec3:
    """A direction after a turn around a unit vector (Rodrigues)."""
    cos, sin = math.cos(angle), math.sin(angle)
    aside, along = cross(axis, direction), dot(axis, direction) * (1 - cos)
    x, y, z = (direction[i] * cos + aside[i] * sin + axis[i] * along for i in range(3))
    return x, y, z


def _vec3(value: Any) -> Vec3:
    x, y, z = vector(value, 3)
    return x, y, z


def _scaled(direction: Vec3, by: float) -> Vec3:
    return direction[0] * by, direction[1] * by, direction[2] * by


def _plus(point: Vec3, direction: Vec3, by: float) -> Vec3:
    return point[0] + by * direction[0], point[1] + by * direction[1], point[2] + by * direction[2]


# -- places -------------------------------------------------------------------------------------------------------


def move_to(wp: Workplane, x: Any = 0.0, y: Any = 0.0) -> Workplane:
    """The pen somewhere else; nothing is drawn."""
    if wp.edges:
        raise ScriptError("`moveTo` before `close`")
    return wp.at(Spot(point2(x, y)))


def move(wp: Workplane, xDist: Any = 0.0, yDist: Any = 0.0) -> Workplane:
    """The same from where it is."""
    x, y = wp.begin("move")
    return move_to(wp, x + number(xDist), y + number(yDist))


def push_points(wp: Workplane, pntList: Any) -> Workplane:
    """Places, by their coordinates."""
    if not isinstance(pntList, list | tuple):
        raise ScriptError("`pushPoints` takes a list of points")
    return wp.at(*(Spot(point2(each)) for each in pntList))


def rarray(wp: Workplane, xSpacing: Any, ySpacing: Any, xCount: Any, yCount: Any, center: Any = True) -> Workplane:
    """Places in rows and columns."""
    columns, rows = whole(xCount), whole(yCount)
    whole(float(columns * rows))
    width, height = number(xSpacing) * (columns - 1), number(ySpacing) * (rows - 1)
    x, y = middle_of(center, width, height)
    x0, y0 = x - width / 2, y - height / 2
    return wp.at(*(Spot((x0 + i * xSpacing, y0 + j * ySpacing)) for i in range(columns) for j in range(rows)))


def polar_array(
    wp: Workplane, radius: Any, startAngle: Any, angle: Any, count: Any, fill: Any = True, rotate: Any = True
) -> Workplane:
    """Places on a circle; angles are degrees."""
    total, step = whole(count), number(angle)
    if switch(fill):
        round_about = abs(math.remainder(step, 360)) < 1e-6
        step = step / total if round_about else step / (total - 1) if total > 1 else number(startAngle)
    turns = [math.radians(number(startAngle) + i * step) for i in range(total)]
    turn = switch(rotate)
    return wp.at(*(Spot((number(radius) * math.cos(at), radius * math.sin(at)), at if turn else 0.0) for at in turns))


def vertices(wp: Workplane, selector: Any = None) -> Workplane:
    """The corners of the wires on the stack."""
    if selector is not None or not wp.shown or any(isinstance(loop.curves[0], Circle) for loop in wp.shown):
        raise ScriptError("`vertices` is read of wires with corners, all of them")
    return wp.at(*(Spot(edge.start) for loop in wp.shown for edge in loop.edges))


# -- wires --------------------------------------------------------------------------------------------------------


def circle_(wp: Workplane, radius: Any, forConstruction: Any = False) -> Workplane:
    """A circle around each place."""
    return wp.each("circle", circle((0.0, 0.0), radius), construction=forConstruction)


def rect(wp: Workplane, xLen: Any, yLen: Any, centered: Any = True, forConstruction: Any = False) -> Workplane:
    """A rectangle around each place, or beginning there."""
    middle = middle_of(centered, number(xLen), number(yLen))
    return wp.each("rect", rectangle(middle, xLen, yLen), middle, forConstruction)


def middle_of(centered: Any, *lengths: float) -> Any:
    """Where the middle of a box of such sides is, from its place."""
    flags = centered if isinstance(centered, tuple) else (centered,) * len(lengths)
    if len(flags) != len(lengths):
        raise ScriptError(f"where it is centred is one of True and False, or {len(lengths)} of them")
    return tuple(0.0 if switch(flag) else length / 2 for flag, length in zip(flags, lengths, strict=True))


def polygon(
    wp: Workplane, nSides: Any, diameter: Any, forConstruction: Any = False, circumscribed: Any = False
) -> Workplane:
    """A regular polygon around each place, within a circle, or around it."""
    sides, around = whole(nSides, 3), switch(circumscribed)
    half = math.pi / sides
    radius = positive(diameter) / 2 / (math.cos(half) if around else 1.0)
    turns = [2 * half * i + (half if around else 0.0) for i in range(sides)]
    points = [(radius * math.cos(turn), radius * math.sin(turn)) for turn in turns]
    return wp.each("polygon", _closed(points), construction=forConstruction)


def slot(wp: Workplane, length: Any, diameter: Any, angle: Any = 0.0) -> Workplane:
    """A slot around each place: its length from end to end."""
    r, straight = positive(diameter) / 2, number(length) / 2 - positive(diameter) / 2
    if straight <= 0:
        raise ScriptError(f"a slot of {length:g} x {diameter:g}")
    a, b, c, d = (straight, -r), (straight, r), (-straight, r), (-straight, -r)
    edges = (Line(d, a), Arc(a, b, (straight, 0.0), math.pi), Line(b, c), Arc(c, d, (-straight, 0.0), math.pi))
    turn = Spot(turn=math.radians(number(angle)))
    return wp.each("slot2D", map_loop(Loop(edges), turn.moved))


def positive(value: Any) -> float:
    """A size, checked."""
    if number(value) <= 0:
        raise ScriptError(f"a size of {value:g}")
    return float(value)


def _closed(points: list[Point2]) -> Loop:
    return Loop(tuple(Line(at, points[(i + 1) % len(points)]) for i, at in enumerate(points)))


DRAWING: dict[str, Callable[..., Workplane]] = {
    "workplane": workplane,
    "center": center,
    "transformed": transformed,
    "moveTo": move_to,
    "move": move,
    "pushPoints": push_points,
    "rarray": rarray,
    "polarArray": polar_array,
    "vertices": vertices,
    "circle": circle_,
    "rect": rect,
    "polygon": polygon,
    "slot2D": slot,
}
