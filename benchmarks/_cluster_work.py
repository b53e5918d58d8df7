"""What workers do for ``cluster_model.py``. They import this module, and nothing that takes seconds."""

import functools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.corpus.prepare import prepare
from pipeline.geometry.draw import draw
from pipeline.metrics.assess import assess

WORK: dict[str, Callable[[Any], Any]] = {"corpus": prepare, "geometry": draw, "assess": assess}
KILLED = "killed"


class Timed(NamedTuple):
    """What one model took in its worker, and what came of it."""

    seconds: float
    made: Any


class Handed(NamedTuple):
    """A task as it goes to a worker, and the sizes of what comes back."""

    task: Any
    sizes: dict[str, int]


class Dozed(NamedTuple):
    """Who slept, and when it began, by the clock of this machine."""

    pid: int
    began: float


def timed(item: tuple[str, Any]) -> Timed:
    """One model's work."""
    name, task = item
    started = time.process_time()
    made = WORK[name](task)
    return Timed(time.process_time() - started, made)


def handed(item: Handed) -> dict[str, bytes]:
    """As many bytes as a model has, with no work done for them."""
    return {name: bytes(size) for name, size in item.sizes.items()}


def doze(seconds: float) -> Dozed:
    """Sleep."""
    began = time.time()
    time.sleep(seconds)
    return Dozed(os.getpid(), began)


def doze_or_die(folder: Path, item: tuple[float, bool]) -> Dozed:
    """Sleep; the first that is told so dies half-way, and writes down when."""
    seconds, dies = item
    began, mark = time.time(), folder / KILLED
    if dies and not mark.exists():
        time.sleep(seconds / 2)
        mark.write_text(repr(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return Dozed(os.getpid(), began)


class Handing:
    """What a cluster's workers do where only the dealing is measured."""

    def begin(self) -> Callable[[Handed], dict[str, bytes]]:
        """There is nothing to load."""
        return handed


@dataclass(frozen=True, slots=True)
class Dozing:
    """What a cluster's workers do where one is lost; they share a folder."""

    folder: Path

    def begin(self) -> Callable[[tuple[float, bool]], Dozed]:
        """There is nothing to load."""
        return functools.partial(doze_or_die, self.folder)
