"""Who does a command's work: processes of this machine, or of a Ray cluster. The results are the same bytes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

from pipeline.execution.pool import Here, Pool
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.execution.settings import LOCAL, Execution
from pipeline.runtime.errors import UserError
from pipeline.settings.params import PARAMS_FILE, Sections, worker_limit

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


TRIES = 2  # a worker may be lost for memory that others took, or a disk that does not answer


class Job(Protocol[T_contra, R_co]):
    """What is loaded once by each worker, a network for one. It can be pickled."""

    def begin(self) -> Callable[[T_contra], R_co]:
        """Load it: what then works on items."""


class ExecutionSections(Sections):
    """What says who works."""

    execution: Execution = LOCAL


@dataclass(frozen=True, slots=True)
class Workers:
    """Who does a command's work.

    Attributes:
        limit: of processes (CADMLLM_WORKERS); None: as many as there are cores, or GPUs.
    """

    limit: int | None = None
    execution: Execution = LOCAL

    @classmethod
    def load(cls, path: Path = PARAMS_FILE) -> Self:
        """As params.yaml and CADMLLM_WORKERS say.

        Raises:
            UserError: the section, or the variable, is wrong.
        """
        return cls(worker_limit(), ExecutionSections.load(path).execution)

    @property
    def are_here(self) -> bool:
        """Whether all are on this machine, and no cluster's."""
        return self.execution.backend == "local"

    @property
    def number(self) -> int:
        """Processes on this machine."""
        return self.limit or cores()

    def at_most(self, number: int) -> "Workers":
        """These, but no more than so many."""
        return replace(self, limit=min(number, self.limit or number))

    def pool(
        self, function: Callable[[T], R], timeout_s: float, memory_mib: int, shared: tuple[Path, ...] = ()
    ) -> Pool[T, R]:
        """Workers for a function that may hang, crash, or take all memory; other arguments are those of ``Sandbox``.

        What a pipeline stage publishes must not depend on a worker that is lost for what is no fault of its item: each
        is tried twice. Nor on a machine of a cluster that does not see all files.

        Args:
            shared: what the function reads of, beside the project's folder: a machine without it is told.
        """
        if self.are_here:
            return Sandbox(function, self.number, timeout_s, memory_mib, TRIES)
        from pipeline.execution.cluster import CHUNK, ClusterPool, Sandboxed

        job = Sandboxed(function, timeout_s, memory_mib, TRIES, shared)
        return ClusterPool(job, self.execution.address, self.limit, chunk=CHUNK)

    def networks(self, here: Callable[[T], R], job: Job[T, R], device: str) -> Pool[T, R]:
        """Workers that each have a network: this process, or one for each GPU of a cluster; on the CPU, each core.

        Args:
            here: works with what this process has loaded.
            job: loads the same elsewhere.
            device: ``cpu`` or ``cuda``.
        """
        if self.are_here:
            return Here(here)
        from pipeline.execution.cluster import ClusterPool

        return ClusterPool(job, self.execution.address, self.limit, num_gpus=int(device == "cuda"))

    def cores_of_network(self, wanted: str) -> int:
        """Cores beside each of ``networks``, for ``training.device``: of a cluster's, a GPU's share."""
        if self.are_here:
            return self.number
        from pipeline.execution.cluster import cores_of_gpu

        return cores_of_gpu(self.execution.address) if self.device(wanted) == "cuda" else 1

    def device(self, wanted: str) -> str:
        """What networks run on, as ``choose_device`` takes it, from ``training.device``; a cluster is asked for GPUs.

        Raises:
            UserError: a cluster without GPU, and one is asked for.
        """
        if self.are_here or wanted == "cpu":
            return wanted
        from pipeline.execution.cluster import num_gpus

        found = num_gpus(self.execution.address)
        if wanted != "auto" and not found:
            raise UserError(f"device {wanted} is asked for, but the machines of the Ray cluster have no GPU")
        return "cuda" if found else "cpu"
