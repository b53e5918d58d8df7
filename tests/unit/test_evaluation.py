"""Metrics with known answers and against independent implementations, statistics, disturbances."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from OCP.BRepAlgoAPI import BRepAlgoAPI_Common
from scipy.spatial.distance import cdist

from pipeline.cad.exchange.files import ConvertTask, convert, tokens_text
from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram, Frame, Profile
from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.cad.parts.shapes import circle, extrude, rectangle, symmetric
from pipeline.cad.solids import kernel
from pipeline.cad.solids.distances import chamfer, misfit, to_surface
from pipeline.cad.solids.mesh import flat_mesh, volumetric_iou, watertight
from pipeline.cad.solids.sampling import sample_surface
from pipeline.evaluation.disturbances import noisy, thinned, turned
from pipeline.evaluation.lines import published
from pipeline.evaluation.robustness import table
from pipeline.execution.sandbox import Sandbox
from pipeline.geometry.draw import normalised_mesh
from pipeline.metrics.assess import AssessTask, CompareTask, assess, compare_files
from pipeline.metrics.compact import MAX_POINTS
from pipeline.metrics.compare import compare_pairs, summary
from pipeline.metrics.geometry import Body, chamfer_bounds, cloud_metrics, compare, no_answer_metrics
from pipeline.metrics.pairs import pairs
from pipeline.metrics.sequence import commands, sequence_accuracy
from pipeline.metrics.statistics import OF_SOLIDS, interval, summarise
from pipeline.report.charts import disturbance_chart
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.seeds import generator
from tests.unit.sandboxed import hangs_on_a

PLATE = CadProgram((extrude("top", [Profile(rectangle(2, 2), (circle(0.8),))], symmetric(0.2)),))
BAR = CadProgram((extrude("top", rectangle(2, 0.2), symmetric(1)),))
CODEC = Codec(8)


def part(number):
    return synthesis.make_part(3, number, tuple(synthesis.FAMILIES)).program


def box(x, y, z, shift=0.0):
    return CadProgram((extrude("top", rectangle(x, y, shift, 0), symmetric(z / 2)),))


# -- distances ------------------------------------------------------------------------------------------------


def test_chamfer_by_both_conventions():
    a, b = np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 0.5], [1, 0, 0.5], [1, 0, 2.5]])
    found = chamfer(a, b)
    assert found["chamfer_l1_mean"] == pytest.approx(((0.5 + 0.5) / 2 + (0.5 + 0.5 + 2.5) / 3) / 2)
    assert found["chamfer_squared_sum"] == pytest.approx(0.25 + (0.25 + 0.25 + 6.25) / 3)
    assert chamfer(a, a) == {"chamfer_l1_mean": 0.0, "chamfer_squared_sum": 0.0}


@pytest.mark.slow
def test_cloud_metrics_equal_a_plain_computation_on_fifty_pairs():
    clouds = [sample_surface(normalised_mesh(part(number)), 300, generator(number)) for number in range(51)]
    for first, second in itertools.pairwise(clouds):
        distances = cdist(first[:, :3].astype(float), second[:, :3].astype(float))
        there, back = distances.min(axis=1), distances.min(axis=0)
        near, reached = (there <= 0.05).mean(), (back <= 0.05).mean()
        cosines = np.abs(first[:, 3:].astype(float) @ second[:, 3:].T.astype(float))
        expected = {
            "chamfer_l1_mean": (there.mean() + back.mean()) / 2,
            "chamfer_squared_sum": (there**2).mean() + (back**2).mean(),
            "chamfer_squared_sum_unit_cube": ((there / 2) ** 2).mean() + ((back / 2) ** 2).mean(),
            "f_score_005": 2 * near * reached / (near + reached) if near + reached else 0.0,
            "normal_consistency": (
                cosines[np.arange(300), distances.argmin(axis=1)].mean()
                + cosines[distances.argmin(axis=0), np.arange(300)].mean()
            )
            / 2,
        }
        assert cloud_metrics(first, second) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_volumetric_iou_equals_exact_booleans_on_twenty_pairs():
    """Parts with flat faces alone: tessellation is exact there, so both must agree to the last digits."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        sizes, shift = rng.uniform(0.5, 2, (2, 3)), rng.uniform(-0.5, 0.5)
        frame_hole = Profile(rectangle(*sizes[0][:2]), (rectangle(*(sizes[0][:2] / 3)),))
        first = kernel.build(CadProgram((extrude("front", [frame_hole], symmetric(sizes[0][2])),)))
        second = kernel.build(box(*sizes[1], shift))
        common = kernel.volume(BRepAlgoAPI_Common(first, second).Shape())
        expected = common / (kernel.volume(first) + kernel.volume(second) - common)
        surfaces = [watertight(kernel.tessellate(shape, 0.001)) for shape in (first, second)]
        assert volumetric_iou(*surfaces) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_volumetric_iou_of_round_parts_is_near_exact_booleans():
    for number in range(6):
        first, second = (kernel.build(part(n)) for n in (number, number + 1))
        size = max(np.subtract(*kernel.bounding_box(first)[::-1]))
        common = kernel.volume(BRepAlgoAPI_Common(first, second).Shape())
        expected = common / (kernel.volume(first) + kernel.volume(second) - common)
        surfaces = [watertight(kernel.tessellate(shape, 0.0002 * size)) for shape in (first, second)]
        assert volumetric_iou(*surfaces) == pytest.approx(expected, abs=0.003)


def test_distances_to_a_surface_are_exact_and_free_of_sampling_noise():
    mesh = kernel.tessellate(kernel.build(box(2, 2, 2)), 0.01)
    points = np.array([[0, 0, 1.5], [2, 0, 0], [2, 2, 0], [2, 2, 2], [0.3, 0.2, 0.9], [0.1, -0.7, 1.0]])
    expected = [0.5, 1, np.sqrt(2), np.sqrt(3), 0.1, 0]
    assert to_surface(points, mesh) == pytest.approx(expected, abs=1e-9)
    assert misfit(sample_surface(mesh, 2048, generator(4)), mesh) < 1e-3


def test_no_answer_is_a_point_in_the_middle():
    found = no_answer_metrics(sample_surface(kernel.tessellate(kernel.build(box(2, 2, 2)), 0.01), 4000, generator(0)))
    assert 1 < found["chamfer_l1_mean"] < np.sqrt(3)
    assert (found["f_score_005"], found["volumetric_iou"], found["normal_consistency"]) == (0, 0, 0)


def test_a_body_in_two_pieces_has_a_segment_error():
    pieces = CadProgram((extrude("top", [Profile(rectangle(0.5, 2, x)) for x in (-0.7, 0.7)], symmetric(0.2)),))
    one, two = (Body.of(kernel.tessellate(kernel.build(p), 0.01)) for p in (PLATE, pieces))
    found = compare(two, one, sample_surface(one.mesh, 500, generator(0)), 500, 0)
    assert (found["segments"], found["segment_error"], found["dangling_edge_length"]) == (2, 1, 0)
    assert found["flux_enclosure_error"] == pytest.approx(0, abs=1e-6)
    assert 0.4 < found["volumetric_iou"] < 0.7


def test_a_solid_that_does_not_close_has_an_iou_of_zero_and_an_open_truth_none():
    whole = Body.of(kernel.tessellate(kernel.build(PLATE), 0.01))
    opened = Body.of(replace(whole.mesh, triangles=whole.mesh.triangles[1:], faces=whole.mesh.faces[1:]))
    points = sample_surface(whole.mesh, 500, generator(0))
    assert compare(opened, whole, points, 500, 0)["volumetric_iou"] == 0
    assert compare(whole, opened, points, 500, 0)["volumetric_iou"] is None


def task(program, truth):
    true_tokens = tuple(CODEC.encode(truth).tolist())
    points = sample_surface(normalised_mesh(truth), 2000, generator(1))
    return AssessTask(tuple(CODEC.encode(program).tolist()), true_tokens, 8, points, 1000, 0, 64)


def test_a_program_is_close_to_itself_and_far_from_another():
    own, other = assess(task(PLATE, PLATE)), assess(task(BAR, PLATE))
    assert own["metrics"]["chamfer_l1_mean"] < 0.08
    assert other["metrics"]["chamfer_l1_mean"] > 3 * own["metrics"]["chamfer_l1_mean"]
    assert own["metrics"]["volumetric_iou"] == pytest.approx(1)
    assert own["metrics"]["f_score_005"] > other["metrics"]["f_score_005"]
    assert own["volume"] == pytest.approx(0.4 * (4 - np.pi * 0.16), rel=0.05)
    assert own["picture"].startswith(b"\x89PNG")
    assert own["watertight"]


@pytest.mark.parametrize("suffix", ["stl", "ply", "glb", "step"])
def test_files_of_a_generated_program_have_its_topology(tmp_path, suffix):
    """Two blocks that meet along an edge: two segments for the tools, with faces that touch."""
    blocks = [Profile(rectangle(1, 1, at, at)) for at in (-0.5, 0.5)]
    given = task(CadProgram((extrude("top", blocks, symmetric(0.5)),)), PLATE)
    generated, true = (np.array(tokens) for tokens in (given.tokens, given.true_tokens))
    for name, tokens in (("generated", generated), ("true", true)):
        (tmp_path / f"{name}.tokens").write_text(tokens_text(tokens, 8, Frame((0.0, 0.0, 0.0), 1.0)))
    convert(ConvertTask(tmp_path / "generated.tokens", tmp_path / f"generated.{suffix}"))
    files = tmp_path / f"generated.{suffix}", tmp_path / "true.tokens"
    evaluated, read = assess(given)["metrics"], compare_files(CompareTask(*files, 1000, 0, False))["metrics"]
    assert evaluated["self_intersection_ratio"] > 0
    assert evaluated["segment_error"] == 1
    for name in OF_SOLIDS:
        assert read[name] == pytest.approx(evaluated[name], rel=1e-6, abs=1e-12), name


def test_errors_are_the_distances_of_true_points_to_what_was_built():
    wide, narrow = box(2, 2, 2), box(2, 2, 1)
    tokens = [tuple(CODEC.encode(program, volume).tolist()) for program, volume in ((wide, 8.0), (narrow, 4.0))]
    points = sample_surface(normalised_mesh(wide), 3000, generator(1))
    found = assess(AssessTask(tokens[1], tokens[0], 8, points, 200, 0, 32))["errors"]
    assert len(found) == MAX_POINTS
    expected = np.maximum(np.abs(points[:MAX_POINTS, 2]) - 0.5, 0)
    assert found == pytest.approx(expected, abs=0.01)


def test_what_is_a_models_own_is_kept_once():
    failed = {"key": "a", "combination": "text", "reason": "x"}
    built = {"key": "a", "combination": "image", "true_mesh": "m", "mesh": "n", "picture": "p"}
    lines = list(published([failed, built, built], {"a": {"cloud": "c"}, "b": {"cloud": "d"}}))
    assert lines[0] == {**failed, "cloud": "c", "true_mesh": "m"}
    assert lines[1:] == [{"key": "a", "combination": "image", "mesh": "n"}] * 2


def test_what_does_not_parse_is_named():
    with pytest.raises(RejectError, match="incomplete"):
        assess(replace(task(PLATE, PLATE), tokens=(1, 5)))


# -- sequences ------------------------------------------------------------------------------------------------


def test_commands_are_deepcads():
    assert [command.kind for command in commands(PLATE)] == ["SOL", "L", "L", "L", "L", "SOL", "R", "E", "EOS"]


def test_a_program_is_like_itself_and_length_errors_count():
    assert set(sequence_accuracy(PLATE, PLATE).values()) == {1.0}
    assert set(sequence_accuracy(None, PLATE).values()) == {0.0}
    longer = CadProgram((*PLATE.extrudes, *BAR.extrudes))
    found, reverse = sequence_accuracy(longer, PLATE), sequence_accuracy(PLATE, longer)
    # SOL 4 L SOL R E agree, then E's end against a new loop: 8 of 15 positions.
    assert found["command_accuracy"] == pytest.approx(8 / 15)
    assert found["parameter_accuracy"] == 1.0
    assert reverse["parameter_accuracy_all"] < reverse["parameter_accuracy"] == 1.0


def test_parameters_may_be_two_levels_off_and_no_more():
    level = 2 / 256
    for off, right in ((2 * level, True), (3 * level, False)):
        moved = CadProgram((extrude("top", [Profile(rectangle(2, 2), (circle(0.8, off),))], symmetric(0.2)),))
        assert (sequence_accuracy(moved, PLATE)["parameter_accuracy"] == 1.0) == right


# -- statistics -----------------------------------------------------------------------------------------------


def result(distance=None, tokens=(1, 2), extrusions=1):
    built = distance is not None
    metrics = dict.fromkeys(("f_score_005", "normal_consistency", "volumetric_iou"), 1.0 if built else 0.0)
    metrics |= dict.fromkeys(
        ("chamfer_l1_mean", "chamfer_squared_sum", "chamfer_squared_sum_unit_cube"), distance if built else 0.9
    )
    topology = ("segment_error", "segments", "dangling_edge_length", "self_intersection_ratio", "flux_enclosure_error")
    merged = ("segments_merged", "dangling_edge_length_merged", "flux_enclosure_error_merged")
    if built:
        metrics |= dict.fromkeys((*topology, *merged), 0.0)
    return {
        "tokens": list(tokens),
        "true_tokens": [1, 2],
        "parses": True,
        "builds": built,
        "valid": built,
        "metrics": metrics,
        "sequence": dict.fromkeys(("command_accuracy", "parameter_accuracy", "parameter_accuracy_all"), 0.5),
        "extrusions": extrusions,
        **({} if built else {"reason": "invalid_solid"}),
    }


def test_failures_are_counted():
    found = summarise([result(0.1), result(0.3, (9,)), result(), result(0.2, extrusions=3)])
    assert (found["valid_rate"], found["build_rate"], found["parse_rate"], found["exact_rate"]) == (0.75, 0.75, 1, 0.75)
    assert found["metrics"]["chamfer_l1_mean"]["mean"] == pytest.approx((0.1 + 0.3 + 0.9 + 0.2) / 4)
    assert found["metrics"]["chamfer_l1_mean"]["median"] == pytest.approx(0.25)
    assert found["of_valid"]["chamfer_l1_mean"]["median"] == pytest.approx(0.2)
    assert found["metrics"]["volumetric_iou"]["mean"] == 0.75
    assert found["reasons"] == {"invalid_solid": 1}
    assert {name: each["num_models"] for name, each in found["by_complexity"].items()} == {"1": 3, "2-3": 1}
    none = summarise([result()])
    assert none["of_valid"]["segment_error"]["mean"] is None
    json.dumps(none)


def test_what_cannot_be_computed_is_counted_as_missing():
    unknown = result(0.1)
    unknown["metrics"]["volumetric_iou"] = None
    found = summarise([unknown, result(0.1)])["metrics"]["volumetric_iou"]
    assert (found["mean"], found["missing"]) == (1.0, 1)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        low, high = interval(rng.exponential(size=60).tolist(), trial)
        held += low <= 1 <= high
    assert 0.88 <= held / 200 <= 0.98
    assert interval([0.5, 0.5]) == [0.5, 0.5]
    assert interval([0.0] * 9 + [1.0], of=np.median) == [0.0, 0.0]
    assert interval([0.0] * 9 + [1.0])[1] > 0.2


def test_the_chance_level_compares_different_models():
    near, far = np.zeros((50, 6)), np.ones((50, 6))
    assert chamfer_bounds([near, far, near], 50) == pytest.approx({"floor": 0.0, "chance": np.sqrt(3)})


# -- files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """Three true programs; predictions of two of them, one of which is broken."""
    for name, program in {"a": PLATE, "b": BAR, "c": part(1)}.items():
        for side in ("true", "predicted"):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / f"{name}.json").write_text(documents.dumps(program))
    (tmp_path / "predicted" / "b.json").write_text("{}")
    (tmp_path / "predicted" / "c.json").unlink()
    return tmp_path / "predicted", tmp_path / "true"


def compared(function, folders, timeout_s=60):
    with Sandbox(function, 1, timeout_s, 4096) as sandbox:
        return compare_pairs(
            pairs(*folders), lambda own, true: CompareTask(own, true, 500, 0, False), sandbox, lambda *_: None
        )


def test_folders_are_matched_by_name_and_what_is_missing_counts(folders):
    results = compared(compare_files, folders)
    assert [(r["name"], r["builds"], r.get("reason")) for r in results] == [
        ("a", True, None),
        ("b", False, "malformed_model"),
        ("c", False, "missing"),
    ]
    figures = summary(results)
    assert (figures["num_pairs"], figures["build_rate"]) == (3, 1 / 3)
    assert figures["metrics"]["volumetric_iou"]["mean"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_a_prediction_that_takes_the_worker_with_it_counts_too(folders):
    found = compared(hangs_on_a, folders, timeout_s=3)
    assert [result["reason"] for result in found] == ["timeout", "malformed_model", "missing"]
    assert found[0]["metrics"]["f_score_005"] == 0


@pytest.mark.slow
def test_a_true_file_that_cannot_be_used_is_told(folders):
    (folders[1] / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"b.json, a true file"):
        compared(compare_files, folders)


def test_a_scaled_and_moved_copy_is_wrong_unless_it_is_aligned(tmp_path):
    (tmp_path / "true.json").write_text(documents.dumps(PLATE))
    moved = CadProgram((extrude("top", [Profile(rectangle(4, 4, 3), (circle(1.6, 3),))], symmetric(0.4)),))
    (tmp_path / "moved.json").write_text(documents.dumps(moved))
    files = tmp_path / "moved.json", tmp_path / "true.json"
    plain, aligned = (compare_files(CompareTask(*files, 1000, 0, align))["metrics"] for align in (False, True))
    assert plain["chamfer_l1_mean"] > 5 * aligned["chamfer_l1_mean"]
    assert aligned["volumetric_iou"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("case", ["a file and a folder", "no common name", "two of a name"])
def test_what_cannot_be_matched_is_told(folders, case):
    predicted, true = folders
    if case == "a file and a folder":
        predicted = predicted / "a.json"
    elif case == "no common name":
        (predicted / "a.json").rename(predicted / "z.json")
        (predicted / "b.json").unlink()
    else:
        (true / "a.stl").write_bytes(b"")
    with pytest.raises(UserError):
        pairs(predicted, true)


# -- robustness -----------------------------------------------------------------------------------------------


def test_disturbed_clouds_are_what_they_say():
    cloud = sample_surface(normalised_mesh(PLATE), 4000, generator(0))
    moved = noisy(cloud, 0.03, generator(1))
    assert (moved[:, :3] - cloud[:, :3]).std() == pytest.approx(0.03, rel=0.05)
    assert (moved[:, 3:] == cloud[:, 3:]).all()
    assert len(thinned(cloud, 0.8, generator(1))) == 800
    assert len(thinned(cloud, 0.999, generator(1))) == 16


def test_a_quarter_turn_takes_x_to_y():
    mesh = flat_mesh(watertight(kernel.tessellate(kernel.build(BAR), 0.01)))
    quarter = turned(mesh, 90)
    assert np.ptp(quarter.vertices, axis=0) == pytest.approx(np.ptp(mesh.vertices, axis=0)[[1, 0, 2]])
    assert turned(quarter, -90).vertices == pytest.approx(mesh.vertices)


def row(disturbance, level, median):
    figures = {"input": "text+point_cloud", "chamfer_l1_mean": {"median": median}}
    return {**figures, "disturbance": disturbance, "level": level}


@pytest.mark.slow
def test_every_disturbance_begins_with_none():
    rows = [row("noise", 0.0, 0.1), row("noise", 0.02, 0.2), row("dropped", 0.8, 0.3)]
    assert table(rows) == [("noise", 0.0, 0.1), ("noise", 0.02, 0.2), ("dropped", 0.0, 0.1), ("dropped", 0.8, 0.3)]
    figures = {"noise": {"0": rows[0], "0.02": rows[1]}, "dropped": {"0.8": rows[2]}}
    assert disturbance_chart(figures) == disturbance_chart(figures)
    assert "share of points left out" in disturbance_chart(figures)
