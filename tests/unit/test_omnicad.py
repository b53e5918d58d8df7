"""Reading and writing Omni-CAD JSON."""

import copy
import json
import math

import pytest

from pipeline.cad.language.program import Arc, Extent, ExtentKind, Operation
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.runtime.errors import RejectError


def part(number=0, family="l_bracket"):
    return synthesis.make_part(0, number, (family,)).program


def document(number=0, family="l_bracket"):
    return documents.to_document(part(number, family))


def test_real_files_survive_the_way_there_and_back(real_models):
    for path in real_models:
        program = documents.loads(path.read_bytes())
        assert documents.loads(documents.dumps(program)) == program, path.name


def test_unused_profiles_are_dropped_and_all_operations_read(real_models):
    operations = {e.operation for path in real_models for e in documents.loads(path.read_bytes()).extrudes}
    assert {Operation.NEW, Operation.JOIN, Operation.CUT} <= operations


@pytest.mark.parametrize("family", sorted(synthesis.FAMILIES))
def test_synthetic_parts_survive_the_way_there_and_back(family):
    for number in range(4):
        program = part(number, family)
        assert documents.loads(documents.dumps(program)) == program


def square(curves):
    doc = document()
    first = next(e for e in doc["entities"].values() if e["type"] == "Sketch")
    profile = next(iter(first["profiles"].values()))
    profile["loops"] = [{"is_outer": True, "profile_curves": curves}]
    return doc


def line(x0, y0, x1, y1):
    return {
        "type": "Line3D",
        "start_point": {"x": x0, "y": y0, "z": 0.0},
        "end_point": {"x": x1, "y": y1, "z": 0.0},
    }


def test_curves_are_chained_head_to_tail():
    curves = [line(0, 0, 1, 0), line(1, 1, 1, 0), line(1, 1, 0, 1), line(0, 0, 0, 1)]
    loop = documents.from_document(square(curves)).extrudes[0].sketches[0].profiles[0].outer
    for edge, following in zip(loop.edges, loop.edges[1:] + loop.edges[:1], strict=True):
        assert edge.end == following.start
    assert abs(loop.signed_area) == pytest.approx(1.0)


def test_open_loops_are_rejected():
    with pytest.raises(RejectError, match="open_loop"):
        documents.from_document(square([line(0, 0, 1, 0), line(1, 0, 1, 1), line(1, 1, 0, 0.5)]))


@pytest.mark.parametrize("swapped", [False, True])
def test_an_arc_turns_from_its_reference_vector_whatever_its_normal_and_end_points_say(swapped):
    ends = [{"x": 1.0, "y": 0.0, "z": 0.0}, {"x": 0.0, "y": 1.0, "z": 0.0}]
    start, end = reversed(ends) if swapped else ends
    arc = {
        "type": "Arc3D",
        "start_point": start,
        "end_point": end,
        "center_point": {"x": 0.0, "y": 0.0, "z": 0.0},
        "radius": 1.0,
        "start_angle": 0.0,
        "end_angle": math.pi / 2,
        "reference_vector": {"x": 1.0, "y": 0.0, "z": 0.0},
        "normal": {"x": 0.0, "y": 0.0, "z": -1.0},
    }
    doc = square([arc, line(0, 1, 0, 0), line(0, 0, 1, 0)])
    loop = documents.from_document(doc).extrudes[0].sketches[0].profiles[0].outer
    middle = next(edge for edge in loop.edges if isinstance(edge, Arc)).at(0.5)
    assert middle == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)))


def test_the_largest_loop_is_the_outer_one():
    doc = document(0, "washer")
    for sketch in doc["entities"].values():
        for profile in sketch.get("profiles", {}).values() if sketch["type"] == "Sketch" else []:
            profile["loops"].reverse()
            for loop in profile["loops"]:
                loop["is_outer"] = True
    profile = documents.from_document(doc).extrudes[0].sketches[0].profiles[0]
    assert profile.outer.signed_area > profile.holes[0].signed_area


def test_symmetric_means_the_distance_on_each_side():
    assert Extent(ExtentKind.SYMMETRIC, 2.0).interval == (-2.0, 2.0)
    assert Extent(ExtentKind.TWO_SIDED, 2.0, 1.0).interval == (-1.0, 2.0)
    assert Extent(ExtentKind.ONE_SIDED, -2.0).interval == (-2.0, 0.0)


def damaged(change):
    doc = copy.deepcopy(document())
    feature = next(e for e in doc["entities"].values() if e["type"] == "ExtrudeFeature")
    sketch = next(e for e in doc["entities"].values() if e["type"] == "Sketch")
    curve = next(iter(sketch["profiles"].values()))["loops"][0]["profile_curves"][0]
    change({"doc": doc, "feature": feature, "sketch": sketch, "curve": curve})
    return json.dumps(doc)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e["curve"].update(type="NurbsCurve3D"), "unsupported_curve: NurbsCurve3D"),
        (lambda e: e["feature"]["extent_one"]["taper_angle"].update(value=0.1), "unsupported_taper"),
        (lambda e: e["feature"]["extent_one"].update(type="ToEntityExtentDefinition"), "unsupported_extent"),
        (lambda e: e["feature"].update(extent_type="AllFeatureExtentType"), "unsupported_extent"),
        (lambda e: e["feature"]["start_extent"].update(type="OffsetStartDefinition"), "unsupported_start_extent"),
        (lambda e: e["feature"].update(operation="NewComponent"), "unsupported_operation"),
        (lambda e: e["feature"].update(type="RevolveFeature"), "unsupported_feature"),
        (lambda e: e["feature"]["extent_one"]["distance"].update(value=0.0), "zero_extrusion"),
        (lambda e: e["feature"]["extent_one"]["distance"].update(value=1e30), "value_out_of_range"),
        (lambda e: e["feature"]["extent_one"]["distance"].update(value="long"), "malformed_model"),
        (lambda e: e["feature"].update(operation="CutFeatureOperation"), "unsupported_sequence"),
        (lambda e: e["sketch"].pop("transform"), "malformed_model"),
        (lambda e: e["sketch"]["transform"]["x_axis"].update(x=5.0), "malformed_model"),
        (lambda e: e["doc"].pop("sequence"), "malformed_model"),
        (lambda e: e["doc"].update(sequence=[]), "no_geometry"),
        (lambda e: e["curve"]["start_point"].update(x=float("nan")), "malformed_json"),
    ],
)
def test_what_is_not_supported_is_rejected_by_name(change, reason):
    with pytest.raises(RejectError, match=reason):
        documents.loads(damaged(change))


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty_file"), (b"{", "malformed_json"), (b"[" * 200_000, "malformed_json"), (b"[]", "malformed_model"),
     (b"\xff\xfe", "malformed_json"), (b"null", "malformed_model"), (b'{"a": 1' , "malformed_json")],
)  # fmt: skip
def test_damaged_files_are_rejected_by_name(data, reason):
    with pytest.raises(RejectError, match=reason):
        documents.loads(data)
