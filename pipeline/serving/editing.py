"""What of a program a person changes by one number, and the program after it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pipeline.cad.language.program import (
    Arc,
    CadProgram,
    Circle,
    ExtentKind,
    Extrude,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Sketch,
    axis_of,
    dot,
    map_loop,
)
from pipeline.cad.parts.describe import describe_loop
from pipeline.runtime.errors import UserError

LARGEST = 100.0  # metres
SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number of a program.

    Attributes:
        key: names it within its program: step, then what of it.
        value: in metres.
    """

    key: str
    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Group:
    """Numbers that belong together: a step's extent, or one loop of its sketches."""

    label: str
    parameters: tuple[Parameter, ...]


def groups(extrude: Extrude, step: int) -> list[Group]:
    """The numbers of one step.

    Args:
        step: its position, from 0.
    """
    found = [Group("extrusion", tuple(_extent(extrude, step)))]
    for s, sketch in enumerate(extrude.sketches):
        height = Parameter(f"{step}.plane.{s}", "height of the sketch", dot(sketch.plane.origin, sketch.plane.normal))
        found.append(Group("sketch plane", (height,)))
        for p, profile in enumerate(sketch.profiles):
            for i, loop in enumerate(profile.loops):
                where = f"{step}.loop.{s}.{p}.{i}"
                kind = f"hole: {describe_loop(loop)}" if i else describe_loop(loop)
                found.append(Group(kind, tuple(_loop(loop, where, sketch.plane))))
    return found


def _extent(extrude: Extrude, step: int) -> Iterator[Parameter]:
    match extrude.extent.kind:
        case ExtentKind.ONE_SIDED:
            yield Parameter(f"{step}.extent.one", "distance", extrude.extent.one)
        case ExtentKind.SYMMETRIC:
            yield Parameter(f"{step}.extent.one", "to either side", extrude.extent.one)
        case ExtentKind.TWO_SIDED:
            yield Parameter(f"{step}.extent.one", "one way", extrude.extent.one)
            yield Parameter(f"{step}.extent.two", "the other way", extrude.extent.two)


def _loop(loop: Loop, where: str, plane: Plane) -> Iterator[Parameter]:
    first = loop.curves[0]
    (left, low), (right, high) = _box(loop)
    if isinstance(first, Circle):
        yield Parameter(f"{where}.diameter", "diameter", 2 * first.radius)
    else:
        yield Parameter(f"{where}.width", "width", right - left)
        yield Parameter(f"{where}.height", "height", high - low)
    for name, middle in (("x", (left + right) / 2), ("y", (low + high) / 2)):
        axis, sign, origin = _in_part(plane, name)
        yield Parameter(f"{where}.{name}", f"centre {axis}", origin + sign * middle)


def _in_part(plane: Plane, name: str) -> tuple[str, int, float]:
    """A sketch's x or y in the part's coordinates: the axis, its sign, and where the sketch's origin lies along it."""
    along = axis_of(plane.x_axis if name == "x" else plane.y_axis)
    if along is None or axis_of(plane.normal) is None:
        return f"{name} in the sketch", 1, 0.0
    axis, sign = along
    return "xyz"[axis], sign, plane.origin[axis]


def _box(loop: Loop) -> tuple[Point2, Point2]:
    first = loop.curves[0]
    if isinstance(first, Circle):
        (x, y), r = first.centre, first.radius
        return (x - r, y - r), (x + r, y + r)
    points = loop.outline()
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs), min(ys)), (max(xs), max(ys))


def changed(program: CadProgram, key: str, value: float) -> CadProgram:
    """The program with one number set.

    A centre that is moved takes a profile's holes with it; sizes leave them where they are. An outline with arcs keeps
    its proportions, since an arc stays one only so.

    Args:
        key: of a ``Parameter``.
        value: in metres.

    Raises:
        UserError: no such number, or not that value.
    """
    if not abs(value) <= LARGEST:
        raise UserError(f"{value * 1000:g} mm: a number is {LARGEST * 1000:g} mm at most")
    try:
        step, what, *rest = key.split(".")
        extrude = program.extrudes[_index(step, program.extrudes)]
        match what, rest:
            case "extent", [("one" | "two") as side]:
                after = _with_extent(extrude, side, value)
            case "plane", [s]:
                after = _with_sketch(extrude, s, lambda sketch: _raised(sketch, value))
            case "loop", [s, p, i, name]:
                after = _with_sketch(extrude, s, lambda sketch: _with_loop(sketch, p, i, name, value))
            case _:
                raise LookupError
    except (LookupError, ValueError) as error:
        raise UserError(f"{key[:60]!r} is no number of this program") from error
    position = int(step)
    return CadProgram((*program.extrudes[:position], after, *program.extrudes[position + 1 :]))


def without(program: CadProgram, step: int) -> CadProgram:
    """The program less one step, counted from 0.

    Raises:
        UserError: no such step, or what is left does not begin with a body.
    """
    if not 0 <= step < len(program.extrudes):
        raise UserError(f"there is no step {step + 1}; there are {len(program.extrudes)}")
    first, *others = program.extrudes[:step] + program.extrudes[step + 1 :] or (None,)
    if first is None:
        raise UserError("the last step that is left cannot be deleted")
    if first.operation in (Operation.CUT, Operation.INTERSECT):
        raise UserError(f"without it the part would begin with a {first.operation}; delete that first")
    return CadProgram((replace(first, operation=Operation.NEW), *others))


def _index(text: str, among: tuple[object, ...]) -> int:
    if not text.isdecimal() or int(text) >= len(among):
        raise LookupError(text)
    return int(text)


def _with_extent(extrude: Extrude, side: str, value: float) -> Extrude:
    if side == "two" and extrude.extent.kind is not ExtentKind.TWO_SIDED:
        raise LookupError(side)
    extent = replace(extrude.extent, one=value) if side == "one" else replace(extrude.extent, two=value)
    low, high = extent.interval
    if high - low < SMALLEST:
        raise UserError("an extrusion by nothing")
    return replace(extrude, extent=extent)


def _with_sketch(extrude: Extrude, number: str, change: Callable[[Sketch], Sketch]) -> Extrude:
    i = _index(number, extrude.sketches)
    return replace(extrude, sketches=(*extrude.sketches[:i], change(extrude.sketches[i]), *extrude.sketches[i + 1 :]))


def _raised(sketch: Sketch, height: float) -> Sketch:
    plane = sketch.plane
    origin = plane.to_world((0.0, 0.0), height - dot(plane.origin, plane.normal))
    return replace(sketch, plane=replace(plane, origin=origin))


def _with_loop(sketch: Sketch, profile: str, loop: str, name: str, value: float) -> Sketch:
    p = _index(profile, sketch.profiles)
    chosen = sketch.profiles[p]
    i = _index(loop, chosen.loops)
    loops = list(chosen.loops)
    (left, low), (right, high) = _box(loops[i])
    centre = ((left + right) / 2, (low + high) / 2)
    if name in ("x", "y"):
        _, sign, origin = _in_part(sketch.plane, name)
        there = sign * (value - origin)
        by = (there - centre[0], 0.0) if name == "x" else (0.0, there - centre[1])
        moved = range(len(loops)) if i == 0 else [i]
        for j in moved:
            loops[j] = map_loop(loops[j], lambda at: (at[0] + by[0], at[1] + by[1]))
    else:
        loops[i] = _resized(loops[i], name, value, centre, (right - left, high - low))
    made = Profile(loops[0], tuple(loops[1:]))
    return replace(sketch, profiles=(*sketch.profiles[:p], made, *sketch.profiles[p + 1 :]))


def _resized(loop: Loop, name: str, value: float, centre: Point2, size: Point2) -> Loop:
    if value < SMALLEST:
        raise UserError(f"{value * 1000:g} mm: a size is above 0")
    first = loop.curves[0]
    if isinstance(first, Circle) != (name == "diameter"):
        raise LookupError(name)
    if isinstance(first, Circle):
        return Loop((Circle(first.centre, value / 2),))
    before = {"width": size[0], "height": size[1]}[name]
    if before < SMALLEST:
        raise UserError(f"the outline's {name} is nothing, and cannot be made larger")
    factor = value / before
    has_arcs = any(isinstance(edge, Arc) for edge in loop.edges)
    fx = factor if has_arcs or name == "width" else 1.0
    fy = factor if has_arcs or name == "height" else 1.0
    return map_loop(loop, lambda at: (centre[0] + fx * (at[0] - centre[0]), centre[1] + fy * (at[1] - centre[1])))
