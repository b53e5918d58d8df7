"""SIGTERM and SIGINT: finish the unit of work at hand, keep it, and stop with one line that says how to go on."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import psutil

PR_SET_PDEATHSIG = 1
SHELLS = ("sh", "dash", "bash", "zsh", "ksh", "fish")


class Interrupted(Exception):
    """The user, or the system, asked the command to stop. What was finished is kept."""


class _Stop:
    """Whether a stop was asked for; set by a signal, checked between units of work.

    Attributes:
        is_over: nothing is at hand any more, and the command tells how it ended: signals say nothing new.
    """

    signal_name: str | None = None
    is_over = False

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        if self.is_over:
            return
        if self.signal_name is not None:
            raise Interrupted(self.signal_name)  # asked twice: stop now
        self.signal_name = signal.Signals(signum).name
        if os.environ.get("RANK", "0") == "0":
            said = f"{self.signal_name}: stopping after the work at hand (again to stop at once)"
            print(said, file=sys.stderr, flush=True)


request = _Stop()


def listen() -> None:
    """Turn SIGTERM and SIGINT into a request, and ask for SIGTERM when the parent dies.

    ``dvc repro`` that is killed leaves its commands running; with this they stop, also where the shell that DVC
    runs one in stands in between.
    """
    request.is_over = False
    signal.signal(signal.SIGTERM, request)
    signal.signal(signal.SIGINT, request)
    die_with_parent(signal.SIGTERM)
    if "DVC_STAGE" in os.environ:
        import psutil

        shell = psutil.Process().parent()
        if shell is not None and shell.name() in SHELLS:
            threading.Thread(target=_stop_when_orphaned, args=(shell, shell.ppid()), daemon=True).start()


def is_restarted_by_torchrun() -> bool:
    """Whether torchrun starts this process again when it ends before its work does."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def unlisten() -> None:
    """No longer turn SIGTERM and SIGINT into a request: the command has told how it ended."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is request:
            signal.signal(number, signal.SIG_DFL)


def stop_at_once() -> None:
    """Turn SIGTERM and SIGINT into ``Interrupted`` there and then, for commands whose work other processes do."""

    def raise_interrupted(signum: int, _frame: FrameType | None) -> NoReturn:
        raise Interrupted(signal.Signals(signum).name)

    signal.signal(signal.SIGTERM, raise_interrupted)
    signal.signal(signal.SIGINT, raise_interrupted)


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """SIGTERM and SIGINT end the process there and then: around a wait outside of Python, with no work at hand."""
    check()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_when_orphaned(shell: "psutil.Process", dvc: int) -> None:
    """Send this process SIGTERM when the shell's parent is no longer ``dvc``."""
    import psutil

    try:
        while shell.ppid() == dvc:
            time.sleep(0.1)
    except psutil.NoSuchProcess:
        return  # the shell itself is gone, of which the kernel tells
    os.kill(os.getpid(), signal.SIGTERM)


def die_with_parent(signum: signal.Signals) -> None:
    """Ask the kernel for a signal when the parent process ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)


def check() -> None:
    """Raise ``Interrupted`` if a stop was asked for. Call where everything finished is saved."""
    if request.signal_name is not None:
        raise Interrupted(request.signal_name)


def stop() -> NoReturn:
    """Raise ``Interrupted``, here or in another of the processes that work together."""
    raise Interrupted(request.signal_name or "a signal to another process")


def requested() -> bool:
    """Whether a stop was asked for."""
    return request.signal_name is not None
