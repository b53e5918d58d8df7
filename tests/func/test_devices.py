"""Stages on a GPU, or on a pretended one: what they write is what they write on the CPU."""

import itertools
import json

import numpy as np
import pytest
import torch

import pipeline.runtime.device
import pipeline.training.parallel
import stages.train
from pipeline.runtime import interrupt
from pipeline.shards.reader import ShardReader
from tests.conftest import longer
from tests.func.test_training import losses


@pytest.fixture
def on_gpu(copy, gpu, monkeypatch):
    """The finished project, whose stages run on the GPU from now on."""
    for module in (pipeline.runtime.device, pipeline.training.parallel):
        monkeypatch.setattr(module, "choose_device", lambda _: gpu)
    copy.leave_inputs_alone()
    return copy


def tokens(project, modality):
    reader = ShardReader(project.folder / "data/features" / modality, f"features/{modality}")
    return [reader.embeddings(row, f"{modality}.npy") for row in reader.rows()]


def test_features_are_those_of_the_cpu(on_gpu):
    for modality in ("point_cloud", "image"):
        before = tokens(on_gpu, modality)
        assert "encoding on" in on_gpu.call("features", "--modality", modality)
        for found, expected in zip(tokens(on_gpu, modality), before, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize(("dtype", "rel"), [("float32", 2e-3), longer("float16", 0.02)])
def test_a_stage_is_trained_interrupted_and_gone_on_with(on_gpu, monkeypatch, dtype, rel):
    before, validated = (losses(on_gpu, "stage2_text_pc", event) for event in ("train", "validation"))
    on_gpu.change("dtype: float32", f"dtype: {dtype}")
    asked = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "requested", lambda: next(asked) == 12)  # batches of validation ask as well as steps
        on_gpu.call("train", "stage2_text_pc", code=130)
    output = on_gpu.call("train", "stage2_text_pc")
    assert "resuming after step" in output
    assert ("was trained on frozen weights in float32" in output) == (dtype != "float32")
    assert losses(on_gpu, "stage2_text_pc") == pytest.approx(before, rel=rel)
    for step, found in losses(on_gpu, "stage2_text_pc", "validation").items():
        assert found == pytest.approx(validated[step], rel=rel)
    config = json.loads(on_gpu.read("checkpoints/stage2_text_pc/config.json"))
    assert (config["dtype"], config["quantization"]) == (dtype, "none")


def test_evaluation_and_worse_inputs_are_measured(on_gpu):
    name = "metrics/evaluate/stage2_text_pc.json"
    before = json.loads(on_gpu.read(name))["combinations"]
    on_gpu.change("completion: true", "completion: false")
    on_gpu.change("conditioning: true", "conditioning: false")
    assert "2 test models, on" in on_gpu.call("evaluate", "stage2_text_pc")
    for combination, found in json.loads(on_gpu.read(name))["combinations"].items():
        assert found["validation_loss"] == pytest.approx(before[combination]["validation_loss"], rel=1e-3)
        assert found["parse_rate"] == 1
    on_gpu.change("noise: []", "noise: [0.02]")
    on_gpu.change("rotations_deg: []", "rotations_deg: [20]")
    assert "all disturbances measured" in on_gpu.call("robustness")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_four_bit_weights_are_evaluated_as_they_were_trained(copy, name):
    pytest.importorskip("bitsandbytes")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = losses(copy, "stage1_text")
    copy.change("device: cpu", f"device: {name}")
    copy.change("quantization: none", "quantization: nf4")
    copy.call("train", "stage1_text")
    assert losses(copy, "stage1_text") == pytest.approx(before, rel=0.05)
    assert "weights       nf4, computed in float32" in copy.call("checkpoint", "show", "checkpoints/stage1_text")
    copy.change("quantization: nf4", "quantization: none")  # what a stage is trained on says nothing of an older one
    copy.call("evaluate", "stage1_text")
    measured = json.loads(copy.read("metrics/evaluate/stage1_text.json"))["combinations"]["text"]["validation_loss"]
    trained = losses(copy, "stage1_text", "validation")
    assert measured == pytest.approx(trained[max(trained)]["text"], rel=1e-6)
    output = copy.call("train", "stage2_text_pc")
    assert "was trained on frozen weights in nf4, computed in float32, this stage is on float32" in output


def test_processes_that_have_no_device_are_not_started(copy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    started = []
    monkeypatch.setattr(stages.train, "launch", lambda *arguments: started.append(arguments))
    copy.change("device: cpu", "device: cuda")
    output = copy.call("train", "stage1_text", "--nproc", "3", code=1)
    assert output.count("error: 3 processes on this machine want a GPU each, but torch can use 2 of them") == 1
    assert not started
    copy.call("train", "stage1_text", "--nproc", "2")
    assert started == [(2, ["train", "stage1_text"])]


@pytest.mark.parametrize("distributed", ["ddp", "fsdp2"])
def test_two_cuda_devices_train_as_the_cpu(copy, distributed):
    if torch.cuda.device_count() < 2:
        pytest.skip("no second CUDA device")
    before = losses(copy, "stage3_all")
    copy.change("device: cpu", "device: cuda")
    copy.change("distributed: ddp", f"distributed: {distributed}")
    copy.run("cadmllm", "train", "stage3_all", "--nproc", "2")
    assert losses(copy, "stage3_all") == pytest.approx(before, rel=2e-3)
