"""Omni-CAD's construction-sequence JSON to programs, and back.

Only what makes geometry is kept: profiles that no extrusion uses are dropped on reading. Whatever the
format allows and we do not support is rejected by name.
"""

import json
import math
from typing import Any

from pipeline.cad.language.program import (
    Arc,
    CadProgram,
    Circle,
    Curve,
    Edge,
    Extent,
    ExtentKind,
    Extrude,
    Line,
    Loop,
    Operation,
    Plane,
    Point2,
    Profile,
    Sketch,
    Vec3,
)
from pipeline.runtime.errors import RejectError

OPERATIONS = {
    "NewBodyFeatureOperation": Operation.NEW,
    "JoinFeatureOperation": Operation.JOIN,
    "CutFeatureOperation": Operation.CUT,
    "IntersectFeatureOperation": Operation.INTERSECT,
}
EXTENTS = {
    "OneSideFeatureExtentType": ExtentKind.ONE_SIDED,
    "SymmetricFeatureExtentType": ExtentKind.SYMMETRIC,
    "TwoSidesFeatureExtentType": ExtentKind.TWO_SIDED,
}
MAX_ABS = 1e6  # metres; beyond it a coordinate is damage, not geometry
TOUCH = 1e-5  # neighbours in a loop may be this far apart, relative to the loop's size
MAX_BYTES = 64 << 20
MAX_CURVES = 100_000  # of all steps: a sketch that many of them name is read for each


def loads(data: bytes | str) -> CadProgram:
    """Parse one Omni-CAD JSON document.

    Raises:
        RejectError: ``malformed_json``, ``malformed_model``, or the name of what is not supported.
    """
    if len(data) > MAX_BYTES:
        raise RejectError("malformed_json", f"larger than {MAX_BYTES >> 20} MiB")
    if not data.strip():
        raise RejectError("empty_file")
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RejectError("malformed_json", str(error)) from error
    return from_document(document)


def from_document(document: Any) -> CadProgram:
    """The program in a parsed document. Raises as ``loads``."""
    try:
        entities, sequence = document["entities"], document["sequence"]
        extrudes, curves = [], 0
        for item in sequence:
            entity = entities[item["entity"]]
            kind = entity["type"]
            if kind == "ExtrudeFeature":
                extrude = _extrude(entity, entities)
                if extrude is not None:
                    extrudes.append(extrude)
                    curves += CadProgram((extrude,)).num_curves
                if curves > MAX_CURVES:
                    raise RejectError("malformed_model", f"more than {MAX_CURVES:,} curves")
            elif kind != "Sketch":
                raise RejectError("unsupported_feature", str(kind))
    except KeyError as error:
        raise RejectError("malformed_model", f"{error} is missing; is it a model of Omni-CAD?") from error
    except (TypeError, AttributeError, IndexError, RecursionError) as error:
        raise RejectError("malformed_model", f"{type(error).__name__}: {error}") from error
    if not extrudes:
        raise RejectError("no_geometry", "no extrusion with a profile")
    if extrudes[0].operation in (Operation.CUT, Operation.INTERSECT):
        raise RejectError("unsupported_sequence", f"the first extrusion is a {extrudes[0].operation}")
    return CadProgram(tuple(extrudes))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RejectError("malformed_model", f"{value!r:.40} is not a number")
    if not abs(value) <= MAX_ABS:
        raise RejectError("value_out_of_range", f"{value!r:.40}")
    return float(value)


def _vec3(value: Any) -> Vec3:
    return (_number(value["x"]), _number(value["y"]), _number(value["z"]))


def _point2(value: Any) -> Point2:
    return (_number(value["x"]), _number(value["y"]))


def _extrude(entity: dict[str, Any], entities: dict[str, Any]) -> Extrude | None:
    """The extrusion, or None where it names no profile (Omni-CAD has such: they make nothing)."""
    by_sketch: dict[str, dict[str, None]] = {}  # dictionaries as ordered sets: profiles are named twice at times
    for reference in entity["profiles"]:
        by_sketch.setdefault(reference["sketch"], {})[reference["profile"]] = None
    if not by_sketch:
        return None
    operation = OPERATIONS.get(entity["operation"])
    if operation is None:
        raise RejectError("unsupported_operation", str(entity["operation"]))
    if entity["start_extent"]["type"] != "ProfilePlaneStartDefinition":
        raise RejectError("unsupported_start_extent", str(entity["start_extent"]["type"]))
    sketches = tuple(_sketch(entities[name], profiles) for name, profiles in by_sketch.items())
    return Extrude(sketches, operation, _extent(entity))


def _extent(entity: dict[str, Any]) -> Extent:
    kind = EXTENTS.get(entity["extent_type"])
    if kind is None:
        raise RejectError("unsupported_extent", str(entity["extent_type"]))
    distances = []
    for side in ("extent_one", "extent_two"):
        definition = entity.get(side)
        if definition is None and not (side == "extent_two" and kind is not ExtentKind.TWO_SIDED):
            raise RejectError("malformed_model", f"{side} is missing")
        if definition is None:
            distances.append(0.0)
            continue
        if definition["type"] != "DistanceExtentDefinition":
            raise RejectError("unsupported_extent", str(definition["type"]))
        if abs(_number(definition.get("taper_angle", {}).get("value", 0.0))) > 1e-9:
            raise RejectError("unsupported_taper", f"{definition['taper_angle']['value']} rad")
        distances.append(_number(definition["distance"]["value"]))
    extent = Extent(kind, distances[0], distances[1] if kind is ExtentKind.TWO_SIDED else 0.0)
    low, high = extent.interval
    if high - low < 1e-9:
        raise RejectError("zero_extrusion")
    return extent


def _sketch(entity: dict[str, Any], profiles: dict[str, None]) -> Sketch:
    transform = entity["transform"]
    x_axis, y_axis, normal = (_vec3(transform[axis]) for axis in ("x_axis", "y_axis", "z_axis"))
    plane = Plane(_vec3(transform["origin"]), x_axis, normal)
    if not (_is_unit(x_axis) and _is_unit(normal) and math.dist(plane.y_axis, y_axis) < 1e-4):
        raise RejectError("malformed_model", "the sketch plane's axes are not right-handed orthonormal")
    return Sketch(plane, tuple(_profile(entity["profiles"][name]) for name in profiles))


def _is_unit(vector: Vec3) -> bool:
    return abs(math.hypot(*vector) - 1) < 1e-4


def _profile(entity: dict[str, Any]) -> Profile:
    loops = [_loop(loop["profile_curves"]) for loop in entity["loops"]]
    if not loops:
        raise RejectError("malformed_model", "a profile without loops")
    # `is_outer` is true on every loop of the dataset, so the largest is the outer one.
    outer = max(range(len(loops)), key=lambda i: abs(loops[i].signed_area))
    return Profile(loops[outer], tuple(loop for i, loop in enumerate(loops) if i != outer))


def _loop(curves: list[dict[str, Any]]) -> Loop:
    parsed = [_curve(curve) for curve in curves]
    if not parsed:
        raise RejectError("malformed_model", "a loop without curves")
    if any(isinstance(curve, Circle) for curve in parsed):
        if len(parsed) > 1:
            raise RejectError("malformed_model", "a circle among other curves of a loop")
        return Loop(tuple(parsed))
    return Loop(tuple(_chain([curve for curve in parsed if not isinstance(curve, Circle)])))


def _curve(curve: dict[str, Any]) -> Curve:
    kind = curve["type"]
    if kind == "Line3D":
        return Line(_point2(curve["start_point"]), _point2(curve["end_point"]))
    if kind == "Circle3D":
        radius = _number(curve["radius"])
        if radius <= 0:
            raise RejectError("malformed_model", f"a circle of radius {radius}")
        return Circle(_point2(curve["center_point"]), radius)
    if kind == "Arc3D":
        return _arc(curve)
    raise RejectError("unsupported_curve", str(kind))


def _arc(curve: dict[str, Any]) -> Arc:
    """The arc turns counter-clockwise in sketch coordinates from its reference vector; its end points come in
    either order. Its ``normal`` is a world vector and says nothing here."""
    centre, radius = _point2(curve["center_point"]), _number(curve["radius"])
    start, end = _point2(curve["start_point"]), _point2(curve["end_point"])
    reference, first = _point2(curve["reference_vector"]), _number(curve["start_angle"])
    sweep = _number(curve["end_angle"]) - first
    if radius <= 0 or not 0 < sweep < 2 * math.pi:
        raise RejectError("malformed_model", f"an arc of radius {radius} and sweep {sweep}")
    angle = math.atan2(reference[1], reference[0]) + first
    begin = (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))
    to_start, to_end = math.dist(begin, start), math.dist(begin, end)
    if min(to_start, to_end) > 1e-2 * radius:
        raise RejectError("malformed_model", "an arc whose angles and end points disagree")
    return Arc(start, end, centre, sweep if to_start <= to_end else -sweep)


def _chain(edges: list[Edge]) -> list[Edge]:
    """The edges turned so that each begins where the one before ends."""
    points = [point for edge in edges for point in (edge.start, edge.end)]
    size = max(math.dist(points[0], point) for point in points)
    if len(edges) < 2 or size == 0:
        raise RejectError("open_loop", "a single edge does not close")

    def touches(a: Point2, b: Point2) -> bool:
        return math.dist(a, b) <= TOUCH * size + 1e-9

    first, second = edges[0], edges[1]
    if not (touches(first.end, second.start) or touches(first.end, second.end)):
        first = first.reversed()
    chained = [first]
    for listed in edges[1:]:
        end = chained[-1].end
        backwards = math.dist(listed.end, end) < math.dist(listed.start, end)
        edge = listed.reversed() if backwards else listed
        if not touches(edge.start, end):
            raise RejectError("open_loop", f"a gap of {math.dist(edge.start, end):.3g}")
        chained.append(edge)
    if not touches(chained[-1].end, chained[0].start):
        raise RejectError("open_loop", f"a gap of {math.dist(chained[-1].end, chained[0].start):.3g} at the end")
    return chained


def dumps(program: CadProgram, indent: int | None = 1) -> str:
    """The program as Omni-CAD JSON, formatted as the dataset is (``indent=1``)."""
    return json.dumps(to_document(program), indent=indent)


def to_document(program: CadProgram) -> dict[str, Any]:
    """The program as an Omni-CAD document: a sketch entity before each extrusion that uses it."""
    entities: dict[str, Any] = {}
    sequence: list[dict[str, Any]] = []
    names = {operation: name for name, operation in OPERATIONS.items()}
    kinds = {kind: name for name, kind in EXTENTS.items()}

    def append(kind: str, key: str, entity: dict[str, Any]) -> None:
        entities[key] = entity
        sequence.append({"index": len(sequence), "type": kind, "entity": key})

    for number, extrude in enumerate(program.extrudes, 1):
        references = []
        for sketch in extrude.sketches:
            key = f"sketch_{len(sequence)}"
            profiles = {f"{key}_p{i}": _profile_document(profile) for i, profile in enumerate(sketch.profiles)}
            references += [{"profile": name, "sketch": key} for name in profiles]
            append("Sketch", key, _sketch_document(sketch, profiles, len(sequence)))
        feature = {
            "extent_two": _extent_document(extrude.extent.two, "AgainstDistance", "Side2TaperAngle"),
            "name": f"Extrude {number}",
            "extent_one": _extent_document(extrude.extent.one, "AlongDistance", "TaperAngle"),
            "extent_type": kinds[extrude.extent.kind],
            "operation": names[extrude.operation],
            "start_extent": {"type": "ProfilePlaneStartDefinition"},
            "type": "ExtrudeFeature",
            "profiles": references,
        }
        append("ExtrudeFeature", f"extrude_{number}", feature)
    return {"entities": entities, "properties": {}, "sequence": sequence}


def _xyz(vector: Vec3) -> dict[str, float]:
    return {"y": vector[1], "x": vector[0], "z": vector[2]}


def _xy0(point: Point2) -> dict[str, float]:
    return _xyz((point[0], point[1], 0.0))


def _extent_document(distance: float, role: str, taper_role: str) -> dict[str, Any]:
    def parameter(name: str, value: float) -> dict[str, Any]:
        return {"role": name, "type": "ModelParameter", "name": "none", "value": value}

    return {
        "distance": parameter(role, distance),
        "type": "DistanceExtentDefinition",
        "taper_angle": parameter(taper_role, 0.0),
    }


def _sketch_document(sketch: Sketch, profiles: dict[str, Any], number: int) -> dict[str, Any]:
    plane = sketch.plane
    return {
        "reference_plane": {},
        "type": "Sketch",
        "name": f"Sketch {number}",
        "profiles": profiles,
        "transform": {
            "origin": _xyz(plane.origin),
            "y_axis": _xyz(plane.y_axis),
            "x_axis": _xyz(plane.x_axis),
            "z_axis": _xyz(plane.normal),
        },
    }


def _profile_document(profile: Profile) -> dict[str, Any]:
    def loop_document(loop: Loop, is_outer: bool) -> dict[str, Any]:
        curves = [{**_curve_document(curve), "curve": f"c{i}"} for i, curve in enumerate(loop.curves)]
        return {"profile_curves": curves, "is_outer": is_outer}

    return {"loops": [loop_document(loop, i == 0) for i, loop in enumerate(profile.loops)], "properties": {}}


def _curve_document(curve: Curve) -> dict[str, Any]:
    normal = _xyz((0.0, 0.0, 1.0))
    match curve:
        case Line(start, end):
            return {"start_point": _xy0(start), "type": "Line3D", "end_point": _xy0(end)}
        case Circle(centre, radius):
            return {"center_point": _xy0(centre), "radius": radius, "type": "Circle3D", "normal": normal}
        case Arc(start, end, centre, sweep):
            begin, radius = (start if sweep > 0 else end), curve.radius
            reference = ((begin[0] - centre[0]) / radius, (begin[1] - centre[1]) / radius)
            return {
                "center_point": _xy0(centre),
                "start_angle": 0.0,
                "radius": radius,
                "end_point": _xy0(end),
                "start_point": _xy0(start),
                "normal": normal,
                "type": "Arc3D",
                "end_angle": abs(sweep),
                "reference_vector": _xy0(reference),
            }
