"""Scripts for CadQuery, as they are written: chains of a workplane, one for each profile. ``chains`` reads them."""

from collections.abc import Iterator

from pipeline.cad.exchange.libraries.writer import (
    box,
    drawn,
    headline,
    planes,
    reach,
    regions,
    text,
    tuple_text,
)
from pipeline.cad.language.program import Arc, CadProgram, Circle, Extrude, Loop, Operation, Profile

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
