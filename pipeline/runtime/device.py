"""Where tensors live, and in which precision."""

import re
import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from pipeline.runtime.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """A device by its name: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes CUDA where there is one.

    A GPU always has its number, as ``torch.cuda.set_device`` wants it; ``cuda`` is the first. Choosing one turns
    cuDNN's attention off in this process.

    Raises:
        UserError: there is no such device, or it is not on this machine.
    """
    gpus = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise UserError(f"device {name!r}: it is auto, cpu, cuda, or cuda:<number>")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and device.index >= gpus:
        has = f"{gpus} CUDA devices" if gpus else "no CUDA device"
        raise UserError(f"device {name} is asked for, but this machine has {has} that torch can use")
    if device.type == "cuda":  # cuDNN plans its attention anew for every length, which takes longer than any step
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def shared_device(name: str, num_processes: int) -> torch.device:
    """A device by its name, for so many processes of this machine: a GPU for each, or the CPU for all.

    Raises:
        UserError: as of ``choose_device``; or there are fewer GPUs.
    """
    device = choose_device(name)
    if device.type == "cuda" and num_processes > (gpus := torch.cuda.device_count()):
        raise UserError(f"{num_processes} processes on this machine want a GPU each, but torch can use {gpus} of them")
    return device


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Mixed precision where the frozen weights are not in float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@torch.inference_mode()
def fastest_s(work: Callable[[], object], device: torch.device, runs: int = 3) -> float:
    """Seconds that some work takes, a GPU waited for at its end: the fastest of so many runs after one to warm up."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matrix_flops(device: torch.device, dtype: torch.dtype = torch.float32, size: int | None = None) -> float:
    """FLOPs per second of square matrix products: what MFU is a share of.

    A GPU multiplies as large matrices as a 7B model's layers do, and many before it is waited for: a small product
    takes less time than asking for it. A processor takes a hundred times as long in float16 as in float32.
    """
    if device.type == "cuda":
        size, products = size or 4096, 32
    else:
        size, products = size or (256 if dtype == torch.float16 else 1024), 1
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)  # one for all: they would fill a GPU that has the model already

    def work() -> None:
        for _ in range(products):
            torch.mm(a, b, out=product)

    return 2 * size**3 * products / fastest_s(work, device, runs=5)


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):  # getrusage counts what the parent had before it started this process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
