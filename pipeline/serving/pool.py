"""Kernel processes that requests share: as many at work as there are cores, each killed where it takes too long.

Work that nobody waits for any more is not begun, and what is at work on it is killed.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.cad.exchange.files import ConvertTask
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.runtime.errors import RejectError
from pipeline.serving.tasks import ReadTask, ShapeTask, work
from pipeline.serving.waiting import BusyError, GoneError

Task = ShapeTask | ReadTask | ConvertTask
_starting = threading.Lock()  # of processes, which hides the main module for a moment


def _kill_when_gone(sandbox: Sandbox[Task, Any], is_gone: Callable[[], bool], done: threading.Event) -> None:
    while not done.wait(0.25):
        if is_gone() and not done.is_set():
            sandbox.kill()
            return


def never() -> bool:
    """Nobody goes."""
    return False


class KernelPool:
    """A pool for ``tasks.work``, for any number of threads.

    Args:
        size: processes.
        waiting: tasks that may wait for one that is free.
        timeout_s, memory_mib: of one task.
    """

    def __init__(self, size: int, waiting: int, timeout_s: float, memory_mib: int) -> None:
        self.waiting, self._limits = waiting, (timeout_s, memory_mib)
        self._threads = ThreadPoolExecutor(size, "kernel")
        self._own = threading.local()
        self._sandboxes: set[Sandbox[Task, Any]] = set()
        self._num_waiting, self._closed = 0, False
        self._lock = threading.Lock()

    @property
    def num_waiting(self) -> int:
        """Tasks that are asked for and not begun."""
        return self._num_waiting

    def run(self, task: Task, is_gone: Callable[[], bool] = never) -> Any:
        """The result of a task.

        Args:
            is_gone: whether nobody waits for it any more; then it is not begun.

        Raises:
            RejectError: why there is none. BusyError: too many wait. GoneError: nobody waits.
        """
        with self._lock:
            if self._closed:
                raise GoneError
            if self._num_waiting >= self.waiting:
                raise BusyError(f"{self._num_waiting} pieces of work wait for the CAD kernel already")
            self._num_waiting += 1
        result = self._threads.submit(self._work, task, is_gone).result()
        if isinstance(result, Failure):
            raise RejectError(result.reason, result.detail)
        return result

    def _work(self, task: Task, is_gone: Callable[[], bool]) -> Any:
        with self._lock:
            self._num_waiting -= 1
        if self._closed or is_gone():
            raise GoneError
        sandbox: Sandbox[Task, Any] | None = getattr(self._own, "sandbox", None)
        if sandbox is None:
            sandbox = self._own.sandbox = Sandbox(work, 1, *self._limits)
            self._sandboxes.add(sandbox)
        with _starting:
            sandbox.start()
        done = threading.Event()
        if is_gone is not never:
            threading.Thread(target=_kill_when_gone, args=(sandbox, is_gone, done), daemon=True).start()
        try:
            return next(sandbox.map([task]))
        finally:
            done.set()

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.kill()
