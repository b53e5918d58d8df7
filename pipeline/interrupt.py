"""SIGTERM and SIGINT: finish the unit of work at hand, keep it, and stop with one line that says how to go on."""

import ctypes
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1


class Interrupted(Exception):
    """The user, or the system, asked the stage to stop. What was finished is kept."""


class _Stop:
    """Whether a stop was asked for; set by a signal, checked between units of work."""

    signal_name: str | None = None

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        if self.signal_name is not None:
            raise Interrupted(self.signal_name)  # asked twice: stop now
        self.signal_name = signal.Signals(signum).name
        print(
            f"{self.signal_name}: stopping after the work at hand (again to stop at once)", file=sys.stderr, flush=True
        )


_stop = _Stop()


def listen() -> None:
    """Turn SIGTERM and SIGINT into a request, and ask for SIGTERM when the parent dies.

    ``dvc repro`` that is killed leaves its stages running; with this they stop.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    die_with_parent(signal.SIGTERM)


def die_with_parent(signum: signal.Signals) -> None:
    """Ask the kernel for a signal when the parent process ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)


def check() -> None:
    """Raise ``Interrupted`` if a stop was asked for. Call where everything finished is saved."""
    if _stop.signal_name is not None:
        raise Interrupted(_stop.signal_name)


def requested() -> bool:
    """Whether a stop was asked for."""
    return _stop.signal_name is not None
