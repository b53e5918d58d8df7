"""The report's charts and gallery."""

import json

import pytest

from pipeline.cad.language.program import CadProgram, Profile
from pipeline.cad.parts.shapes import circle, extrude, rectangle, symmetric
from pipeline.cad.solids import kernel
from pipeline.cad.solids.mesh import watertight
from pipeline.evaluation.meshes import packed
from pipeline.report.charts import line_chart, running_mean
from pipeline.report.gallery import gallery, meshes_json
from pipeline.runtime.errors import UserError

PLATE = CadProgram((extrude("top", [Profile(rectangle(2, 2), (circle(0.8),))], symmetric(0.2)),))


def test_charts_are_the_same_for_the_same_numbers():
    series = {"text": [(1, 3.0), (5, 2.0)], "text+image": [(5, 1.5)]}
    first = line_chart(series, "loss", [(0, "stage1_text")])
    assert first == line_chart(series, "loss", [(0, "stage1_text")])
    assert first.startswith("<svg")
    assert "stage1_text" in first


def test_the_running_mean_starts_at_the_first_value():
    assert running_mean([4.0, 4.0, 4.0]) == pytest.approx([4.0, 4.0, 4.0])
    assert running_mean([4.0, 2.0])[0] == pytest.approx(4.0)


def test_the_gallery_ranks_by_distance_and_puts_failures_last(tmp_path):
    mesh = packed(watertight(kernel.tessellate(kernel.build(PLATE), 0.01)))
    lines = []
    for number in range(20):
        key, valid = f"k{number:02}", number != 7
        metrics = {"chamfer_l1_mean": number / 100, "volumetric_iou": 0.5}
        line = {"key": key, "id": key, "caption": "</script>", "combination": "text", "views": [], "metrics": metrics}
        line |= {"builds": valid, "valid": valid, **({"mesh": mesh, "true_mesh": mesh} if valid else {"reason": "x"})}
        lines.append(line)
        for name in ("true", "text"):
            (tmp_path / f"{key}.{name}.png").write_bytes(b"png")
    parts = gallery(lines, tmp_path, "text")
    assert [model["key"] for model in parts["best"]] == ["k00", "k01", "k02", "k03"]
    assert [model["key"] for model in parts["worst"]] == ["k17", "k18", "k19", "k07"]
    assert parts["worst"][-1]["attempts"][0]["picture"] is None
    assert json.loads(meshes_json(parts.values()))["k00"]["text"] == mesh
    assert "<" not in meshes_json(parts.values())
    failed = {**lines[0], "combination": "image", "builds": False, "valid": False, "reason": "x"}
    failed = {name: value for name, value in failed.items() if "mesh" not in name}
    assert gallery([failed, lines[0]], tmp_path, "text")["best"][0]["true_mesh"] == mesh
    few = gallery(lines[:2], tmp_path, "text")
    assert sum(len(models) for models in few.values()) == 2
    (tmp_path / "k00.text.png").unlink()
    with pytest.raises(UserError, match="cadmllm evaluate"):
        gallery(lines, tmp_path, "text")
