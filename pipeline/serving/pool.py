"""Kernel processes that requests share: as many at work as there are cores, each killed where it takes too long."""

import queue
from typing import Any

from pipeline.cad.exchange.files import ConvertTask
from pipeline.cad.solids.sandbox import Failure, Sandbox
from pipeline.runtime.errors import RejectError
from pipeline.serving.tasks import ReadTask, ShapeTask, work

Task = ShapeTask | ReadTask | ConvertTask


class KernelPool:
    """A pool for ``tasks.work``, for any number of threads.

    Args:
        size: processes; who finds none free waits.
        timeout_s, memory_mib: of one task.
    """

    def __init__(self, size: int, timeout_s: float, memory_mib: int) -> None:
        self._sandboxes = [Sandbox[Task, Any](work, 1, timeout_s, memory_mib) for _ in range(size)]
        self._free: queue.SimpleQueue[Sandbox[Task, Any]] = queue.SimpleQueue()
        for sandbox in self._sandboxes:
            self._free.put(sandbox)

    def run(self, task: Task) -> Any:
        """The result of a task.

        Raises:
            RejectError: why there is none.
        """
        sandbox = self._free.get()
        try:
            result = next(sandbox.map([task]))
        finally:
            self._free.put(sandbox)
        if isinstance(result, Failure):
            raise RejectError(result.reason, result.detail)
        return result

    def close(self) -> None:
        """End the processes. Nothing may be at work."""
        for sandbox in self._sandboxes:
            sandbox.__exit__()
