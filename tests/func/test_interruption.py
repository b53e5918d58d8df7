"""Killed at any moment, the pipeline goes on to the same bytes."""

import hashlib
import json
import re
import signal
import time

import numpy as np
import pytest

from pipeline.cad.parts import synthesis
from pipeline.cad.solids.boundary import sample_boundary
from pipeline.curriculum.log import read_log
from pipeline.runtime.seeds import generator
from tests.conftest import longer, shared
from tests.func.conftest import ranks
from tests.func.wandb_files import wandb_runs


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def kill_when(project, command, ready, signum):
    """Start a command, send it a signal as soon as ``ready()``, and give what it printed."""
    process = project.start(*command, CADMLLM_WORKERS="2")  # more than one is at work, also where tests share the cores
    deadline = time.monotonic() + 120
    while process.poll() is None and not ready() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signum)
    return process.communicate(timeout=60)[0], process.returncode


def scratch_has(project, pattern):
    return lambda: any((project.folder / "scratch").glob(pattern))


def has_records(project, pattern):
    """Whether a journal in scratch has saved a record. The process that writes it holds it: its bytes are looked at."""

    def found():
        written = (project.folder / "scratch").glob(f"{pattern}*")
        return any(re.search(rb'"id": "\d{4}/\d{8}_', path.read_bytes()) for path in written)

    return found


def test_features_killed_after_a_shard_go_on_to_the_same_bytes(copy):
    before = contents(copy.folder / "data/features/image")
    command = ("cadmllm", "features", "--modality", "image")
    kill_when(copy, command, scratch_has(copy, "features-image/*/*.done.json"), signal.SIGKILL)
    assert re.search(r"scratch/features-image/\w+: \d+ shards?\b", copy.call("status"))
    output = copy.run(*command)
    assert "shards found in scratch" in output
    assert contents(copy.folder / "data/features/image") == before


def test_an_evaluation_that_is_killed_repeats_the_batch_at_hand_alone(copy):
    copy.change("num_test_models: 2", "num_test_models: 5", after="evaluation:")
    copy.change("batch_size: 4", "batch_size: 2", after="evaluation:")
    command, out = ("cadmllm", "evaluate", "stage2_text_pc"), copy.folder / "evaluations/stage2_text_pc"
    copy.call(*command[1:])
    before, figures = contents(out), copy.read("metrics/evaluate/stage2_text_pc.json")
    parts = "evaluation-stage2_text_pc/*/parts"
    kill_when(copy, command, scratch_has(copy, f"{parts}/text/000002.json"), signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in (copy.folder / "scratch").glob(f"{parts}/**/*.json")}
    assert {path.name for path in kept} >= {"validation.json", "000000.json", "000002.json"}
    kill_when(copy, command, scratch_has(copy, f"{parts}/text-other-text/000000.json"), signal.SIGKILL)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished was not made again"
    copy.call(*command[1:])
    assert contents(out) == before
    assert copy.read("metrics/evaluate/stage2_text_pc.json") == figures
    assert not list((copy.folder / "scratch/evaluation-stage2_text_pc").glob("[!.]*"))


@pytest.mark.longer
def test_transfer_that_is_killed_repeats_neither_the_first_stages_loss_nor_a_batch(copy):
    copy.change("path: data/raw ", f"path: {shared('omnicad/json').parent} ")
    command, out = ("cadmllm", "transfer"), copy.folder / "evaluations/transfer"
    copy.call(*command[1:])
    before, figures = contents(out), copy.read("metrics/transfer.json")
    work = "transfer-stage3_all/*"
    kill_when(copy, command, scratch_has(copy, f"{work}/generated/parts/text/000000.json"), signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in (copy.folder / "scratch").glob(f"{work}/*/parts/**/*.json")}
    names = {path.relative_to(path.parents[2]).as_posix() for path in kept if path.parent.name == "parts"}
    assert names == {"first/parts/validation.json", "generated/parts/validation.json"}
    kill_when(copy, command, scratch_has(copy, f"{work}/generated/parts/text+point_cloud/000000.json"), signal.SIGKILL)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished was not made again"
    copy.call(*command[1:])
    assert contents(out) == before
    assert copy.read("metrics/transfer.json") == figures


@pytest.mark.parametrize("signum", [signal.SIGKILL, longer(signal.SIGTERM), longer(signal.SIGINT)])
def test_training_killed_between_steps_ends_with_the_same_bytes(tracked, signum):
    tracked.change("log_every: 1", "log_every: 3")  # a line of the log is about steps before and after the kill
    command = ("cadmllm", "train", "stage2_text_pc")
    tracked.run(*command)
    before = contents(tracked.folder / "checkpoints/stage2_text_pc")
    output, code = kill_when(tracked, command, scratch_has(tracked, "train-stage2_text_pc/*/state-*"), signum)
    if signum != signal.SIGKILL:
        assert code == 130
        assert "Go on with: cadmllm train stage2_text_pc" in output
    assert "state after step" in tracked.call("status")
    assert "resuming after step" in tracked.run(*command)
    assert contents(tracked.folder / "checkpoints/stage2_text_pc") == before
    died, finished = wandb_runs(tracked.folder)[-2:]  # of the one that was killed the next start has told
    state, reason, code = {
        signal.SIGKILL: ("killed", "without a word: by SIGKILL, or with the machine", 137),
        signal.SIGTERM: ("stopped", "SIGTERM", 130),
        signal.SIGINT: ("stopped", "SIGINT", 130),
    }[signum]
    assert (died.summary["end/state"], died.summary["end/reason"], died.exit_code) == (state, reason, code)
    assert died.rows[0] == finished.rows[0]
    steps, losses = died.summary["end/step"], finished.series("train/loss", "train/step")
    assert died.series("train/loss", "train/step") == [each for each in losses if each[0] <= steps]
    assert (finished.summary["end/state"], finished.exit_code) == ("finished", 0)
    assert steps < finished.summary["end/step"] == losses[-1][0]
    assert (died.group, died.job_type) == (finished.group, finished.job_type)


def test_a_stage_of_dynamic_length_killed_while_its_rate_decays_ends_with_the_same_bytes(copy):
    """Rows of the captions' tokens are trained, too: the first start finds them, the second has them from its state."""
    copy.change("log_every: 1", "log_every: 3")
    copy.change("text_embeddings: new", "text_embeddings: all", after="stage2_text_pc:")
    copy.change("init_from: checkpoints/stage2_text_pc", "init_from: checkpoints/stage2_text_pc/best")
    copy.change(
        "epochs: 3",  # no validation is better by nine tenths: after three epochs it decays, for three more
        "epochs: 8\n    early_stopping: {patience: 1, min_delta: 0.9, min_epochs: 3, decay_fraction: 1.0}",
        after="stage2_text_pc:",
    )
    command = ("cadmllm", "train", "stage2_text_pc")
    output = copy.run(*command)
    steps = json.loads(copy.read("metrics/train/stage2_text_pc.json"))["steps"]
    assert f"the stage ends after step {steps} of at most {steps // 6 * 8}" in output
    rates = {line["step"]: line["lr"] for line in read_log(copy.folder / LOG) if line["event"] == "train"}
    assert rates[3] == max(rates.values()) > rates[steps] > 0
    before = contents(copy.folder / "checkpoints/stage2_text_pc")
    log = copy.read(LOG)
    decaying = f"train-stage2_text_pc/*/state-{steps // 4 * 2 + 2:08d}"  # save_every is 2
    kill_when(copy, command, scratch_has(copy, decaying), signal.SIGKILL)
    assert "resuming after step" in copy.run(*command)
    assert contents(copy.folder / "checkpoints/stage2_text_pc") == before
    ranks([copy, copy], *command)
    assert [at(line) for line in copy.read(LOG).splitlines()] == [at(line) for line in log.splitlines()]


def test_a_stage_that_ends_early_without_a_decay_has_all_lines_of_its_log(copy):
    """Also where it is killed in the validation that ends it, after the last state."""
    copy.change("log_every: 1", "log_every: 10")
    copy.change("schedule: cosine", "schedule: constant")
    copy.change("validate_every_epochs: 1 ", "validate_every_epochs: 0.5 ")
    copy.change("init_from: checkpoints/stage2_text_pc", "init_from: checkpoints/stage2_text_pc/best")
    copy.change(
        "epochs: 3",
        "epochs: 8\n    early_stopping: {patience: 1, min_delta: 0.9, min_epochs: 1.5}",
        after="stage2_text_pc:",
    )
    command = ("cadmllm", "train", "stage2_text_pc")
    assert "the stage ends after step 6 of at most 32" in copy.run(*command)
    lines = list(read_log(copy.folder / LOG))
    steps = {event: [line["step"] for line in lines if line["event"] == event] for event in ("train", "epoch")}
    assert steps == {"train": [2, 4, 6], "epoch": [4, 6]}
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == [0, 1]
    before = contents(copy.folder / "checkpoints/stage2_text_pc")
    kill_when(copy, command, scratch_has(copy, "train-stage2_text_pc/*/state-00000006"), signal.SIGKILL)
    assert "resuming after step 6" in copy.run(*command)
    assert contents(copy.folder / "checkpoints/stage2_text_pc") == before


LOG = "checkpoints/stage2_text_pc/log.jsonl"


def at(line):
    """What a line of the log says of the position in training."""
    return [json.loads(line).get(name) for name in ("event", "step", "epochs", "lr")]


@pytest.mark.parametrize("shell", ["/bin/sh", longer("/bin/bash")])  # bash becomes the stage, sh waits for it
def test_dvc_repro_goes_on_after_a_kill(copy, shell):
    copy.env["SHELL"] = shell
    before = contents(copy.folder / "checkpoints/stage3_all")
    copy.change("epochs: 3\n    lr: 0.001", "epochs: 20\n    lr: 9e-4", after="stage3_all:")
    command = ("dvc", "repro", "train@stage3_all")
    kill_when(copy, command, scratch_has(copy, "train-stage3_all/*/state-*"), signal.SIGKILL)
    time.sleep(3)  # the orphaned stage notices and stops
    output = copy.run(*command)
    assert "resuming after step" in output
    assert "train@stage2_text_pc" not in output.split("Running stage")[1]
    assert contents(copy.folder / "checkpoints/stage3_all") != before


def test_corpus_and_geometry_are_the_same_with_any_number_of_workers(copy):
    before = {name: contents(copy.folder / name) for name in ("data/corpus", "data/geometry")}
    copy.env["CADMLLM_WORKERS"] = "3"
    copy.run("cadmllm", "corpus")
    copy.run("cadmllm", "geometry")
    assert {name: contents(copy.folder / name) for name in before} == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, longer(signal.SIGINT)])
def test_a_search_that_is_stopped_writes_the_best_that_it_has(done, tmp_path, signum):
    part, out = synthesis.make_part(0, 4, ("stepped_shaft",)).program, tmp_path / "made.tokens"
    np.save(tmp_path / "cloud.npy", sample_boundary(part, 2048, generator(0)))
    command = ("generate", "--points", str(tmp_path / "cloud.npy"), "--max-tokens", "24", "--search", "600")
    command = (*command, "--seed", str(int(signum)))  # a search of its own
    process = done.start("cadmllm", *command, "--out", str(out))
    deadline = time.monotonic() + 120
    while process.poll() is None and "fit" not in process.said() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signum)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert f"stopped before the search was over: {out} has the best" in output
    best = re.findall(r"fit .* (\d+) tokens; ", output)[-1]
    assert f"{out}: {best} tokens" in output
    _, _, program = out.read_text().partition("\n")
    assert len(program.split()) == int(best)
