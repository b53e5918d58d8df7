"""One process or several: the same steps, shared out. DDP and FSDP2 through Accelerate; torchrun starts the processes.

Every process plans the same steps and computes its share of each; what is written, the first process writes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from pipeline.device import choose_device
from pipeline.errors import UserError
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.params import Training


class Parallel:
    """This process among those that train together; a world of one needs nothing of it.

    Args:
        training: which device, and whether the model is replicated or sharded.

    Raises:
        UserError: the device is not there.
    """

    def __init__(self, training: Training) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = choose_device(training.device)
        self.sharded = training.distributed == "fsdp2" and self.size > 1
        self._accelerator: Any = None
        if self.size > 1:
            self._start()

    def _start(self) -> None:
        from accelerate import Accelerator

        if self.device.type == "cuda" and int(os.environ.get("LOCAL_RANK", "0")) >= torch.cuda.device_count():
            raise UserError(f"{self.size} processes, but this machine has {torch.cuda.device_count()} GPUs")
        self._accelerator = Accelerator(cpu=self.device.type == "cpu")
        self.device = self._accelerator.device
        # Whether to stop is agreed on without the GPU, which would have to be waited for.
        self._control = distributed.new_group(backend="gloo")

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, model: CadMllmModel) -> nn.Module:
        """The module that gradients are exchanged through. Sharding replaces the model's own parameters."""
        if self._accelerator is None:
            return model
        if not self.sharded:
            replicated: nn.Module = self._accelerator.prepare(model)
            return replicated
        from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model

        # Accelerator.prepare shards on GPUs only; this is what it calls there, with the same plugin.
        self._accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=list(model.causal_lm._no_split_modules),
            cpu_ram_efficient_loading=False,
        )
        sharded: nn.Module = fsdp2_prepare_model(self._accelerator, model)
        return sharded

    @contextmanager
    def accumulating(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Around a micro-batch: gradients are exchanged after the last one of a step.

        Shards are exchanged after each, since whole gradients would not fit where the model has to be sharded.
        """
        if self.size == 1 or last or self.sharded:
            yield
        else:
            with self._accelerator.no_sync(wrapped):
                yield

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in some process."""
        if self.size == 1:
            return flag
        raised = torch.tensor(int(flag))
        distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=self._control)
        return bool(raised)

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            distributed.barrier(group=self._control)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, fault: type[BaseException] | None, *_: object) -> None:
        # After a fault the others may wait elsewhere: this process ends, and torchrun ends them.
        if self.size > 1 and fault is None:
            self.wait()
            distributed.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece, also where its shards are on several processes; all of them must ask."""
    from torch.distributed.tensor import DTensor

    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach()


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor cut into shards as a parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
