"""What Weights & Biases is given: an experiment is a group on one step axis, and a stage that dies is in it."""

import json
import math
import shutil
import sys

import pytest

from pipeline.curriculum.log import read_log
from tests.func.test_interruption import contents
from tests.func.test_pipeline import LISTENS, STAGES
from tests.func.wandb_files import wandb_runs

# `cadmllm train stage1_text` in two processes, the second of which runs out of memory.
IN_TWO = """
import os
from pipeline.training.loop import Trainer
from stages.cli import app

optimize = Trainer.optimize

def limited(trainer, *step):
    if trainer.done == 2 and os.environ["RANK"] == "1":
        raise MemoryError
    return optimize(trainer, *step)

Trainer.optimize = limited
app(["train", "stage1_text"], prog_name="cadmllm")
"""


@pytest.fixture(scope="module")
def runs(done):
    return {run.name: run for run in wandb_runs(done.folder)}


def logged(path, event="train"):
    return [line for line in read_log(path) if line["event"] == event]


def test_an_experiment_is_a_group_with_a_job_type_for_each_stage(runs):
    job_types = {name: run.job_type for name, run in runs.items()}
    assert job_types == {**{name: name for name in STAGES}, **{f"evaluate {name}": "evaluate" for name in STAGES}}
    (group,) = {run.group for run in runs.values()}
    assert group.startswith("smoke-")


def test_one_step_axis_goes_through_the_curriculum(done, runs):
    assert {run.step_metric for run in runs.values()} == {"train/global_step"}
    losses, ends = [], {}
    for name in STAGES:
        losses += runs[name].series("train/loss")
        ends[name] = losses[-1][0]
    expected = [line["loss"] for name in STAGES for line in logged(done.folder / f"checkpoints/{name}/log.jsonl")]
    assert losses == list(enumerate(expected, 1))
    for name in STAGES:
        assert [step for step, _ in runs[f"evaluate {name}"].series("evaluate/text_loss")] == [ends[name]]
        assert runs[name].series("train/loss", "train/step")[0][0] == 1  # the stage's own step is there too


def test_the_series_have_the_names_of_the_document(done, runs):
    for number, (name, listens) in enumerate(zip(STAGES, LISTENS, strict=True), 1):
        run, lines = runs[name], logged(done.folder / f"checkpoints/{name}/log.jsonl")
        assert [value for _, value in run.series("train/stage")] == [number] * len(lines)
        for modality in ("text", "point_cloud", "image"):
            active = [value for _, value in run.series(f"train/active_modalities/{modality}")]
            assert active == [float(modality in listens)] * len(lines)
        for key, own in (("train/learning_rate", "lr"), ("train/grad_norm", "grad_norm")):
            assert [value for _, value in run.series(key)] == [line[own] for line in lines]
        epochs = logged(done.folder / f"checkpoints/{name}/log.jsonl", "epoch")
        assert [value for _, value in run.series(f"epoch/{name}_loss")] == [line["loss"] for line in epochs]
        assert len(epochs) == (1, 3, 3)[number - 1]


def test_a_summary_tells_the_end_the_best_and_what_was_kept(done, runs):
    for name in STAGES:
        run, figures = runs[name], json.loads(done.read(f"metrics/train/{name}.json"))
        for key in ("best_objective", "best_epoch", "steps", "target_tokens"):
            assert run.summary[key] == figures[key]
        assert run.summary.get("retention_text") == figures["retention_text"]
        assert run.summary["validation/text_loss"] == figures["validation"]["text"]
        assert (run.exit_code, run.summary["end/state"], run.summary["end/step"]) == (0, "finished", figures["steps"])
        measured = json.loads(done.read(f"metrics/evaluate/{name}.json"))
        evaluation = runs[f"evaluate {name}"].summary
        for combination, found in measured["combinations"].items():
            assert evaluation[f"evaluate/{combination}_loss"] == found["validation_loss"]
            assert evaluation[f"evaluate/{combination}_valid_rate"] == found["valid_rate"]
            assert (
                evaluation[f"evaluate/{combination}_chamfer_median"] == (found["metrics"]["chamfer_l1_mean"]["median"])
            )
        assert {f"evaluate/conditioning_{each}" for each in measured["conditioning"]} <= evaluation.keys()
    assert len(runs["stage3_all"].series("validation/retention_text")) == 4


def test_a_stage_whose_loss_is_not_a_number_is_there_with_its_end(tracked):
    tracked.change("lr: 0.001", "lr: 1e30", after="stage2_text_pc:")
    output = tracked.run("cadmllm", "train", "stage2_text_pc", code=1)
    assert "error: the loss is nan at step 2" in output
    before, died = (run for run in wandb_runs(tracked.folder) if run.job_type == "stage2_text_pc")
    assert (died.exit_code, died.summary["end/state"], died.summary["end/step"]) == (1, "failed", 2)
    assert died.summary["end/reason"].startswith("the loss is nan at step 2; lower")
    (log,) = tracked.folder.glob("scratch/train-stage2_text_pc/*/log.jsonl")
    first, last = (value for _, value in died.series("train/loss"))
    assert first == logged(log)[0]["loss"] == before.series("train/loss")[0][1]
    assert math.isnan(last)
    assert died.series("validation/text_loss") == before.series("validation/text_loss")[:1]
    assert died.group != before.group  # another rate is another experiment


@pytest.mark.longer
def test_what_ended_another_process_is_the_reason(tracked):
    """Not what that did to the one that writes: its neighbour did not answer."""
    tracked.change("lr: 0.001", "lr: 9e-4")
    (tracked.folder / "in_two.py").write_text(IN_TWO)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    output = tracked.run(*torchrun, "in_two.py", code=1)
    assert output.count("error: out of memory on cpu at step 3 of 4") == 1
    died = wandb_runs(tracked.folder)[-1]
    assert (died.exit_code, died.summary["end/state"], died.summary["end/step"]) == (1, "failed", 2)
    assert died.summary["end/reason"].startswith("process 1: out of memory on cpu at step 3 of 4")


def test_a_fault_of_weights_and_biases_at_the_end_costs_a_note(tracked, monkeypatch):
    def init(**_):
        raise RuntimeError("no service")

    monkeypatch.setattr("wandb.init", init)
    parts = ("checkpoints/stage1_text", "evaluations/stage1_text")
    before = [contents(tracked.folder / part) for part in parts]
    for command, part in zip(("train", "evaluate"), parts, strict=True):
        (tracked.folder / f"metrics/{command}/stage1_text.json").unlink()
        shutil.rmtree(tracked.folder / part)
        output = tracked.call(command, "stage1_text")
        assert "note: Weights & Biases was not told of this end (RuntimeError: no service)" in output
        assert (tracked.folder / f"metrics/{command}/stage1_text.json").is_file()
    assert [contents(tracked.folder / part) for part in parts] == before


def test_without_weights_and_biases_the_bytes_are_the_same(tracked):
    before, known = contents(tracked.folder / "checkpoints/stage1_text"), len(wandb_runs(tracked.folder))
    tracked.change("wandb_mode: offline", "wandb_mode: disabled")
    tracked.run("cadmllm", "train", "stage1_text")
    assert contents(tracked.folder / "checkpoints/stage1_text") == before
    assert len(wandb_runs(tracked.folder)) == known
