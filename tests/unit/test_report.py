"""The report's charts and gallery."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram, Frame, Profile
from pipeline.cad.parts.describe import describe
from pipeline.cad.parts.shapes import circle, extrude, rectangle, symmetric
from pipeline.cad.solids import kernel
from pipeline.cad.solids.mesh import Surface, watertight
from pipeline.metrics.compact import MAX_POINTS, MAX_TRIANGLES, packed, packed_mesh, unpacked
from pipeline.report.attempt import told
from pipeline.report.charts import line_chart, running_mean
from pipeline.report.gallery import gallery, meshes_json
from pipeline.report.pictures import FURTHEST, colour_map, error_picture, scan_picture
from pipeline.runtime.errors import UserError

PLATE = CadProgram((extrude("top", [Profile(rectangle(2, 2), (circle(0.8),))], symmetric(0.2)),))
FRAME = {"centre": [0.01, 0.0, 0.0], "scale": 0.05}
CLOUD = np.random.default_rng(0).uniform(-1, 1, (500, 3))


@pytest.mark.slow
def test_charts_are_the_same_for_the_same_numbers():
    series = {"text": [(1, 3.0), (5, 2.0)], "text+image": [(5, 1.5)]}
    first = line_chart(series, "loss", [(0, "stage1_text")])
    assert first == line_chart(series, "loss", [(0, "stage1_text")])
    assert first.startswith("<svg")
    assert "stage1_text" in first


def test_the_running_mean_starts_at_the_first_value():
    assert running_mean([4.0, 4.0, 4.0]) == pytest.approx([4.0, 4.0, 4.0])
    assert running_mean([4.0, 2.0])[0] == pytest.approx(4.0)


# -- gallery --------------------------------------------------------------------------------------------------


def attempt(number, valid=True, combination="text", **others):
    """A line of generated.jsonl, the first one of its model."""
    key = f"k{number:02}"
    line = {"key": key, "id": key, "caption": "</script>", "combination": combination, "views": [], "extrusions": 1}
    line |= {"metrics": {"chamfer_l1_mean": number / 100, "volumetric_iou": 0.5}, "builds": valid, "valid": valid}
    line |= {"parses": True, "tokens": Codec(8).encode(PLATE, 1.0).tolist(), "cloud": packed(CLOUD), "frame": FRAME}
    mesh = packed_mesh(watertight(kernel.tessellate(kernel.build(PLATE), 0.01)))
    solid = {"mesh": mesh, "true_mesh": mesh, "errors": packed(np.full(len(CLOUD), 0.1))}
    return {**line, **(solid if valid else {"reason": "x"}), **others}


def draw(folder, lines):
    for line in lines:
        for name in ("true", line["combination"]):
            (folder / f"{line['key']}.{name}.png").write_bytes(b"png")
    return lines


def test_the_gallery_ranks_by_distance_and_puts_failures_last(tmp_path):
    lines = draw(tmp_path, [attempt(number, valid=number != 7) for number in range(20)])
    mesh = lines[0]["mesh"]
    parts = gallery(lines, tmp_path, "text")
    keys = {
        part: [model["key"].removeprefix(f"{tmp_path.name}/") for model in models] for part, models in parts.items()
    }
    assert keys["best"] == ["k00", "k01", "k02", "k03"]
    assert keys["worst"] == ["k17", "k18", "k19", "k07"]
    assert parts["worst"][-1]["attempts"][0]["picture"] is None
    assert json.loads(meshes_json(parts.values()))[f"{tmp_path.name}/k00"]["meshes"] == {"text": mesh}
    assert "<" not in meshes_json(parts.values())
    few = gallery(lines[:2], tmp_path, "text")
    assert sum(len(models) for models in few.values()) == 2
    (tmp_path / "k00.text.png").unlink()
    with pytest.raises(UserError, match="cadmllm evaluate"):
        gallery(lines, tmp_path, "text")


def test_the_gallery_ranks_by_iou_before_distance(tmp_path):
    lines = draw(tmp_path, [attempt(number) for number in range(3)])
    for line, iou in zip(lines, (None, 0.2, 0.9)):
        line["metrics"]["volumetric_iou"] = iou
    parts = gallery(lines, tmp_path, "text")
    assert [parts[part][0]["id"] for part in ("best", "middle", "worst")] == ["k02", "k01", "k00"]


def test_models_of_two_evaluations_are_not_mistaken_for_each_other(tmp_path):
    parts = []
    for name in ("stage3_all", "transfer"):
        (tmp_path / name).mkdir()
        parts.append(gallery(draw(tmp_path / name, [attempt(0)]), tmp_path / name, "text")["best"])
    assert set(json.loads(meshes_json(parts))) == {"stage3_all/k00", "transfer/k00"}


@pytest.mark.parametrize(("name", "command"), [("stage3_all", "evaluate stage3_all"), ("transfer", "transfer")])
def test_what_is_missing_says_which_command_makes_it(tmp_path, name, command):
    folder = tmp_path / name
    with pytest.raises(UserError, match=f"k00.true.png is missing; run `cadmllm {command}` again"):
        gallery([attempt(0)], folder, "text")
    old = {field: value for field, value in attempt(0).items() if field != "cloud"}
    with pytest.raises(UserError, match=f"older version; run `cadmllm {command}` again"):
        gallery([old], folder, "text")


def test_an_attempt_is_told_in_words_and_millimetres():
    line = attempt(0, combination="text+point_cloud")
    found = told(line, line, 8)
    own = Frame((0.01, 0.0, 0.0), 0.05)
    assert found["steps"] == describe(Codec(8).decode(line["tokens"]).restored(own))
    assert "100 x 100 mm square at (10, 0, -9.843) with one hole" in found["steps"][0]
    assert found["distances"]["all of it within"] == (pytest.approx(0.1, abs=1e-4), "5")
    assert found["ticks_mm"] == ["0", "2.5", "5", "7.5", "10"]
    assert found["num_points"] == 500
    assert told(attempt(0, combination="text"), line, 8)["scan"] is None


def test_what_made_no_solid_has_words_and_no_error():
    line = attempt(4, valid=False)
    found = told(line, line, 8)
    assert len(found["steps"]) == 1
    assert found["error"] is None
    assert found["distances"] == {"chamfer, as of a point in its middle": (0.04, "2")}
    assert told(attempt(4, valid=False, parses=False, tokens=[1]), line, 8)["steps"] == []


# -- pictures -------------------------------------------------------------------------------------------------


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def lightness(colours):
    """CIE L* of sRGB colours (N, 3) uint8."""
    linear = np.where(colours / 255 <= 0.04045, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    return 116 * np.cbrt(linear @ (0.2126, 0.7152, 0.0722)) - 16


def test_colours_darken_evenly_with_the_distance():
    steps = -np.diff(lightness(colour_map()[::16]))
    assert steps.min() > 0
    assert steps.max() < 1.5 * steps.min()


def test_points_have_the_colours_of_their_distances_and_hide_what_lies_behind():
    side = np.linspace(-0.5, 0.5, 40)
    x, y = (each.ravel() for each in np.meshgrid(side, side))
    top, bottom = np.stack([x, y, 0 * x + 0.8], axis=1), np.stack([x, y, 0 * x - 0.8], axis=1)
    first, last = colour_map()[[0, -1]].tolist()
    above = np.r_[np.zeros(len(x)), np.full(len(x), 3 * FURTHEST)]
    shown = pixels(error_picture(np.concatenate([top, bottom]), above)).reshape(-1, 3).tolist()
    assert shown.count(first) > 1000
    assert shown.count(last) > 100
    under = pixels(error_picture(np.concatenate([top, 0.5 * bottom]), above)).reshape(-1, 3).tolist()
    assert shown.count(first) == under.count(first)
    assert under.count(last) < shown.count(last)


def test_pictures_are_the_same_for_the_same_points_and_hold_all_that_is_seen():
    assert scan_picture(CLOUD) == scan_picture(CLOUD)
    corners = np.array(np.meshgrid(*[(-1.0, 1.0)] * 3)).reshape(3, -1).T
    assert (pixels(scan_picture(4 * corners)) != 255).sum() < (pixels(scan_picture(corners)) != 255).sum()


# -- packing --------------------------------------------------------------------------------------------------


def test_lengths_are_kept_to_half_a_step():
    assert unpacked(packed(CLOUD)).reshape(-1, 3) == pytest.approx(CLOUD, abs=0.5 / 8192 + 1e-9)
    assert unpacked(packed(np.array([7.0, -7.0]))) == pytest.approx([4, -4], abs=1e-3)
    assert len(packed(np.zeros((MAX_POINTS, 3)))) == 16384


def test_a_mesh_is_kept_unless_it_would_make_the_page_large():
    surface = watertight(kernel.tessellate(kernel.build(PLATE), 0.01))
    mesh = packed_mesh(surface)
    indices = np.frombuffer(base64.b64decode(mesh["indices"]), "<u2")
    assert (indices.reshape(-1, 3) == surface.triangles).all()
    assert packed_mesh(Surface(np.zeros((3, 3)), np.zeros((MAX_TRIANGLES + 1, 3), int))) is None
