"""One process or several: the same steps, shared out by DDP or FSDP2; torchrun starts the processes.

Every process plans the same steps and computes its share of each; what is kept, the first process reads and writes, but
for shards.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from pipeline.curriculum.settings import Training
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.runtime import interrupt
from pipeline.runtime.device import choose_device, shared_device
from pipeline.runtime.errors import UserError

T = TypeVar("T")

PEER_TIMEOUT = "CADMLLM_PEER_TIMEOUT_S"  # variable: how long a process that does not answer is waited for
PEER_TIMEOUT_S = 600  # what one process does alone takes less: reading and publishing a checkpoint


class Parallel:
    """This process among those that train together; a world of one needs nothing of it.

    Args:
        training: which device, and whether the model is replicated or sharded.

    Attributes:
        control: the processes, for what they agree on beside the steps.

    Raises:
        UserError: the device is not there, or processes that torchrun starts again could not find each other.
    """

    def __init__(self, training: Training) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.sharded = training.distributed == "fsdp2" and self.size > 1
        if self.size > 1:
            self._start(training.device)
        else:
            self.device = choose_device(training.device)

    def _start(self, device: str) -> None:
        with _told_by_first():
            self.device = shared_device(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
            timeout = _peer_timeout()
            _check_restarts()
        if self.device.type == "cuda":
            self.device = torch.device("cuda", _local_rank())
            torch.cuda.set_device(self.device)
        with interrupt.unguarded():  # who waits for a process that was stopped before it came here would wait long
            self._store, *_ = next(rendezvous("env://", timeout=timeout))
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            world = {"store": self._store, "rank": self.rank, "world_size": self.size, "timeout": timeout}
            distributed.init_process_group(backend, **world)
            # What is agreed on beside the steps does without the GPU, which would have to be waited for.
            self.control = distributed.new_group(backend="gloo", timeout=timeout)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that reads and writes files, but for shards."""
        return self.rank == 0

    @property
    def made_on(self) -> torch.device:
        """Where a model is made before it is wrapped: one that is to be sharded never is on a GPU as a whole."""
        return torch.device("cpu") if self.sharded else self.device

    def wrap(self, model: CadMllmModel) -> nn.Module:
        """The module that gradients are exchanged through. Sharding replaces the model's own parameters.

        Shards are gathered as they are: frozen weights in ``training.dtype``; what is trained in float32, as a single
        process has it, and autocast rounds it where one process does.
        """
        if self.size == 1:
            return model
        if not self.sharded:
            device_ids = [self.device] if self.device.type == "cuda" else None
            return DistributedDataParallel(model, device_ids, forward_sync_buffers=False)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.size,))
        for layer in model.causal_lm.model.layers:  # goes to the device and is cut up before the next one comes
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    @contextmanager
    def accumulating(self, wrapped: nn.Module, last: bool) -> Iterator[None]:
        """Around a micro-batch: gradients are exchanged after the last one of a step.

        Shards are exchanged after each, since whole gradients would not fit where the model has to be sharded.
        """
        if isinstance(wrapped, DistributedDataParallel) and not last:
            with wrapped.no_sync():
                yield
        else:
            yield

    def from_main(self, read: Callable[[], T]) -> T:
        """What the first process reads, in every process: elsewhere files may be late, or not there at all."""
        box: list[T | None] = [read() if self.is_main else None]
        if self.size > 1:
            distributed.broadcast_object_list(box, src=0, group=self.control)
        return box[0]  # type: ignore[return-value]

    def tensors_from_main(self, read: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors by name that the first process reads, in every process, on the CPU; sent one by one."""
        own = read() if self.is_main else {}
        layout = self.from_main(lambda: {name: (tensor.shape, tensor.dtype) for name, tensor in own.items()})
        found = {name: own[name] if self.is_main else torch.empty(s, dtype=t) for name, (s, t) in layout.items()}
        for tensor in found.values() if self.size > 1 else ():
            distributed.broadcast(tensor, src=0, group=self.control)
        return found

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def dealt(self, items: Sequence[T]) -> Sequence[T]:
        """This process' share of them."""
        return items[self.rank :: self.size]

    def gathered(self, own: Sequence[T]) -> list[T]:
        """What every process made of its share of ``dealt`` items, in their order, in every process."""
        if self.size == 1:
            return list(own)
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, own, group=self.control)
        items = itertools.chain.from_iterable(itertools.zip_longest(*parts))
        return [item for item in items if item is not None]

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in some process."""
        if self.size == 1:
            return flag
        raised = torch.tensor(int(flag))
        distributed.all_reduce(raised, distributed.ReduceOp.MAX, group=self.control)
        return bool(raised)

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            distributed.barrier(group=self.control)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if self.size == 1 or kind is interrupt.Interrupted:
            return
        # After a fault the others may wait elsewhere: this process ends, and torchrun ends them.
        if error is None:
            self.wait()
            distributed.destroy_process_group()
        elif self.first_fault(error) != self._told(error):
            raise SystemExit(1)  # the same fault, or what it did to this process: it has been told
        elif _is_lost_peer(error):
            raise UserError(self._told(error)) from error

    def first_fault(self, error: BaseException) -> str:
        """What the process that failed first said of it: this one, where none did before. Empty after a mere stop."""
        own = self._told(error)
        if self.size == 1:
            return own
        try:  # an empty value is replaced as if there were none; processes that are started again have another store
            found: bytes = self._store.compare_set("fault", "", own)
        except distributed.DistError:  # nobody can be asked: better twice than never
            return own
        return found.decode()

    def _told(self, error: BaseException) -> str:
        """What this process says of a fault; a stop is none."""
        if isinstance(error, interrupt.Interrupted):
            return ""
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if _is_lost_peer(error):
            said = "another process is gone, or has not answered for too long; the last saved state stays"
        return f"process {self.rank}: {said}" if self.size > 1 else said


def _is_lost_peer(error: BaseException) -> bool:
    """Whether an error is what the loss of another process does to this one. Gloo has no class for its own."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def _told_by_first() -> Iterator[None]:
    """What is wrong for each process of this machine alike, the first of them tells."""
    try:
        yield
    except UserError:
        if _local_rank() > 0:
            raise SystemExit(1) from None
        raise


def _peer_timeout() -> timedelta:
    given = os.environ.get(PEER_TIMEOUT, str(PEER_TIMEOUT_S))
    if not given.isdecimal() or int(given) == 0:
        raise UserError(f"{PEER_TIMEOUT}={given!r} is not a positive number")
    return timedelta(seconds=int(given))


def _check_restarts() -> None:
    """Torchrun has processes meet where those before them met, and they wait for these (2.13, `next_rendezvous`)."""
    if interrupt.is_restarted_by_torchrun() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UserError(
            "torchrun --max-restarts needs --rdzv-backend c10d, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its "
            "environment: else processes that are started again wait for those before them"
        )
