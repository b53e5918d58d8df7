"""Scripts for build123d, in its algebra mode: sketches times planes, extruded, added and subtracted."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipeline.cad.exchange.libraries.bodies import Body, extruded
from pipeline.cad.exchange.libraries.reader import Dialect
from pipeline.cad.exchange.libraries.values import (
    NAMED_PLANES,
    ScriptError,
    arc_through,
    circle,
    closed_loop,
    named_plane,
    number,
    plane,
    point2,
    profiles,
    rectangle,
    switch,
)
from pipeline.cad.exchange.libraries.writer import (
    box,
    drawn,
    headline,
    numbered,
    planes,
    reach,
    regions,
    text,
    tuple_text,
)
from pipeline.cad.language.program import (
    Arc,
    CadProgram,
    Circle,
    Edge,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    map_loop,
)

SIGNS = {Operation.NEW: "+=", Operation.JOIN: "+=", Operation.CUT: "-=", Operation.INTERSECT: "&="}
IMPORTS = "Circle, Line, Part, Plane, Pos, Rectangle, ThreePointArc, extrude, make_face"


def lines(program: CadProgram) -> Iterator[str]:
    """The script of a program in millimetres."""
    yield "# Millimetres. Made for build123d; `cadmllm cad convert` reads it, too."
    yield f"from build123d import {IMPORTS}"
    yield ""
    yield "part = Part()"
    for step, extrude in enumerate(program.extrudes, 1):
        yield ""
        yield from headline(extrude, step)
        yield from _step(extrude, f"step{step}")
        several = extrude.operation is Operation.INTERSECT and len(list(regions(extrude))) > 1
        yield f"part {SIGNS[extrude.operation]} {'Part() + ' if several else ''}step{step}"


def _step(extrude: Extrude, name: str) -> Iterator[str]:
    offset, amount, both = reach(extrude.extent)
    names = planes(extrude, name)
    for on, plane_name in names.items():
        axes = f"x_dir={tuple_text(on.x_axis)}, z_dir={tuple_text(on.normal)}"
        moved = f".offset({text(offset)})" if offset else ""
        yield f"{plane_name} = Plane(origin={tuple_text(on.origin)}, {axes}){moved}"
    extrusions = []
    drawn_on = list(regions(extrude))
    for sketch_name, (on, each) in zip(numbered(f"{name}_sketch", len(drawn_on)), drawn_on, strict=True):
        yield f"{sketch_name} = " + " - ".join("\n".join(_face(loop)) for loop in each.loops)
        reached = f"amount={text(amount)}{', both=True' if both else ''}"
        extrusions.append(f"extrude({names[on]} * {sketch_name}, {reached})")
    if len(extrusions) == 1:
        yield f"{name} = {extrusions[0]}"
    else:
        yield f"{name} = ["
        yield from (f"    {each}," for each in extrusions)
        yield "]"


def _face(loop: Loop) -> Iterator[str]:
    first = loop.curves[0]
    if isinstance(first, Circle):
        yield f"Pos{tuple_text(first.centre)} * Circle({text(first.radius)})"
    elif sides := box(loop):
        centre, width, height = sides
        yield f"Pos{tuple_text(centre)} * Rectangle({text(width)}, {text(height)})"
    else:
        yield "make_face(["
        for edge in drawn(loop):
            ends = tuple_text(edge.start), tuple_text(edge.end)
            if isinstance(edge, Arc):
                yield f"    ThreePointArc({ends[0]}, {tuple_text(edge.at(0.5))}, {ends[1]}),"
            else:
                yield f"    Line({ends[0]}, {ends[1]}),"
        yield "])"


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _On:
    """A plane, and how far above it work is done."""

    plane: Plane
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class _Region:
    """Loops of one profile: the first less the others; where it lies is known once a plane is multiplied with it."""

    loops: tuple[Loop, ...]
    on: _On | None = None


@dataclass(frozen=True, slots=True)
class _Pos:
    """Where a circle or rectangle goes."""

    at: Point2

    def moved(self, point: Point2) -> Point2:
        """A point of a sketch around the origin, there."""
        return point[0] + self.at[0], point[1] + self.at[1]


def _plane(origin: Any = (0.0, 0.0, 0.0), x_dir: Any = (1.0, 0.0, 0.0), z_dir: Any = (0.0, 0.0, 1.0)) -> _On:
    return _On(plane(origin, x_dir, z_dir))


def _offset(on: _On, amount: Any) -> _On:
    return _On(on.plane, on.offset + number(amount))


def _make_face(edges: Any) -> _Region:
    if not isinstance(edges, list) or not all(isinstance(edge, Line | Arc) for edge in edges):
        raise ScriptError("`make_face` takes a list of lines and arcs")
    return _Region((closed_loop(tuple(edges)),))


def _extrude(to_extrude: Any, amount: Any, both: bool = False) -> Body:
    if not isinstance(to_extrude, _Region) or to_extrude.on is None:
        raise ScriptError("`extrude` takes a plane times a sketch")
    on, found = to_extrude.on, profiles(to_extrude.loops)
    if len(found) > 1:
        raise ScriptError("a loop beside another in one sketch: give each an extrusion of its own")
    return extruded(found, on.plane, on.offset, number(amount), switch(both))


def _line(start: Any, end: Any) -> Edge:
    return Line(point2(start), point2(end))


def _arc(start: Any, middle: Any, end: Any) -> Edge:
    return arc_through(point2(start), point2(middle), point2(end))


def _together(value: Any) -> Body:
    """A body, or a list of them as one extrusion."""
    bodies = value if isinstance(value, list) else [value]
    if not bodies or not all(isinstance(body, Body) and body.extrudes for body in bodies):
        raise ScriptError("only what has been extruded can be added to a part or taken from it")
    made: Body = bodies[0]
    for body in bodies[1:]:
        made = made.beside(body)
    return made


OPERATIONS: dict[type[ast.operator], Operation] = {
    ast.Add: Operation.JOIN,
    ast.Sub: Operation.CUT,
    ast.BitAnd: Operation.INTERSECT,
}


def _operated(operator: type[ast.operator], left: Any, right: Any) -> Any:
    if isinstance(left, Body) and operator in OPERATIONS:
        return left.combined(OPERATIONS[operator], _together(right))
    if isinstance(left, _Region) and isinstance(right, _Region) and operator is ast.Sub and left.on is right.on is None:
        return _Region(left.loops + right.loops)
    if operator is ast.Mult and isinstance(right, _Region) and right.on is None:
        if isinstance(left, _Pos):
            return _Region(tuple(map_loop(loop, left.moved) for loop in right.loops))
        if isinstance(left, _On):
            return replace(right, on=left)
    return None


DIALECT = Dialect(
    "build123d",
    {
        "Plane": _plane,
        **{f"Plane.{name}": _On(named_plane(name)) for name in NAMED_PLANES},
        "Part": lambda: Body(()),
        "Pos": lambda x=0.0, y=0.0: _Pos(point2(x, y)),
        "Circle": lambda radius: _Region((circle((0.0, 0.0), radius),)),
        "Rectangle": lambda width, height: _Region((rectangle((0.0, 0.0), width, height),)),
        "Line": _line,
        "ThreePointArc": _arc,
        "make_face": _make_face,
        "extrude": _extrude,
    },
    {_On: {"offset": _offset}},
    _operated,
    lambda value: value if isinstance(value, Body) else None,
)
