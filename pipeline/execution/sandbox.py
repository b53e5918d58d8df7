"""Kernel work in child processes with a time and a memory limit.

Open CASCADE can hang, crash, or take all memory on one bad model. Each task runs in a worker process that
can be killed: it costs that task alone, which is reported by name, and a fresh worker takes the place.

A worker may also die or hang for what is no fault of its task: memory that others took, a disk that does not answer.
What a pipeline stage publishes must not depend on it, so its tasks are tried twice.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Generic, TypeVar

from pipeline.execution.pool import Failure, Pool
from pipeline.runtime.errors import RejectError
from pipeline.runtime.interrupt import die_with_parent

T = TypeVar("T")
R = TypeVar("R")

IDLE_MIB = 4096  # address space that the libraries map before any work
START_TIMEOUT_S = 120.0  # for a worker to come up; a task's own time begins when it has
READY = "ready"
LOST = ("timeout", "crash")  # reasons of a task whose worker did not answer
# What the fork server loads when it starts, once for every worker to come: the kernel, and what looks at its meshes.
PRELOADED = {"pipeline.cad.solids.kernel", "scipy.sparse.csgraph", "scipy.spatial"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def start_server(*modules: str) -> None:
    """Let the fork server load the kernel and these modules, while the caller does what comes before its first task."""
    PRELOADED.update(modules)
    multiprocessing.set_forkserver_preload(sorted(PRELOADED))
    with _main_hidden():
        forkserver.ensure_running()


@dataclass(eq=False)
class _Worker(Generic[T]):
    process: Any
    connection: Connection
    task: tuple[int, T] | None = None  # its position and the item
    deadline: float = field(default=float("inf"))
    ready: bool = False


class Sandbox(Pool[T, R]):
    """A pool of killable workers for one function, processes of this machine.

    Args:
        function: importable by name, or of a script with a main guard; takes an item, returns a picklable result, may
            raise ``RejectError``.
        num_workers: processes; the order and content of results do not depend on it.
        timeout_s: wall-clock seconds for one item.
        memory_mib: memory that an item may take beyond what the libraries map.
        tries: how often an item is given to a worker that dies or hangs over it, before that is its result.
    """

    def __init__(
        self, function: Callable[[T], R], num_workers: int, timeout_s: float, memory_mib: int, tries: int = 1
    ) -> None:
        self.function = function
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self.memory_mib = memory_mib
        self.tries = tries
        self._context = multiprocessing.get_context("forkserver")
        PRELOADED.add(function.__module__)
        self._context.set_forkserver_preload(sorted(PRELOADED))
        self._workers: list[_Worker[T]] = []

    def start(self) -> None:
        """Start a process, where there is none yet: otherwise the first task does."""
        if not self._workers:
            self._start()

    def kill(self) -> None:
        """Kill the processes, whatever they are at, from any thread: their tasks fail as if they had crashed."""
        for worker in list(self._workers):
            worker.process.kill()

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _stop(worker)
        self._workers.clear()

    def _finished(self, items: Iterable[T], may_begin: Callable[[int], bool]) -> Iterator[tuple[int, T, R | Failure]]:
        source = enumerate(items)
        position, exhausted = 0, False
        lost: Counter[int] = Counter()
        again: list[tuple[int, T]] = []
        while True:
            while again and (worker := self._idle()) is not None:
                self._give(worker, again.pop())
            while not exhausted and may_begin(position) and (worker := self._idle()) is not None:
                task = next(source, None)
                if task is None:
                    exhausted = True
                else:
                    self._give(worker, task)
                    position += 1
            if all(worker.task is None for worker in self._workers):
                return
            for (number, item), result in self._collect():
                if isinstance(result, Failure) and result.reason in LOST:
                    lost[number] += 1
                    if lost[number] < self.tries:
                        again.append((number, item))
                        continue
                yield number, item, result

    def _idle(self) -> _Worker[T] | None:
        """A worker that has nothing to do; a new one while there are too few."""
        idle = next((worker for worker in self._workers if worker.task is None), None)
        return self._start() if idle is None and len(self._workers) < self.num_workers else idle

    def _give(self, worker: _Worker[T], task: tuple[int, T]) -> None:
        try:
            worker.connection.send(task[1])
        except ConnectionError:  # it died while it had nothing to do
            _stop(worker)
            self._workers.remove(worker)
            worker = self._start()
            worker.connection.send(task[1])
        patience = self.timeout_s if worker.ready else START_TIMEOUT_S
        worker.task, worker.deadline = task, time.monotonic() + patience

    def _start(self) -> _Worker[T]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self.function, theirs, self.memory_mib), daemon=True)
        with nullcontext() if self.function.__module__ == "__main__" else _main_hidden():
            process.start()
        theirs.close()
        worker: _Worker[T] = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _collect(self) -> list[tuple[tuple[int, T], R | Failure]]:
        """Wait for the next answer, death or deadline: tasks that this ends, with their results."""
        busy = [(worker, worker.task) for worker in self._workers if worker.task is not None]
        patience = max(0.0, min(worker.deadline for worker, _ in busy) - time.monotonic())
        ready = wait([worker.connection for worker, _ in busy], timeout=patience)
        found: list[tuple[tuple[int, T], R | Failure]] = []
        for worker, task in busy:
            if worker.connection in ready:
                try:
                    answer = worker.connection.recv()
                    if worker.ready:
                        worker.task, worker.deadline = None, float("inf")
                        found.append((task, answer))
                    else:
                        worker.ready, worker.deadline = True, time.monotonic() + self.timeout_s
                    continue
                except (EOFError, ConnectionError):
                    worker.process.join()
                    found.append((task, _death(worker.process.exitcode)))
            elif time.monotonic() < worker.deadline:
                continue
            else:
                found.append((task, Failure("timeout", f"no result within {self.timeout_s:g} s")))
            _stop(worker)
            self._workers.remove(worker)
        return found


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keeps multiprocessing from running the user's script again in every worker that needs nothing of it."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _stop(worker: _Worker[Any]) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _death(exitcode: int | None) -> Failure:
    if exitcode is not None and exitcode < 0:
        return Failure("crash", f"the worker died of {signal.Signals(-exitcode).name}")
    return Failure("crash", f"the worker exited with {exitcode}")


def _serve(function: Callable[[Any], Any], connection: Connection, memory_mib: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    # The fork server ends when nobody holds its alive pipe, and a worker with it, also one that hangs.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    die_with_parent(signal.SIGKILL)
    limit = (memory_mib + IDLE_MIB) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(EOFError, ConnectionError):  # who asks is gone
        connection.send(READY)
        while True:
            connection.send(_answer(function, connection.recv(), memory_mib))


def _answer(function: Callable[[Any], Any], item: Any, memory_mib: int) -> Any:
    """A result; a fault in one item must not end the worker."""
    try:
        return function(item)
    except RejectError as error:
        return Failure(error.reason, error.detail)
    except MemoryError:
        return Failure("out_of_memory", f"more than {memory_mib} MiB")
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return Failure("out_of_memory" if "bad_alloc" in text else "kernel_failed", text[:200])
