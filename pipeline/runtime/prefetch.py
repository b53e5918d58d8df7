"""Work ahead in a thread: reading and decoding overlap with computing."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, up to ``depth`` of them made ahead.

    A fault in making an item is raised where the item would have come. Who leaves early has to ``close()``: that ends
    the thread, and waits for it. A thread that is inside a library when the interpreter goes down aborts the process.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    abandoned = threading.Event()

    def put(answer: tuple[bool, Any]) -> bool:
        while not abandoned.is_set():
            try:
                ready.put(answer, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # handed over to the consumer
            put((False, error))

    worker = threading.Thread(target=fill, daemon=True)
    worker.start()
    try:
        while True:
            more, item = ready.get()
            if more:
                yield item
            elif item is not None:
                raise item
            else:
                return
    finally:
        abandoned.set()
        worker.join()
