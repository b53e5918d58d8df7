"""Where tensors live, and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from pipeline.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one.

    Raises:
        UserError: CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device is cuda, but this machine has no CUDA device that torch can use")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Mixed precision where the frozen weights are not in float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
