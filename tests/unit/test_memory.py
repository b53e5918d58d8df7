"""Memory that runs out, in whatever words, is told with what helps here."""

import numpy as np
import pytest
import torch

from pipeline import memory
from pipeline.errors import UserError


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
        lines = memory.for_training(p, smoke.curriculum["stage3_all"], largest, num_processes, gpu)
        return {line.split(":")[0] for line in lines if line.startswith("training.")}

    always = {"training.gradient_checkpointing", "training.dtype", "training.quantization"}
    assert named() == {"training.tokens_per_batch", *always}
    assert named(largest=(1, 800)) == always
    assert named(gpu=True, largest=(1, 800)) == {"training.distributed", *always}
    update = {"gradient_checkpointing": True, "quantization": "nf4", "distributed": "fsdp2", "dtype": "bfloat16"}
    assert named(smoke.training.model_copy(update=update), 2, gpu=True) == {"training.tokens_per_batch"}


def test_an_encoder_takes_several_models_at_a_time_on_a_gpu_alone(smoke):
    settings = smoke.features.point_cloud
    (more,) = set(memory.for_features("point_cloud", settings, True)) - {
        *memory.for_features("point_cloud", settings, False)
    }
    assert more == f"features.point_cloud.batch_size: less than {settings.batch_size}"
