"""Scripts for CadQuery: chains of a workplane, one for each profile."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipeline.cad.exchange.script_reader import Dialect
from pipeline.cad.exchange.script_values import (
    Body,
    ScriptError,
    arc_through,
    circle,
    closed_loop,
    extruded,
    named_plane,
    number,
    plane,
    point2,
    profile,
    rectangle,
    switch,
)
from pipeline.cad.exchange.script_writer import box, drawn, headline, planes, reach, regions, text, tuple_text
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
    Profile,
)

METHODS = {
    Operation.NEW: "union",
    Operation.JOIN: "union",
    Operation.CUT: "cut",
    Operation.INTERSECT: "intersect",
}


def lines(program: CadProgram) -> Iterator[str]:
    """The script of a program in millimetres."""
    yield "# Millimetres. Made for CadQuery 2; `cadmllm cad convert` reads it, too."
    yield "import cadquery as cq"
    for number_, extrude in enumerate(program.extrudes, 1):
        yield ""
        yield from headline(extrude, number_)
        yield from _step(extrude, f"step{number_}")
        if number_ == 1:
            several = len(list(regions(extrude))) > 1  # CadQuery would cut the first of them alone
            yield f"part = step1{'.combine()' if several else ''}"
        else:
            yield f"part = part.{METHODS[extrude.operation]}(step{number_})"


def _step(extrude: Extrude, name: str) -> Iterator[str]:
    on = planes(extrude, name)
    for plane_, plane_name in on.items():
        axes = f"xDir={tuple_text(plane_.x_axis)}, normal={tuple_text(plane_.normal)}"
        yield f"{plane_name} = cq.Plane(origin={tuple_text(plane_.origin)}, {axes})"
    yield f"{name} = ("
    for i, (plane_, profile_) in enumerate(regions(extrude)):
        indent, start = ("    ", "") if i == 0 else ("        ", "    .add(\n        ")
        chain = list(_chain(profile_, extrude))
        yield f"{start or indent}cq.Workplane({on[plane_]})"
        yield from (f"{indent}{link}" for link in chain)
        if i:
            yield "    )"
    yield ")"


def _chain(profile_: Profile, extrude: Extrude) -> Iterator[str]:
    offset, amount, both = reach(extrude.extent)
    if offset:
        yield f".workplane(offset={text(offset)})"
    for loop in profile_.loops:
        yield from _drawing(loop)
    yield f".extrude({text(amount)}{', both=True' if both else ''})"


def _drawing(loop: Loop) -> Iterator[str]:
    first = loop.curves[0]
    if isinstance(first, Circle):
        yield f".moveTo{tuple_text(first.centre)}.circle({text(first.radius)})"
    elif sides := box(loop):
        centre, width, height = sides
        yield f".moveTo{tuple_text(centre)}.rect({text(width)}, {text(height)})"
    else:
        edges = drawn(loop)
        yield f".moveTo{tuple_text(edges[0].start)}"
        for i, edge in enumerate(edges):
            if isinstance(edge, Arc):
                yield f".threePointArc({tuple_text(edge.at(0.5))}, {tuple_text(edge.end)})"
            elif i < len(edges) - 1:
                yield f".lineTo{tuple_text(edge.end)}"
        yield ".close()"


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Workplane:
    """A chain while it draws: its plane, loops that are closed, and the pen.

    Attributes:
        offset: of the workplane above ``plane``.
    """

    plane: Plane
    offset: float = 0.0
    loops: tuple[Loop, ...] = ()
    pen: Point2 = (0.0, 0.0)
    edges: tuple[Edge, ...] = ()

    def workplane(self, offset: float = 0.0) -> "Workplane":
        """Raised along its normal."""
        return replace(self, offset=self.offset + number(offset))

    def move_to(self, x: float = 0.0, y: float = 0.0) -> "Workplane":
        """The pen somewhere else; nothing is drawn."""
        if self.edges:
            raise ScriptError("`moveTo` before `close`")
        return replace(self, pen=point2(x, y))

    def line_to(self, x: float, y: float) -> "Workplane":
        """A straight edge from the pen."""
        end = point2(x, y)
        return replace(self, pen=end, edges=(*self.edges, Line(self.pen, end)))

    def three_point_arc(self, point1: Any, point2_: Any) -> "Workplane":
        """An arc from the pen over one point to another."""
        end = point2(point2_)
        return replace(self, pen=end, edges=(*self.edges, arc_through(self.pen, point2(point1), end)))

    def close(self) -> "Workplane":
        """Back to where the loop began."""
        if not self.edges:
            raise ScriptError("`close` where nothing is drawn")
        first, last = self.edges[0].start, self.edges[-1].end
        edges = self.edges if _same(first, last) else (*self.edges, Line(last, first))
        return replace(self, loops=(*self.loops, closed_loop(edges)), edges=(), pen=first)

    def circle(self, radius: float) -> "Workplane":
        """A circle around the pen."""
        return replace(self, loops=(*self.loops, circle(self.pen, radius)))

    def rect(self, xLen: float, yLen: float) -> "Workplane":
        """A rectangle around the pen."""
        return replace(self, loops=(*self.loops, rectangle(self.pen, xLen, yLen)))

    def extrude(self, until: float, both: bool = False) -> Body:
        """What is drawn, along the normal."""
        if self.edges:
            raise ScriptError("`extrude` before `close`")
        profiles = (profile(self.loops),) if self.loops else ()
        return extruded(profiles, self.plane, self.offset, number(until), switch(both))


def _same(a: Point2, b: Point2) -> bool:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) < 1e-6


def _plane(origin: Any = (0.0, 0.0, 0.0), xDir: Any = (1.0, 0.0, 0.0), normal: Any = (0.0, 0.0, 1.0)) -> Plane:
    return plane(origin, xDir, normal)


def _workplane(inPlane: Any = "XY", origin: Any = None) -> Workplane:
    on = named_plane(inPlane) if isinstance(inPlane, str) else inPlane
    if not isinstance(on, Plane):
        raise ScriptError("`Workplane` of something that is no plane")
    if origin is not None:
        on = plane(origin, on.x_axis, on.normal)
    return Workplane(on)


def _by(operation: Operation) -> Any:
    def combined(body: Body, other: Any) -> Body:
        if not isinstance(other, Body):
            raise ScriptError(f"{operation} of something that is no solid")
        return body.combined(operation, other)

    return combined


def _add(body: Body, other: Any) -> Body:
    if not isinstance(other, Body):
        raise ScriptError("`add` of something that is no solid")
    return body.beside(other)


def _no_operators(_operator: type[ast.operator], _left: Any, _right: Any) -> None:
    """CadQuery's solids are combined by methods."""


DIALECT = Dialect(
    "cadquery",
    {"cq.Plane": _plane, "cq.Workplane": _workplane},
    {
        Workplane: {
            "workplane": Workplane.workplane,
            "moveTo": Workplane.move_to,
            "lineTo": Workplane.line_to,
            "threePointArc": Workplane.three_point_arc,
            "close": Workplane.close,
            "circle": Workplane.circle,
            "rect": Workplane.rect,
            "extrude": Workplane.extrude,
        },
        Body: {
            "add": _add,
            "combine": lambda body: body,
            "union": _by(Operation.JOIN),
            "cut": _by(Operation.CUT),
            "intersect": _by(Operation.INTERSECT),
        },
    },
    _no_operators,
)
