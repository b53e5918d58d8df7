"""Waiting for what threads do, as long as there is somebody who wants it, and for what clients send; and why there is
no answer.
"""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from uvicorn.protocols.http.h11_impl import H11Protocol

T = TypeVar("T")


class BusyError(Exception):
    """More is asked for than may wait."""


class GoneError(Exception):
    """The client has gone, or the service ends."""


async def unless(is_gone: Callable[[], Awaitable[bool]], future: asyncio.Future[Any]) -> None:
    """Wait for a result as long as there is somebody who wants it.

    Raises:
        GoneError: there is nobody. And what the result raises.
    """
    while not future.done():
        await asyncio.wait([future], timeout=0.25)
        if not future.done() and await is_gone():
            raise GoneError
    future.result()


async def in_thread(is_gone: Callable[[], Awaitable[bool]], function: Callable[..., T], *arguments: Any) -> T:
    """What a function gives in a thread; it is told when the client has gone.

    Args:
        function: takes ``is_gone``, too.
    """
    gone = threading.Event()
    call = functools.partial(function, *arguments, is_gone=gone.is_set)
    future = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        await unless(is_gone, future)
    finally:
        if not future.done():
            gone.set()
            future.add_done_callback(lambda done: done.exception())  # it is known why
    return future.result()


def impatient(silence_s: float) -> type[H11Protocol]:
    """uvicorn's own HTTP, which ends connections on which for so long no request begins: its own waits for ever."""

    class Impatient(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(silence_s, self._look, None)

        def _look(self, before: object) -> None:
            answered = self.cycle is None or self.cycle.response_complete
            if answered and self.cycle is before:
                self.transport.close()
            elif not self.transport.is_closing():
                self.loop.call_later(silence_s, self._look, self.cycle)

    return Impatient
