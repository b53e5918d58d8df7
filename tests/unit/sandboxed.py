"""What workers of sandboxes run in tests. They import this module, and nothing that takes seconds."""

import os
import signal
import sys
import time

from pipeline.cad.language.program import CadProgram
from pipeline.cad.parts import synthesis
from pipeline.cad.solids import kernel
from pipeline.geometry.draw import draw
from pipeline.metrics.assess import compare_files
from pipeline.runtime.errors import RejectError


def work(item):
    match item:
        case "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
            while True:
                time.sleep(1)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "memory":
            return len(bytearray(16 << 30))
        case "exit":
            os._exit(3)
        case "reject":
            raise RejectError("unsupported_curve", "Nurbs")
        case "bug":
            raise KeyError("x")
    return item * 2


def fails_at_first(task):
    """As a process does that others took the memory from, or that the disk did not answer: once, not for good."""
    place, how, times = task
    met = len(list(place.iterdir()))
    if met < times:
        (place / str(met)).touch()
        return work(how)
    return met


def build(item):
    """The volume of a real part, unless the item is one of the bad ones."""
    if isinstance(item, str):
        return work(item)
    return kernel.volume(kernel.build(synthesis.make_part(0, item, tuple(synthesis.FAMILIES)).program))


def step_volumes(program):
    """The volume after each step."""
    lengths = range(1, len(program.extrudes) + 1)
    return [kernel.volume(kernel.build(CadProgram(program.extrudes[:length]))) for length in lengths]


def doze(seconds):
    time.sleep(seconds)
    return time.monotonic()


def finish_after(task):
    """Ends once so many files are in a folder, and leaves one more there; how many there were."""
    folder, files = task
    while (found := len(list(folder.iterdir()))) < files:
        time.sleep(0.05)
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return found


def hangs_on_a(task):
    """As the kernel may, on one prediction."""
    if task.predicted is not None and task.predicted.stem == "a":
        time.sleep(60)
    return compare_files(task)


def watched_draw(task):
    """Draws, and says what was opened and listed meanwhile."""
    seen = []

    def hook(event, arguments):
        if event in ("open", "os.scandir", "os.listdir"):
            seen.append((event, str(arguments[0])))

    sys.addaudithook(hook)
    members = draw(task)
    return sorted(members), seen
