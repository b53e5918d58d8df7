"""A study trains its variants as DVC experiments, beside the workspace."""

import json
import signal

import pytest

from tests.func.forked import for_dvc
from tests.func.test_interruption import kill_when, scratch_has
from tests.func.wandb_files import wandb_runs

STUDY = """
common: {evaluation: {completion: false, conditioning: false}}
variants: {another_rate: {curriculum: {stage3_all: {lr: 5e-4, epochs: 8}}}}
"""


@pytest.mark.longer
def test_variants_become_experiments_and_the_workspace_stays(tracked):
    for line in ("config user.name someone", "config user.email someone@example.com", "add -A", "commit -qm begin"):
        tracked.run("git", *line.split())
    (tracked.folder / "presets/studies/rate.yaml").write_text(STUDY)
    names = ("params.yaml", "checkpoints/stage3_all/adapter_model.safetensors", "metrics/summary.json")
    before = [tracked.read(name) for name in names]
    command = ("cadmllm", "study", "rate", "--seeds", "1")
    output, code = kill_when(
        tracked, command, scratch_has(tracked, "study/scratch/train-stage3_all/*/state-*"), signal.SIGTERM
    )
    assert code == 130, output
    assert "Go on with: cadmllm study rate" in output
    tracked.env |= for_dvc(tracked.env["PATH"])
    output = tracked.run(*command)
    assert "resuming after step" in output
    assert "another_rate | 1" in output
    assert [tracked.read(name) for name in names] == before
    runs = wandb_runs(tracked.folder / "scratch/study")
    assert {run.job_type for run in runs} >= {"stage3_all", "evaluate"}
    assert {run.group for run in runs} == {"rate-another-rate-0"}
    figures = json.loads(tracked.read("studies/rate/figures.json"))
    own = json.loads(tracked.read("metrics/train/stage3_all.json"))["validation"]
    assert figures["another_rate"]["validation_loss.text"]["mean"] != own["text"]
    assert tracked.call("study", "rate", "--seeds", "1").count("has run") == 1
    assert b"<svg" in tracked.read("studies/rate/plot.svg")
    table = tracked.run("dvc", "exp", "list", "--name-only").split()
    assert table == ["rate-another-rate-0"]
