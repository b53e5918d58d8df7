"""What scripts of both libraries have in common: numbers, loops as they are drawn, one description for each step."""

import math
import textwrap
from collections.abc import Iterator
from dataclasses import replace

from pipeline.cad.exchange.libraries.values import NAMED_PLANES, TOUCH_MM
from pipeline.cad.language.planar import cross_or_touch
from pipeline.cad.language.program import (
    Arc,
    CadProgram,
    Circle,
    Extent,
    ExtentKind,
    Extrude,
    Line,
    Loop,
    Plane,
    Point2,
    Profile,
    Sketch,
    axis_of,
    map_sketch,
)
from pipeline.cad.parts.describe import describe_extrude

PARALLEL = 1e-9  # what is parallel to an axis, has no more of another


def in_part_coordinates(program: CadProgram) -> CadProgram:
    """The program with sketches that are parallel to the axes drawn in the part's own coordinates, the same solid.

    So numbers of a sketch are where things are in the part. What is oblique keeps coordinates of its own, and so do
    profiles that touch: cutting with one after the other, build123d's kernel is at the mercy of their last digits.
    """
    return CadProgram(
        tuple(replace(step, sketches=tuple(map(_in_part_coordinates, step.sketches))) for step in program.extrudes)
    )


def _in_part_coordinates(sketch: Sketch) -> Sketch:
    across, along = axis_of(sketch.plane.normal, PARALLEL), axis_of(sketch.plane.x_axis, PARALLEL)
    if across is None or along is None or cross_or_touch([profile.outer for profile in sketch.profiles]):
        return sketch
    named = next(each for each in NAMED_PLANES.values() if axis_of(each[1]) == across)
    origin = [0.0, 0.0, 0.0]
    origin[across[0]] = sketch.plane.origin[across[0]]
    plane = Plane((origin[0], origin[1], origin[2]), *named)
    u, v = (each.index(max(each)) for each in (plane.x_axis, plane.y_axis))  # both point along an axis

    def move(point: Point2) -> Point2:
        at = sketch.plane.to_world(point)
        return at[u], at[v]

    return map_sketch(sketch, plane, move)


def text(value: float) -> str:
    """A number with what digits matter: a picometre, a billionth of a radian."""
    shown = f"{round(value, 9):.12g}"
    return "0" if shown == "-0" else shown


def tuple_text(values: tuple[float, ...]) -> str:
    """``(1, 2, 3)``."""
    return f"({', '.join(map(text, values))})"


def headline(extrude: Extrude, number: int) -> Iterator[str]:
    """What a step makes, in words, as a comment; the program's lengths are millimetres."""
    metres = CadProgram((extrude,)).scaled(1e-3).extrudes[0]
    yield from textwrap.wrap(
        f"{number}. {describe_extrude(metres)}", 118, initial_indent="# ", subsequent_indent="#    "
    )


def numbered(name: str, total: int) -> list[str]:
    """``name``, or where there are several, ``name1``, ``name2``."""
    return [name] if total == 1 else [f"{name}{i}" for i in range(1, total + 1)]


def planes(extrude: Extrude, name: str) -> dict[Plane, str]:
    """The planes of a step, with the names they have in a script."""
    different = list(dict.fromkeys(sketch.plane for sketch in extrude.sketches))
    return dict(zip(different, numbered(f"{name}_plane", len(different)), strict=True))


def regions(extrude: Extrude) -> Iterator[tuple[Plane, Profile]]:
    """Each profile of a step with its plane."""
    for sketch in extrude.sketches:
        for profile in sketch.profiles:
            yield sketch.plane, profile


def reach(extent: Extent) -> tuple[float, float, bool]:
    """Where an extrusion begins above its plane, how far it goes from there, and whether to both sides."""
    low, high = extent.interval
    if extent.kind is ExtentKind.SYMMETRIC:
        return 0.0, high, True
    if extent.kind is ExtentKind.TWO_SIDED and low < 0:
        return low, high - low, False
    return 0.0, high if high > 0 else low, False


def drawn(loop: Loop) -> list[Line | Arc]:
    """The edges of a loop that is not a circle, head to tail to the digit; those of no length left out."""
    edges = loop.edges
    made: list[Line | Arc] = []
    starts = [edge.start for edge in edges]
    for i, edge in enumerate(edges):
        end = starts[(i + 1) % len(edges)]
        if math.dist(edge.start, end) < TOUCH_MM:
            continue
        made.append(Line(edge.start, end) if isinstance(edge, Line) else Arc(edge.start, end, edge.centre, edge.sweep))
    return made


def box(loop: Loop) -> tuple[Point2, float, float] | None:
    """Centre, width and height of a loop that is a rectangle along the axes."""
    if isinstance(loop.curves[0], Circle) or len(loop.edges) != 4:
        return None
    points = [edge.start for edge in loop.edges]
    xs, ys = sorted({text(x) for x, _ in points}, key=float), sorted({text(y) for _, y in points}, key=float)
    straight = all(
        isinstance(edge, Line)
        and (text(edge.start[0]) == text(edge.end[0])) != (text(edge.start[1]) == text(edge.end[1]))
        for edge in loop.edges
    )
    if not straight or len(xs) != 2 or len(ys) != 2:
        return None
    (left, right), (low, high) = map(float, xs), map(float, ys)
    return ((left + right) / 2, (low + high) / 2), right - left, high - low
