"""Where tensors live, and in which precision."""

import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
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


@torch.inference_mode()
def fastest_s(work: Callable[[], object], device: torch.device, runs: int = 3) -> float:
    """Seconds that some work takes: the fastest of so many runs after one to warm up."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matrix_flops(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 1024) -> float:
    """Operations per second of a square matrix product: what a training step is compared with."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / fastest_s(lambda: a @ b, device, runs=5)


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # getrusage counts what the parent had before it started this process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
