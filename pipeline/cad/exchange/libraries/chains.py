"""CadQuery's solids in a chain of calls: what ``workplane`` has drawn is extruded, drilled, put together and moved."""

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.cad.exchange.libraries.bodies import Body, extruded
from pipeline.cad.exchange.libraries.finishing import chamfer, edges, fillet, offset
from pipeline.cad.exchange.libraries.pen import LINES
from pipeline.cad.exchange.libraries.reader import Dialect
from pipeline.cad.exchange.libraries.values import (
    NAMED_PLANES,
    TOUCH_MM,
    ScriptError,
    circle,
    named_plane,
    number,
    plane,
    profiles,
    rectangle,
    switch,
    vector,
)
from pipeline.cad.exchange.libraries.workplane import DRAWING, Workplane, middle_of, positive, turned
from pipeline.cad.language.program import Loop, Operation, Plane, Vec3, dot, map_loop

SIDES = {  # CadQuery's names for planes that look at a side
    "front": NAMED_PLANES["XY"],
    "back": ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "left": NAMED_PLANES["ZY"],
    "right": ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0)),
    "top": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "bottom": NAMED_PLANES["XZ"],
}
AXES: dict[str, Vec3] = {"X": (1.0, 0.0, 0.0), "Y": (0.0, 1.0, 0.0), "Z": (0.0, 0.0, 1.0)}
ADDING, CUTTING = (True, "a"), ("cut", "s")


def _begun(inPlane: Any = "XY", origin: Any = None) -> Workplane:
    if isinstance(inPlane, Plane):
        return Workplane(inPlane if origin is None else plane(origin, inPlane.x_axis, inPlane.normal))
    if not isinstance(inPlane, str):
        raise ScriptError("`Workplane` of something that is no plane")
    on = Plane((0.0, 0.0, 0.0), *SIDES[inPlane]) if inPlane in SIDES else named_plane(inPlane)
    return Workplane(plane((0.0, 0.0, 0.0) if origin is None else origin, on.x_axis, on.normal))


def _plane(origin: Any = (0.0, 0.0, 0.0), xDir: Any = (1.0, 0.0, 0.0), normal: Any = (0.0, 0.0, 1.0)) -> Plane:
    return plane(origin, xDir, normal)


def _part(wp: Workplane, word: str) -> Body:
    if wp.solid is None:
        raise ScriptError(f"`{word}` where there is no solid")
    return wp.solid


def _with(wp: Workplane, solid: Body) -> Workplane:
    """The chain after a solid was made: it is all that the stack holds."""
    return replace(wp, loops=(), spots=(), pen=None, shown=(), solid=solid, holds=True, face=None, upright=None)


# -- extrusions ---------------------------------------------------------------------------------------------------


def _extrude(wp: Workplane, until: Any, combine: Any = True, *, both: Any = False, taper: Any = None) -> Workplane:
    """What is drawn, along the normal."""
    _straight(until, taper, "extrude")
    if combine in CUTTING:
        return _cut_blind(wp, until, both=both, taper=taper)
    return _added(wp, _swept(wp, "extrude", 0.0, number(until), switch(both)), combine)


def _cut_blind(wp: Workplane, until: Any, *, both: Any = False, taper: Any = None) -> Workplane:
    _straight(until, taper, "cutBlind")
    tool = _swept(wp, "cutBlind", 0.0, number(until), switch(both))
    return _with(wp, _part(wp, "cutBlind").combined(Operation.CUT, tool))


def _cut_thru_all(wp: Workplane, *, taper: Any = None) -> Workplane:
    _straight(0.0, taper, "cutThruAll")
    part = _part(wp, "cutThruAll")
    low, high = part.reach(wp.plane)
    tool = _swept(wp, "cutThruAll", low, high - low, False)
    return _with(wp, part.combined(Operation.CUT, tool))


def _straight(until: Any, taper: Any, word: str) -> None:
    if isinstance(until, str):
        raise ScriptError(f"`{word}` until {until[:20]!r} is not read; give a distance")
    if taper is not None and number(taper) != 0:
        raise ScriptError(f"`{word}` with a taper is not read")


def _swept(wp: Workplane, word: str, offset: float, amount: float, both: bool) -> Body:
    if wp.edges:
        raise ScriptError(f"`{word}` before `close`")
    begun = replace(wp.plane, origin=wp.plane.to_world((0.0, 0.0), -wp.raised))
    return extruded(profiles(wp.loops), begun, wp.raised + offset, amount, both)


def _added(wp: Workplane, made: Body, combine: Any) -> Workplane:
    if combine is False or wp.solid is None:
        return _with(wp, made)
    if combine not in ADDING:
        raise ScriptError("`combine` is one of True, False, 'a', 's' and 'cut'")
    return _with(wp, wp.solid.combined(Operation.JOIN, made))


def _box(
    wp: Workplane,
    length: Any,
    width: Any,
    height: Any,
    centered: Any = True,
    combine: Any = True,
) -> Workplane:
    x, y, z = middle_of(centered, positive(length), positive(width), positive(height))
    return _prisms(wp, "box", rectangle((x, y), length, width), z, height, combine)


def _cylinder(wp: Workplane, height: Any, radius: Any, *, centered: Any = True, combine: Any = True) -> Workplane:
    across = 2 * positive(radius)
    x, y, z = middle_of(centered, across, across, positive(height))
    return _prisms(wp, "cylinder", circle((x, y), radius), z, height, combine)


def _prisms(wp: Workplane, word: str, loop: Loop, middle: float, height: float, combine: Any) -> Workplane:
    """A prism at each place; they may overlap, as profiles of one extrusion may."""
    if wp.edges or wp.loops:
        raise ScriptError(f"`{word}` before what is drawn is extruded")
    found = [profiles((map_loop(loop, spot.moved),))[0] for spot in wp.places(word)]
    offset, amount, both = (0.0, height / 2, True) if middle == 0 else (middle - height / 2, height, False)
    made = extruded(tuple(found), wp.plane, offset, amount, both)
    if combine in CUTTING:
        return _with(wp, _part(wp, word).combined(Operation.CUT, made))
    return _added(wp, made, combine)


def _hole(wp: Workplane, diameter: Any, depth: Any = None) -> Workplane:
    return _with(wp, _drilled(wp, "hole", _part(wp, "hole"), diameter, depth))


def _cbore_hole(wp: Workplane, diameter: Any, cboreDiameter: Any, cboreDepth: Any, depth: Any = None) -> Workplane:
    through = _drilled(wp, "cboreHole", _part(wp, "cboreHole"), diameter, depth)
    return _with(wp, _drilled(wp, "cboreHole", through, cboreDiameter, positive(cboreDepth)))


def _drilled(wp: Workplane, word: str, part: Body, diameter: Any, depth: Any) -> Body:
    """A part with a hole at each place, from the plane down: so deep, or through."""
    low, high = part.reach(wp.plane)
    if depth is None and (high < -TOUCH_MM or low >= 0):
        raise ScriptError(f"`{word}` through a part that does not reach the workplane; give its depth")
    loop = circle((0.0, 0.0), positive(diameter) / 2)
    holes = [profiles((map_loop(loop, spot.moved),))[0] for spot in wp.places(word)]
    tool = extruded(tuple(holes), wp.plane, 0.0, low if depth is None else -positive(depth), False)
    return part.combined(Operation.CUT, tool)


# -- solids -------------------------------------------------------------------------------------------------------


def _faces(wp: Workplane, selector: Any = None) -> Workplane:
    """The furthest face along an axis."""
    named = isinstance(selector, str) and selector[:1] in ("<", ">") and selector[1:] in AXES
    if not named or not wp.holds:
        raise ScriptError(f"`faces` is read of a solid, with one of {', '.join(f'>{each}, <{each}' for each in AXES)}")
    x, y, z = AXES[selector[1:]]
    sign = 1.0 if selector[0] == ">" else -1.0
    face = _part(wp, "faces").face((sign * x, sign * y, sign * z))
    return replace(wp, face=face, spots=(), pen=None, shown=(), holds=False)


def _by(operation: Operation, word: str) -> Callable[..., Workplane]:
    def combined(wp: Workplane, other: Any, *, tol: Any = None) -> Workplane:
        if tol is not None:
            raise ScriptError(f"`{word}` with a tolerance is not read")
        if not isinstance(other, Workplane) or not other.holds:
            raise ScriptError(f"`{word}` of something that is no solid")
        if wp.solid is None and operation is Operation.JOIN:
            return _with(wp, _part(other, word))
        return _with(wp, _part(wp, word).combined(operation, _part(other, word)))

    return combined


def _add(wp: Workplane, other: Any) -> Workplane:
    """Another solid on the stack: of one extrusion with the first, where it reaches as far."""
    if not isinstance(other, Workplane) or not other.holds:
        raise ScriptError("`add` of something that is no solid")
    if wp.solid is None:
        return _with(wp, _part(other, "add"))
    if not wp.holds:
        raise ScriptError("`add` to something that is no solid")
    return _with(wp, wp.solid.beside(_part(other, "add")))


def _solids(wp: Workplane) -> Workplane:
    if not wp.holds:
        raise ScriptError("there is no solid on the stack")
    return wp


def _moved(wp: Workplane, word: str, turn: Callable[[Vec3], Vec3], shift: Vec3, mirrored: bool = False) -> Workplane:
    if not wp.holds:
        raise ScriptError(f"`{word}` of something that is no solid")

    def point(at: Vec3) -> Vec3:
        x, y, z = turn(at)
        return x + shift[0], y + shift[1], z + shift[2]

    return replace(wp, solid=_part(wp, word).moved(point, turn, mirrored))


def _translate(wp: Workplane, vec: Any) -> Workplane:
    x, y, z = vector(vec, 3)
    return _moved(wp, "translate", lambda direction: direction, (x, y, z))


def _rotate(wp: Workplane, axisStartPoint: Any, axisEndPoint: Any, angleDegrees: Any) -> Workplane:
    start, end = vector(axisStartPoint, 3), vector(axisEndPoint, 3)
    length = math.dist(start, end)
    if length < TOUCH_MM:
        raise ScriptError("`rotate` around an axis of no length")
    axis = ((end[0] - start[0]) / length, (end[1] - start[1]) / length, (end[2] - start[2]) / length)
    angle, base = math.radians(number(angleDegrees)), (start[0], start[1], start[2])
    there = turned(base, axis, angle)
    shift = (base[0] - there[0], base[1] - there[1], base[2] - there[2])
    return _moved(wp, "rotate", lambda direction: turned(direction, axis, angle), shift)


def _mirror(wp: Workplane, mirrorPlane: Any = "XY", basePointVector: Any = None, union: Any = False) -> Workplane:
    """The mirror image, at a plane along two axes."""
    if not isinstance(mirrorPlane, str) or len(mirrorPlane) != 2 or not set(mirrorPlane) < set(AXES):
        raise ScriptError(f"`mirror` is read at one of {', '.join(NAMED_PLANES)}")
    normal = next(AXES[name] for name in AXES if name not in mirrorPlane)
    base = vector(basePointVector, 3) if basePointVector is not None else (0.0, 0.0, 0.0)
    twice = 2 * dot((base[0], base[1], base[2]), normal)

    def flip(direction: Vec3) -> Vec3:
        x, y, z = (part * (1 - 2 * along) for part, along in zip(direction, normal, strict=True))
        return x, y, z

    shift = (twice * normal[0], twice * normal[1], twice * normal[2])
    image = _moved(wp, "mirror", flip, shift, mirrored=True)
    return _by(Operation.JOIN, "mirror")(wp, image) if switch(union) else image


OPERATORS = {
    ast.Add: Operation.JOIN,
    ast.BitOr: Operation.JOIN,
    ast.Sub: Operation.CUT,
    ast.BitAnd: Operation.INTERSECT,
    ast.Mult: Operation.INTERSECT,
}


def _operated(operator: type[ast.operator], left: Any, right: Any) -> Any:
    if isinstance(left, Workplane) and isinstance(right, Workplane) and operator in OPERATORS:
        return _by(OPERATORS[operator], operator.__name__)(left, right)
    return None


def _body(value: Any) -> Body | None:
    return value.solid if isinstance(value, Workplane) else None


def _tidied(word: Callable[..., Workplane]) -> Callable[..., Workplane]:
    """A word that is also told how CadQuery simplifies its result, which is the same solid."""

    def called(wp: Workplane, *values: Any, **named: Any) -> Workplane:
        return word(wp, *values, **{name: value for name, value in named.items() if name not in ("clean", "glue")})

    return called


SOLIDS: dict[str, Callable[..., Workplane]] = {
    "extrude": _extrude,
    "cutBlind": _cut_blind,
    "cutThruAll": _cut_thru_all,
    "box": _box,
    "cylinder": _cylinder,
    "hole": _hole,
    "cboreHole": _cbore_hole,
    "faces": _faces,
    "edges": edges,
    "fillet": fillet,
    "chamfer": chamfer,
    "offset2D": offset,
    "add": _add,
    "combine": _solids,
    "solids": _solids,
    "clean": _solids,
    "union": _by(Operation.JOIN, "union"),
    "cut": _by(Operation.CUT, "cut"),
    "intersect": _by(Operation.INTERSECT, "intersect"),
    "translate": _translate,
    "rotate": _rotate,
    "mirror": _mirror,
}
DIALECT = Dialect(
    "cadquery",
    {
        "Plane": _plane,
        **{f"Plane.{name}": (lambda name=name: named_plane(name)) for name in NAMED_PLANES},
        "Workplane": _begun,
        "Vector": lambda *parts: vector(parts[0] if len(parts) == 1 else parts, 3),
    },
    {Workplane: {**DRAWING, **LINES, **{name: _tidied(word) for name, word in SOLIDS.items()}}},
    _operated,
    _body,
)
