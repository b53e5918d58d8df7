"""Memory that runs out, in whatever words, is told with what helps here."""

import os
from errno import ENOMEM
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from pipeline.evaluation import robustness, setup
from pipeline.execution.workers import Workers
from pipeline.features import build as features
from pipeline.features.memory import remedies
from pipeline.model import cad_mllm, checkpoint
from pipeline.runtime import state_dicts
from pipeline.runtime.errors import UserError
from pipeline.settings import memory
from pipeline.training.memory import for_training
from tests.unit.conftest import GRAMMAR

SHAPES = {"image": (2, 4, 8), "point_cloud": (3, 8)}


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.empty(1 << 58),
        lambda: np.empty(1 << 58, np.uint8),
        lambda: bytearray(1 << 60),
    ],
)
def test_every_librarys_failure_to_allocate_is_told_in_one_message(take):
    with (
        pytest.raises(UserError, match=r"^out of memory at work\n\(.*\)\n.*:\n  less\n  fewer$"),
        memory.explained(lambda: "at work", lambda: ("less", "fewer")),
    ):
        take()


def test_what_a_gpu_says_is_recognised_and_other_errors_pass():
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert memory.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"))
    with pytest.raises(RuntimeError, match="shapes"), memory.explained(lambda: "", lambda: ()):
        raise RuntimeError("shapes cannot be multiplied")


def test_only_what_helps_here_is_named(smoke):
    def named(training=smoke.training, num_processes=1, gpu=False, largest=(4, 800)):
        p = smoke.model_copy(update={"training": training})
        lines = for_training(p, smoke.curriculum["stage3_all"], SHAPES, largest, num_processes, gpu)
        return {line.split(":")[0] for line in lines if line.startswith("training.")}

    always = {"training.gradient_checkpointing", "training.dtype", "training.quantization"}
    assert named() == {"training.tokens_per_batch", *always}
    assert named(largest=(1, 800)) == always
    assert named(gpu=True, largest=(1, 800)) == {"training.distributed", *always}
    update = {"gradient_checkpointing": True, "quantization": "nf4", "distributed": "fsdp2", "dtype": "bfloat16"}
    assert named(smoke.training.model_copy(update=update), 2, gpu=True) == {"training.tokens_per_batch"}


def test_fewer_tokens_help_where_there_are_several(smoke):
    def named(shapes):
        lines = for_training(smoke, smoke.curriculum["stage3_all"], shapes, (1, 800), 1, False)
        return {line.split(":")[0] for line in lines if line.startswith("features.")}

    assert named(SHAPES) == {"features.image.pool", "features.point_cloud.tokens"}
    assert named({"image": (2, 1, 8), "point_cloud": (1, 8)}) == set()


def test_an_encoder_takes_several_models_at_a_time_on_a_gpu_alone(smoke):
    settings = smoke.features.point_cloud
    (more,) = set(remedies("point_cloud", settings, True)) - {*remedies("point_cloud", settings, False)}
    assert more == f"features.point_cloud.batch_size: less than {settings.batch_size}"


def no_memory(*_, **__):
    raise OSError(ENOMEM, os.strerror(ENOMEM))


def test_files_that_find_no_memory_are_not_called_damaged(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", no_memory)
    with pytest.raises(OSError, match="Cannot allocate"):
        cad_mllm.CadMllmModel(tmp_path, smoke.model, GRAMMAR, 0, torch.float32)
    (tmp_path / "x.safetensors").touch()
    monkeypatch.setattr(state_dicts, "load_file", no_memory)
    with pytest.raises(OSError, match="Cannot allocate"):
        checkpoint.read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("modality", ["image", "point_cloud"])
def test_encoders_within_a_measurement_name_what_helps_them(smoke, tmp_path, monkeypatch, modality):
    """Real models are encoded before they are measured, and worse inputs of the test models."""
    settings, cpu = getattr(smoke.features, modality), torch.device("cpu")
    manifest = SimpleNamespace(details={"settings": {"num_views": 2}}, shards=())
    monkeypatch.setattr(features, "ShardReader", lambda *_: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr(features, "read_models", lambda _: dict.fromkeys(("image_encoder", "point_cloud_encoder")))
    monkeypatch.setattr(features, "make_featurizer", no_memory)
    details = {modality: {"settings": settings.model_dump()}}
    evaluator = SimpleNamespace(
        model=SimpleNamespace(device=cpu, feature_details=details, feature_shapes={"image": (2,)}),
        cases=SimpleNamespace(shown=lambda *_: []), test=None, workers=Workers(1),
        setting=SimpleNamespace(seed=0, kernel=smoke.kernel),
    )  # fmt: skip
    encoders = SimpleNamespace(points=no_memory, images=no_memory, image_size=56)

    def encode():
        features.build_features(
            modality, tmp_path, tmp_path, settings, cpu, tmp_path, tmp_path, Workers(), lambda *_: None
        )

    def disturb():
        if modality == "image":
            robustness._turned_cases(evaluator, "image", encoders, SimpleNamespace(map=list), 20.0, [])
        else:
            robustness._disturbed_cases(evaluator, "point_cloud", encoders, robustness.noisy, 0.0, [])

    for work in (encode, disturb):
        with (
            pytest.raises(UserError, match=f"out of memory on cpu with {modality}s") as told,
            memory.explained(lambda: "", lambda: setup.remedies(smoke.evaluation, smoke.training)),
        ):
            work()
        assert f"models.{modality}_encoder: a smaller one" in str(told.value)
        assert "evaluation." not in str(told.value)


def test_an_evaluation_names_the_size_of_the_validation_losss_batches(smoke):
    lines = list(setup.remedies(smoke.evaluation, smoke.training))
    assert any(
        line.startswith(f"training.tokens_per_batch: less than {smoke.training.tokens_per_batch}") for line in lines
    )
