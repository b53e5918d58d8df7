"""Training as users run it: in several processes, with every option of the curriculum, from stage to stage."""

import functools
import json
import shutil
import signal
import time
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from pipeline.curriculum.log import read_log
from tests.conftest import longer
from tests.func.conftest import Project, ranks, start_ranks
from tests.func.forked import Forked

LONG = pytest.mark.xdist_group("long")  # tests of a minute, which begin early: while they run, `held_up` waits
FILES = ("adapter_model", "projectors", "vocabulary")
# Losses of the smoke preset's second stage, with the libraries of requirements.lock. A change that is meant to change
# nothing leaves them as they are.
GOLDEN = {1: 5.56962, 5: 5.16452, 9: 4.855656, 12: 4.743203}


def log(project, stage):
    return list(read_log(project.folder / f"checkpoints/{stage}/log.jsonl"))


def losses(project, stage, event="train"):
    return {line["step"]: line["loss"] for line in log(project, stage) if line["event"] == event}


def tensors(folder):
    return {
        f"{name}/{key}": value for name in FILES for key, value in load_file(folder / f"{name}.safetensors").items()
    }


def test_golden_losses(done):
    found = losses(done, "stage2_text_pc")
    assert {step: found[step] for step in GOLDEN} == pytest.approx(GOLDEN, rel=1e-4)


def train_for_long(project, weights="float32", num_processes=1):
    """Twelve steps of the third stage, of three micro-batches each; the losses in training and validation."""
    project.change("tokens_per_batch: 2048", "tokens_per_batch: 512")
    if weights == "nf4":
        project.change("quantization: none", "quantization: nf4")
    else:
        project.change("dtype: float32", f"dtype: {weights}")
    output = "".join(ranks([project] * num_processes, "cadmllm", "train", "stage3_all"))
    return losses(project, "stage3_all"), losses(project, "stage3_all", "validation"), output


@pytest.fixture(scope="module")
def alone(done, tmp_path_factory):
    """Losses of one process, on frozen weights of each kind that is asked for."""

    @functools.cache
    def train(weights):
        return train_for_long(done.copied(tmp_path_factory.mktemp("alone") / weights).untracked(), weights)[:2]

    return train


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Two processes that were asked to stop, one of which does not run; the project, and what it had trained before."""

    project: Project
    before: dict[str, np.ndarray]
    process: Forked
    last: psutil.Process
    since: float


@pytest.fixture(scope="module")
def held_up(done, tmp_path_factory):
    project = done.copied(tmp_path_factory.mktemp("held_up") / "copy").untracked()
    project.change("vocabulary_lr_multiplier: 5.0", "vocabulary_lr_multiplier: 1.0")
    project.change("epochs: 3", "epochs: 12", after="stage3_all:")
    project.change("distributed: ddp", "distributed: fsdp2")
    project.run("cadmllm", "train", "stage3_all")
    before = tensors(project.folder / "checkpoints/stage3_all")
    process = project.start("cadmllm", "train", "stage3_all", "--nproc", "2")
    wait_for_state(project)
    _, last = psutil.Process(process.pid).children()
    last.suspend()
    process.send_signal(signal.SIGTERM)
    yield HeldUp(project, before, process, last, time.monotonic())
    if process.poll() is None:  # the test that lets it go on has not run
        last.kill()
        process.kill()
        process.communicate()


# In bfloat16 a sum of gradients in another order differs in the third digit, here and there.
@LONG
@pytest.mark.usefixtures("held_up")
@pytest.mark.parametrize(
    ("distributed", "weights", "rel"),
    [
        longer("ddp", "float32", 1e-4),
        longer("ddp", "bfloat16", 2e-3),
        longer("ddp", "nf4", 1e-4),
        ("fsdp2", "float32", 1e-4),
        longer("fsdp2", "bfloat16", 2e-3),
        longer("fsdp2", "nf4", 1e-4),
    ],
)
def test_two_processes_train_as_one(copy, alone, distributed, weights, rel):
    if weights == "nf4":
        pytest.importorskip("bitsandbytes")
    copy.change("distributed: ddp", f"distributed: {distributed}")
    if weights == "bfloat16":
        copy.change("gradient_checkpointing: false", "gradient_checkpointing: true")  # gives the same numbers
    together, validated, output = train_for_long(copy, weights, num_processes=2)
    assert "2 processes" in output
    assert output.count("checkpoint in") == 1
    (one, one_validated), (exact, _) = alone(weights), alone("float32")
    assert len(one) >= 12
    assert together == pytest.approx(one, rel=rel)
    assert together == pytest.approx(exact, rel=0.02)
    for step, found in validated.items():
        assert found == pytest.approx(one_validated[step], rel=rel)


def wait_for_state(project):
    deadline = time.monotonic() + 120
    while not list(project.folder.glob("scratch/train-stage3_all/*/state-*")) and time.monotonic() < deadline:
        time.sleep(0.01)


def shards(project):
    """Files of the last state, each with the shape of its part of a matrix that is in all of them."""
    files = sorted(max(project.folder.glob("scratch/train-stage3_all/*/state-*")).glob("*.safetensors"))
    return {file.name: load_file(file)["vocabulary.safetensors/input"].shape for file in files}


@pytest.mark.parametrize("num_processes", [2, longer(3)])
def test_shards_that_are_saved_are_gone_on_from_with_the_same_bytes(copy, num_processes):
    """Each process writes its own rows, and reads them again; of three some have fewer, or none."""
    copy.change("distributed: ddp", "distributed: fsdp2")
    command, checkpoint = ("cadmllm", "train", "stage3_all"), copy.folder / "checkpoints/stage3_all"
    ranks([copy] * num_processes, *command)
    expected = {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}
    shutil.rmtree(checkpoint)
    processes = start_ranks([copy] * num_processes, *command)
    wait_for_state(copy)
    for process in processes:
        process.kill()
        process.communicate()
    shapes = shards(copy)
    assert len(shapes) == num_processes
    assert sum(rows for rows, _ in shapes.values()) == len(
        load_file(copy.folder / "checkpoints/stage2_text_pc/vocabulary.safetensors")["input"]
    )
    assert "resuming after step" in ranks([copy] * num_processes, *command)[0]
    assert {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")} == expected


def test_shards_need_a_folder_that_all_see(copy, tmp_path):
    copy.change("distributed: ddp", "distributed: fsdp2")
    elsewhere = copy.copied(tmp_path / "elsewhere")
    outputs = ranks([copy, elsewhere], "cadmllm", "train", "stage3_all", code=1)
    assert "is not there for process 1" in "".join(outputs)
    assert "a folder that all machines see" in "".join(outputs)
    assert not list(copy.folder.glob("scratch/train-stage3_all/*/*state-*"))
    assert not list(elsewhere.folder.glob("scratch/**/*.safetensors"))


def test_who_does_not_see_the_scratch_folder_is_told_where_training_was(copy, done, tmp_path):
    """The second process works elsewhere, as on a machine whose disk is not that of the first."""
    before = losses(done, "stage3_all"), losses(done, "stage3_all", "validation")
    elsewhere = copy.copied(tmp_path / "elsewhere")
    shutil.rmtree(elsewhere.folder / "checkpoints/stage3_all")
    shutil.rmtree(elsewhere.folder / "scratch", ignore_errors=True)
    process = copy.start("cadmllm", "train", "stage3_all")
    wait_for_state(copy)
    process.kill()
    process.communicate()
    outputs = ranks([copy, elsewhere], "cadmllm", "train", "stage3_all")
    assert "resuming after step" in outputs[0]
    after = losses(copy, "stage3_all"), losses(copy, "stage3_all", "validation")
    assert after[0] == pytest.approx(before[0], rel=1e-4)
    assert after[1] == {step: pytest.approx(found, rel=1e-4) for step, found in before[1].items()}
    assert not (elsewhere.folder / "scratch").exists()
    assert not (elsewhere.folder / "checkpoints/stage3_all").exists()


def test_every_trained_tensor_is_carried_from_stage_to_stage(done):
    first, second = losses(done, "stage1_text", "validation"), losses(done, "stage2_text_pc", "validation")
    third = losses(done, "stage3_all", "validation")
    assert second[0]["text"] == first[max(first)]["text"]
    for combination in ("text", "text+point_cloud"):
        assert third[0][combination] == second[max(second)][combination]
    before, after = (tensors(done.folder / f"checkpoints/{name}") for name in ("stage1_text", "stage2_text_pc"))
    assert before.keys() < after.keys()
    for name, value in before.items():
        assert not np.array_equal(value, after[name]), name
        assert np.abs(value - after[name]).max() < 0.2, name  # trained on, not begun anew
    assert any(np.abs(value).max() > 0 for name, value in before.items() if "lora_B" in name)


def test_a_checkpoint_knows_its_ancestors_and_the_best_is_one_too(copy):
    lineage = json.loads(copy.read("checkpoints/stage3_all/lineage.json"))
    assert [lineage["stage"], lineage["parent"]["stage"], lineage["parent"]["parent"]["stage"]] == [
        "stage3_all", "stage2_text_pc", "stage1_text",
    ]  # fmt: skip
    shown = copy.call("checkpoint", "show", "checkpoints/stage3_all")
    assert "stage1_text, from models/llm" in shown
    validations = losses(copy, "stage2_text_pc", "validation")
    best = json.loads(copy.read("checkpoints/stage2_text_pc/best/lineage.json"))["validation"]
    assert best in list(validations.values())[1:]
    copy.change("init_from: checkpoints/stage2_text_pc", "init_from: checkpoints/stage2_text_pc/best")
    pretend_older(copy.folder / "checkpoints/stage2_text_pc/best/lineage.json")
    said = copy.call("train", "stage3_all")
    assert said.count("checkpoints/stage2_text_pc/best was trained with torch 2.0.0; this is torch 2.") == 1
    assert losses(copy, "stage3_all", "validation")[0]["text"] == best["text"]


def pretend_older(path):
    lineage = json.loads(path.read_text())
    assert lineage["libraries"].keys() >= {"torch", "transformers", "peft", "tokenizers", "numpy"}
    lineage["libraries"]["torch"] = "2.0.0"
    path.write_text(json.dumps(lineage))


def test_all_options_of_a_stage_work_together(copy):
    copy.change("gradient_checkpointing: false", "gradient_checkpointing: true")
    copy.change("projector_lr_adaptation: 0.0", "projector_lr_adaptation: 0.5")
    copy.change("validate_every_epochs: 1 ", "validate_every_epochs: 0.5 ")
    copy.change(
        "    epochs: 3\n    lr: 0.001\n    train_llm: true\n    text_embeddings: new",
        "    epochs: 9\n    lr: 1e-1\n    train_llm: true\n    text_embeddings: all\n"
        "    early_stopping: {patience: 2, min_epochs: 0.5}\n    modality_dropout: {text: 0.3, image: 0.5}\n"
        "    final_modality_sample_probs: {text+image: 0.5, text+point_cloud+image: 0.5}",
        after="stage3_all:",
    )
    output = copy.call("train", "stage3_all")
    figures = json.loads(copy.read("metrics/train/stage3_all.json"))
    assert "the stage ends" in output  # a rate that breaks the model
    assert figures["epochs"] < 9
    assert figures["best_epoch"] <= figures["epochs"]
    assert set(figures["projector_lr_factors"]) == {"point_cloud", "image"}
    assert "image" in figures["intended"]
    assert sum(figures["intended"].values()) == pytest.approx(1, abs=1e-4)
    assert sum(figures["combinations"].values()) == pytest.approx(1, abs=1e-4)
    rates = log(copy, "stage3_all")[1]["learning_rates"]
    assert rates["projector/image"] / rates["lora"] == pytest.approx(5 * figures["projector_lr_factors"]["image"])
    rows = load_file(copy.folder / "checkpoints/stage3_all/text_embeddings.safetensors")
    assert len(rows["ids"]) == len(rows["rows"]) > 10
    assert "warning: text-only loss is" in output
    assert "warning: validation loss with image went from" in output
    assert "modality_sample_probs" in output


@pytest.mark.parametrize(
    ("old", "new", "rel"),
    [
        ("gradient_checkpointing: false", "gradient_checkpointing: true", 1e-5),
        longer("compile: false", "compile: true", 1e-4),
        ("dtype: float32", "dtype: bfloat16", 0.02),
        ("dtype: float32", "dtype: float16", 0.02),
        ("quantization: none", "quantization: nf4", 0.01),
    ],
)
def test_other_ways_to_compute_a_step_give_the_same_losses(copy, old, new, rel):
    if "compile" in new and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    before = losses(copy, "stage1_text")
    copy.change(old, new)
    copy.run("cadmllm", "train", "stage1_text")
    after = losses(copy, "stage1_text")
    assert after == pytest.approx(before, rel=rel)
    learnt, learnt_before = (found[1] - found[max(found)] for found in (after, before))
    assert learnt == pytest.approx(learnt_before, rel=0.2)  # which is a small part of the loss


@LONG
def test_two_processes_stop_together_and_one_goes_on(held_up):
    """One of them is held up for longer than the 30 s after which torchrun, left to itself, kills."""
    project, process = held_up.project, held_up.process
    time.sleep(max(0, held_up.since + 35 - time.monotonic()))
    assert process.poll() is None
    held_up.last.resume()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert output.count("stopping after the work at hand") == 1
    said = "stopped by SIGTERM; what is finished is kept. Go on with: cadmllm train stage3_all --nproc 2"
    assert output.splitlines().count(said) == output.count("Go on with") == 1, output
    assert len(shards(project)) == 2  # which a single process puts together
    assert "resuming after step" in project.run("cadmllm", "train", "stage3_all")
    for name, value in tensors(project.folder / "checkpoints/stage3_all").items():
        np.testing.assert_allclose(value, held_up.before[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_how_fast_it_went_is_logged_apart(done):
    lines = [json.loads(line) for line in done.read("logs/train/stage3_all.jsonl").splitlines()]
    assert {"tokens_per_s", "data_wait_share", "mfu", "peak_memory_gib"} <= lines[-1].keys()
    assert all(0 <= line["data_wait_share"] < 1 and line["tokens_per_s"] > 0 for line in lines)
    assert "tokens_per_s" not in done.read("checkpoints/stage3_all/log.jsonl").decode()


def test_a_curriculum_of_one_stage_needs_no_code(copy):
    text = (copy.folder / "params.yaml").read_text()
    start, end = text.index("curriculum:\n"), text.index("evaluation:\n")
    direct = (
        "curriculum:\n  direct:\n    init_from: models/llm\n    point_cloud: data/features/point_cloud\n"
        "    image: data/features/image\n    modality_sample_probs: {point_cloud: 0.5, text+image: 0.5}\n    steps: 9\n"
        "    lr: 0.001\n    train_llm: true\n    text_embeddings: new\n    train_projectors: [image]\n"
    )
    (copy.folder / "params.yaml").write_text(text[:start] + direct + text[end:])
    copy.leave_inputs_alone()
    output = copy.run("dvc", "repro")
    assert "train@direct" in output
    summary = json.loads(copy.read("metrics/summary.json"))
    measured = json.loads(copy.read("metrics/evaluate/direct.json"))["combinations"]
    assert {"point_cloud", "text+image", "text"} <= set(measured)
    assert summary["loss"]["all"] == pytest.approx(measured["text+point_cloud+image"]["validation_loss"], abs=1e-3)
    assert json.loads(copy.read("metrics/train/direct.json"))["steps"] == 9
    assert "direct" in copy.read("report/index.html").decode()


@pytest.mark.parametrize(
    "architecture", [longer("model_type: qwen2"), "model_type: qwen3\n      head_dim: 24"], ids=["2", "3"]
)
def test_qwen_learns_goes_on_from_its_checkpoint_and_writes_programs(copy, architecture):
    copy.change("model_type: llama", architecture)
    copy.call("models")
    validations = []
    for stage in ("stage1_text", "stage2_text_pc"):
        copy.call("train", stage)
        found = list(losses(copy, stage).values())
        assert sum(found[-3:]) < sum(found[:3])
        validations += losses(copy, stage, "validation").values()
    assert validations[1]["text"] == validations[2]["text"] < validations[0]["text"]
    np.save(copy.folder / "cloud.npy", np.random.default_rng(0).normal(size=(500, 3)))
    command = ("generate", "a plate", "--checkpoint", "checkpoints/stage2_text_pc", "--points", "cloud.npy")
    assert "made.tokens: " in copy.call(*command, "--max-tokens", "24", "--out", "made.tokens")
