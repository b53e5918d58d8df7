"""Where tensors live."""

import torch

from pipeline.errors import UserError


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one.

    Raises:
        UserError: CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device is cuda, but this machine has no CUDA device that torch can use")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
