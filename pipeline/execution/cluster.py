"""Workers on the machines of a Ray cluster; the only module that knows Ray.

The machines share the project's folder. Items go one at a time to workers that are up; what a lost worker was at goes
to another one. Ray's own retries are off: they would leave items with workers that wait for room in the cluster.
"""

import functools
import itertools
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.execution.pool import Failure, Pool
from pipeline.execution.sandbox import Sandbox
from pipeline.runtime import interrupt
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import ROOT

if TYPE_CHECKING:
    from pipeline.execution.workers import Job

T = TypeVar("T")
R = TypeVar("R")

POLL_S = 0.5  # between looks at whether a stop is asked for
SEEN_S = 10.0  # for a cluster's address to answer
PATIENCE_S = 300.0  # for a first worker, or another one where all are lost
CHUNK = 8  # items for which a worker is asked at once: to ask takes 2 ms of this process
SHARE = 4  # chunks for each worker at least, where it is known how many items there are
LOSSES = 3  # so many workers lost at the same item are its own fault
OBJECTS_MIB = 512  # results on their way, in a Ray of this machine alone


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """A function that may hang, crash, or take all memory; arguments are those of ``Sandbox``.

    Attributes:
        shared: what it reads of, beside the project's folder.
    """

    function: Callable[[Any], Any]
    timeout_s: float
    memory_mib: int
    tries: int
    shared: tuple[Path, ...]

    def begin(self) -> Callable[[Any], Any]:
        """Each worker has a sandbox of one process: what kills that costs an item, and not the worker.

        Raises:
            UserError: its machine does not see what is shared.
        """
        for path in self.shared:
            _see_shared(path)
        sandbox = Sandbox(self.function, 1, self.timeout_s, self.memory_mib, self.tries)
        return lambda item: next(sandbox.map([item]))


def _see_shared(path: Path) -> None:
    if not os.access(path, os.R_OK):
        raise UserError(
            f"{socket.gethostname()} cannot read {path}: every machine of a Ray cluster must see the project's folder "
            "and your dataset, under the same path"
        )


class _Worker:
    """In a process of a cluster's machine: what its jobs have loaded."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.begun: dict[int, Callable[[Any], Any]] = {}

    def ready(self) -> None:
        """Go to the project's folder."""
        _see_shared(Path(self.folder))
        os.chdir(self.folder)

    def work(self, pool: int, job: "Job[Any, Any]", items: list[Any]) -> list[Any]:
        """Work on items of a pool's job, which is loaded first where it is new."""
        if pool not in self.begun:
            self.begun[pool] = job.begin()
        return [self.begun[pool](item) for item in items]

    def end(self, pool: int) -> None:
        """Forget what a pool's job has loaded: a sandbox that is dropped ends its process."""
        self.begun.pop(pool, None)


@dataclass(slots=True)
class _Task:
    """What a worker is given at a time: items with their positions; and how many workers were lost at it."""

    items: list[tuple[int, Any]]
    losses: int = 0

    def after_loss(self) -> "list[_Task]":
        """What is to be done again: each item for itself, since one of them may be the cause."""
        return [_Task([each], self.losses + 1) for each in self.items]


@dataclass(slots=True)
class _Work:
    """What a worker is at, and where the end of it is told; None: it comes up."""

    worker: Any
    task: _Task | None
    told: deque[tuple[_Task, Any]] | None


@dataclass(eq=False)
class _Crew:
    """Workers of this process with the same resources, shared by its pools: they come once, and stay to its end.

    Attributes:
        size: how many come.
    """

    ray: Any
    resources: dict[str, int]
    size: int
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, _Work] = field(default_factory=dict)
    waiting_since: float | None = None
    failed: int = 0  # workers that did not come up, one after another

    def __post_init__(self) -> None:
        options = {**self.resources, "max_restarts": 0, "max_task_retries": 0}
        self.kind = self.ray.remote(**options)(_Worker)

    def hire(self, wanted: int) -> None:
        """Let workers come, until there are so many, or as many as the cluster has room for."""
        while len(self.idle) + len(self.busy) < min(wanted, self.size):
            worker = self.kind.remote(str(Path.cwd()))
            self.busy[worker.ready.remote()] = _Work(worker, None, None)

    def begin(self, pool: "ClusterPool[Any, Any]", task: _Task, told: deque[tuple[_Task, Any]]) -> bool:
        """Give a pool's task to a worker that has nothing to do; whether there is one."""
        if not self.idle:
            return False
        worker = self.idle.pop()
        self.busy[worker.work.remote(pool.number, pool.job, [item for _, item in task.items])] = _Work(
            worker, task, told
        )
        return True

    def end(self, number: int) -> None:
        """Let workers forget a pool."""
        for worker in (*self.idle, *(work.worker for work in self.busy.values())):
            worker.end.remote(number)

    def advance(self) -> None:
        """Wait until something ends, and tell it to those who wait for it.

        Raises:
            UserError: of a worker's job; or no worker comes.
        """
        ended, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=POLL_S)
        if not ended:
            interrupt.check()  # what is at work is given up: a shard can take an hour
            self._wait_for_workers()
            return
        ended, _ = self.ray.wait(list(self.busy), num_returns=len(self.busy), timeout=0)
        for answer in ended:
            work = self.busy.pop(answer)
            try:
                result = self.ray.get(answer)
            except self.ray.exceptions.RayTaskError as error:
                self.idle.append(work.worker)
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            except self.ray.exceptions.RayError as error:  # the worker, or its machine, is lost
                self.ray.kill(work.worker)
                self._doubt(work, error)
                result = LOST
            else:
                self.idle.append(work.worker)
                self.failed, self.waiting_since = 0, None
            if work.task is not None and work.told is not None:
                work.told.append((work.task, result))

    def _doubt(self, work: _Work, error: Exception) -> None:
        """After a loss others may be lost, too: who is idle proves itself before it is given work.

        Raises:
            UserError: workers do not come up, time and again.
        """
        self.failed += work.task is None
        if self.failed >= LOSSES * self.size:
            raise UserError(f"the Ray cluster's workers do not come up: {error}") from error
        for worker in self.idle:
            self.busy[worker.ready.remote()] = _Work(worker, None, None)
        self.idle.clear()

    def _wait_for_workers(self) -> None:
        """While nobody works: see whether to wait on."""
        if self.idle or any(work.task is not None for work in self.busy.values()):
            return
        self.waiting_since = self.waiting_since or time.monotonic()
        if time.monotonic() > self.waiting_since + PATIENCE_S:
            has = self.ray.cluster_resources()
            raise UserError(
                f"in {PATIENCE_S:g} s the Ray cluster had no room for a worker with {self.resources}: it has "
                f"{has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs, and others may use them"
            )


LOST = object()
POOLS = itertools.count()


class ClusterPool(Pool[T, R]):
    """Workers of a Ray cluster for one job.

    Args:
        address: of the cluster; None for one of this machine alone.
        limit: of workers that work for it at a time; None: one for each GPU, or core.
        num_gpus: for each worker.
        chunk: items that a worker is given at a time, at most.

    Raises:
        UserError: Ray is not installed, or no cluster answers; later on, no worker comes, or what a job raises.
    """

    def __init__(
        self, job: "Job[T, R]", address: str | None, limit: int | None, num_gpus: int = 0, chunk: int = 1
    ) -> None:
        self.job, self.crew, self.number, self.chunk = job, _crew(address, num_gpus), next(POOLS), chunk
        self.num_workers = min(limit or self.crew.size, self.crew.size)

    def __exit__(self, *_: object) -> None:
        """The workers stay, for other pools; they end with this process."""
        self.crew.end(self.number)

    def _shares(self, items: Iterable[T]) -> tuple[int, int]:
        """How many workers are wanted, and how many items each is given at a time."""
        if not isinstance(items, Sized):
            return self.num_workers, self.chunk
        each = len(items) // (SHARE * self.num_workers)
        return min(self.num_workers, len(items)), max(1, min(self.chunk, each))

    def _finished(self, items: Iterable[T], may_begin: Callable[[int], bool]) -> Iterator[tuple[int, T, R | Failure]]:
        wanted, chunk = self._shares(items)
        source, taken, exhausted = enumerate(items), 0, False
        waiting: deque[_Task] = deque()
        told: deque[tuple[_Task, Any]] = deque()
        at_work = 0
        while True:
            if not waiting and not exhausted and may_begin(taken):
                found = list(itertools.islice(source, chunk))
                exhausted, taken = len(found) < chunk, taken + len(found)
                if found:
                    waiting.append(_Task(found))
            if waiting:
                self.crew.hire(wanted)
                if at_work < self.num_workers and self.crew.begin(self, waiting[0], told):
                    waiting.popleft()
                    at_work += 1
                    continue
            elif not at_work:
                return
            while not told:
                self.crew.advance()
                if self.crew.idle and waiting and at_work < self.num_workers:
                    break
            while told:
                task, results = told.popleft()
                at_work -= 1
                if results is LOST and task.losses + 1 < LOSSES:
                    waiting.extend(task.after_loss())
                else:
                    lost = Failure("crash", f"{LOSSES} workers of the cluster were lost at it")
                    given = [lost] * len(task.items) if results is LOST else results
                    yield from ((*each, result) for each, result in zip(task.items, given, strict=True))


@functools.cache
def _crew(address: str | None, num_gpus: int) -> _Crew:
    ray = _connected(address)
    has = ray.cluster_resources()
    if num_gpus:  # they need no core for themselves: those that need one may have taken all
        return _Crew(ray, {"num_cpus": 0, "num_gpus": num_gpus}, max(1, int(has.get("GPU", 0)) // num_gpus))
    return _Crew(ray, {"num_cpus": 1}, max(1, int(has.get("CPU", 0))))


def num_gpus(address: str | None) -> int:
    """GPUs of the cluster.

    Raises:
        UserError: as of ``ClusterPool``.
    """
    return int(_connected(address).cluster_resources().get("GPU", 0))


def cores_of_gpu(address: str | None) -> int:
    """Cores of the cluster for each of its GPUs.

    Raises:
        UserError: as of ``ClusterPool``.
    """
    has = _connected(address).cluster_resources()
    return max(1, int(has.get("CPU", 0) // max(1, has.get("GPU", 0))))


def _see(address: str) -> None:
    """See that something answers there: Ray tries for many minutes, whatever the user wants meanwhile."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=SEEN_S).close()
    except (OSError, ValueError) as error:
        raise UserError(f"no Ray cluster answers at {address} (execution.address): {error}") from error


@functools.cache
def _connected(address: str | None) -> Any:
    """Ray, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of it
    os.environ.setdefault("RAY_worker_niceness", "0")  # the kernel's time is limited by the clock, whoever else works
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPU leaves them as they are
    try:
        import ray
    except ImportError as error:
        raise UserError("execution.backend ray needs Ray: pip install 'cadmllm-curriculum[ray]'") from error
    if address and address != "auto":
        _see(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    own: dict[str, Any] = {} if address else {"object_store_memory": OBJECTS_MIB << 20, "include_dashboard": False}
    try:
        ray.init(
            address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            **own,
        )
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = f"no Ray cluster answers at {address}" if address else "no Ray could be started"
        raise UserError(f"{where} (execution.address): {error}") from error
    for number, handler in handlers.items():  # Ray has its own, which end the process
        signal.signal(number, handler)
    return ray
