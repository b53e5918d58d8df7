"""Metrics with known answers, and the report's parts."""

import numpy as np
import pytest

from pipeline.cad.codec import Codec
from pipeline.cad.program import CadProgram, Profile
from pipeline.cad.sampling import sample_surface
from pipeline.cad.shapes import circle, extrude, rectangle, symmetric
from pipeline.data.draw import normalised_mesh
from pipeline.errors import RejectError
from pipeline.evaluation.charts import line_chart, running_mean
from pipeline.evaluation.evaluate import bounds, summarise
from pipeline.evaluation.geometry import AssessTask, assess, chamfer

PLATE = CadProgram((extrude("top", [Profile(rectangle(2, 2), (circle(0.8),))], symmetric(0.2)),))


def test_chamfer_by_both_conventions():
    a, b = np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 0.5], [1, 0, 0.5], [1, 0, 2.5]])
    found = chamfer(a, b)
    assert found["chamfer_l1_mean"] == pytest.approx(((0.5 + 0.5) / 2 + (0.5 + 0.5 + 2.5) / 3) / 2)
    assert found["chamfer_squared_sum"] == pytest.approx(0.25 + (0.25 + 0.25 + 6.25) / 3)
    assert chamfer(a, a) == {"chamfer_l1_mean": 0.0, "chamfer_squared_sum": 0.0}


def task(program, truth):
    points = sample_surface(normalised_mesh(truth), 2000, 1)
    return AssessTask(tuple(Codec(8).encode(program).tolist()), 8, points, 1000, 0, 64)


def test_a_program_is_close_to_itself_and_far_from_another():
    own = assess(task(PLATE, PLATE))
    other = assess(task(CadProgram((extrude("top", rectangle(2, 0.2), symmetric(1)),)), PLATE))
    assert own["chamfer_l1_mean"] < 0.08
    assert other["chamfer_l1_mean"] > 3 * own["chamfer_l1_mean"]
    assert own["volume"] == pytest.approx(0.4 * (4 - np.pi * 0.16), rel=0.05)
    assert own["picture"].startswith(b"\x89PNG")


def test_what_does_not_parse_is_named():
    with pytest.raises(RejectError, match="incomplete"):
        assess(AssessTask((1, 5), 8, np.zeros((10, 6)), 10, 0, 64))


def result(distance=None, tokens=(1, 2)):
    base = {"tokens": list(tokens), "true_tokens": [1, 2], "valid": distance is not None}
    if distance is None:
        return {**base, "reason": "invalid_solid"}
    return {**base, "chamfer_l1_mean": distance, "chamfer_squared_sum": distance**2}


def test_failures_are_counted():
    found = summarise([result(0.1), result(0.3, (9,)), result(), result(0.2)])
    assert found["valid_rate"] == 0.75
    assert found["exact_rate"] == 0.75
    assert found["chamfer_l1_mean_median"] == pytest.approx(0.2)
    assert found["chamfer_l1_mean_median_failures_counted"] == pytest.approx(0.25)
    assert found["reasons"] == {"invalid_solid": 1}
    most = summarise([result(), result(), result(0.1)])
    assert most["chamfer_l1_mean_median"] == pytest.approx(0.1)
    assert most["chamfer_l1_mean_median_failures_counted"] is None
    assert summarise([result()])["chamfer_l1_mean_median"] is None


def test_the_chance_level_compares_different_models():
    near, far = np.zeros((50, 6)), np.ones((50, 6))
    assert bounds([near, far, near], 50) == pytest.approx({"floor": 0.0, "chance": np.sqrt(3)})


def test_charts_are_the_same_for_the_same_numbers():
    series = {"text": [(1, 3.0), (5, 2.0)], "text+image": [(5, 1.5)]}
    first = line_chart(series, "loss", [(0, "stage1_text")])
    assert first == line_chart(series, "loss", [(0, "stage1_text")])
    assert first.startswith("<svg")
    assert "stage1_text" in first


def test_the_running_mean_starts_at_the_first_value():
    assert running_mean([4.0, 4.0, 4.0]) == pytest.approx([4.0, 4.0, 4.0])
    assert running_mean([4.0, 2.0])[0] == pytest.approx(4.0)
