"""The figures that DVC tracks: which they are, and that they fit a screen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.metrics.summary import stage_summary, summary

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 140
DROP = "Created|.*/|checkpoints|evaluations|models"  # as in docs/presets.md: DVC shows whole hashes of what stages read
PIPELINE = """
stages:
  report:
    cmd: "true"
    deps: [checkpoints, data/corpus]
    params: [curriculum]
    metrics: [summary.json: {cache: false}]
"""


def evaluation(shift=0.0, combinations=("text+point_cloud+image", "text", "text+image", "point_cloud")):
    figures = {
        name: {
            "num_models": 10 + 20 * number,
            "valid_rate": 0.5 + shift,
            "validation_loss": number + 0.81234 + shift,
            "metrics": {
                "volumetric_iou": {"mean": number / 10 + 0.04567 + shift},
                "chamfer_l1_mean": {"median": number / 10 + 0.01234 + shift},
            },
        }
        for number, name in enumerate(combinations)
    }
    return {"combinations": figures, "syntax": {"combination": "text", "well_formed_rate": 0.91 + shift}}


def numbers(figures):
    return sum(numbers(each) if isinstance(each, dict) else 1 for each in figures.values())


def test_a_stage_has_six_numbers_from_text_and_from_all_that_it_shows():
    found = stage_summary(evaluation())
    assert found == {
        "syntax": 0.91,
        "valid": 0.5,
        "loss": {"all": 0.812, "text": 1.812},
        "iou": {"all": 0.046, "text": 0.146},
    }
    assert numbers(found) == 6


def test_what_a_stage_does_not_show_or_nobody_could_measure_is_left_out():
    figures = evaluation(combinations=("image", "point_cloud", "point_cloud+image"))
    figures["combinations"]["point_cloud+image"]["metrics"]["volumetric_iou"]["mean"] = None
    assert stage_summary(figures)["loss"] == {"all": 2.812}
    assert stage_summary(figures)["iou"] == {"all": None}


def test_valid_is_the_share_of_all_programs():
    figures = evaluation(combinations=("text", "text+image"))
    figures["combinations"]["text+image"]["valid_rate"] = 1.0
    assert stage_summary(figures)["valid"] == pytest.approx((0.5 * 10 + 1.0 * 30) / 40)


@pytest.fixture
def experiment(tmp_path):
    """An experiment in which every figure, a parameter and all inputs are others than on the commit before."""

    def run(*command: str) -> str:
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        env |= {"COLUMNS": str(WIDTH), "DVC_NO_ANALYTICS": "true", "HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write(shift: float) -> None:
        (tmp_path / "summary.json").write_text(json.dumps(summary(evaluation(shift), evaluation(shift))))
        (tmp_path / "params.yaml").write_text(f"{{curriculum: {{stage3_all: {{lr: {0.0003 + shift}}}}}}}\n")
        (tmp_path / "checkpoints").write_text(f"{shift}")
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data/corpus").write_text(f"{shift}")

    for line in ("init -qb main", "config user.name someone", "config user.email someone@example.com"):
        run("git", *line.split())
    run("dvc", "init", "-q")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    write(0.0)
    run("dvc", "commit", "-q", "-f")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "begin")
    write(0.021)
    run("dvc", "commit", "-q", "-f")
    run("dvc", "exp", "save", "-q", "-n", "wooly-bled")
    return run


@pytest.mark.slow
def test_what_dvc_prints_fits_a_screen(experiment):
    assert f"--drop '{DROP}'" in (ROOT / "docs/presets.md").read_text()
    found = summary(evaluation(), evaluation())
    assert numbers(found) <= 20
    for command, count in ((("metrics", "show"), 1), (("metrics", "diff"), numbers(found))):
        lines = experiment("dvc", *command).splitlines()
        assert len(lines) == 1 + count
        assert max(len(line.rstrip()) for line in lines) <= WIDTH
    table = experiment("dvc", "exp", "show", "--only-changed", "--drop", DROP)
    assert "wooly-bled" in table
    assert all(name in table for name in ("syntax", "valid", "loss.text", "iou.all", "curriculum.stage3_all.lr"))
    assert "checkpoints" not in table
    assert max(len(line.rstrip()) for line in table.splitlines()) <= WIDTH
