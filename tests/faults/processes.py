"""What goes wrong with processes, and with the clock that they see."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults.base import Fault
from tests.faults.project import files
from tests.func.forked import server_pid

KERNEL = {"corpus", "geometry", "evaluate", "robustness", "transfer"}


class Kill(Fault):
    """SIGKILL, as the kernel does when memory is short."""

    weight = 4.0
    codes = (-signal.SIGKILL,)

    def strike(self, attempt):
        return attempt.signal_stage(signal.SIGKILL)


class Term(Fault):
    """SIGTERM: the work at hand is finished."""

    weight = 2.0
    codes = (130, -signal.SIGTERM)  # before it listens, or after its end, the signal itself

    def strike(self, attempt):
        return attempt.signal_stage(signal.SIGTERM)


class TermTwice(Fault):
    """SIGTERM, and again: it stops at once."""

    codes = (130, -signal.SIGTERM)  # before it listens, or after its end, the signal itself

    def strike(self, attempt):
        if attempt.signal_stage(signal.SIGTERM):
            time.sleep(0.03)
            attempt.signal_stage(signal.SIGTERM)
            return True
        return False


class WorkerDies(Fault):
    """A process of the CAD kernel is killed: the model that it was at is tried once more."""

    weight = 2.0
    stages = KERNEL
    signum = signal.SIGKILL

    def strike(self, attempt):
        worker = attempt.chosen(attempt.processes("worker"))
        if worker is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(worker, self.signum)
        return True


class WorkerHangs(WorkerDies):
    """A process of the CAD kernel hangs until its time is over: the model that it was at is tried once more."""

    weight = 1.0
    signum = signal.SIGSTOP


class ClockJumps(Fault):
    """The clock jumps while a command runs, by up to a year; files have times from both sides."""

    def before(self, attempt):
        jump = (attempt.planned.where - 0.5) * 2 * 365 * 86400
        attempt.env["CADMLLM_CLOCK"] = f"{attempt.planned.at if attempt.planned.trigger == 'time' else 0.5} {jump}"
        for path in files(attempt.folder / "scratch"):
            with suppress(FileNotFoundError):
                os.utime(path, (time.time() + jump, time.time() + jump))


class Twice(Fault):
    """The same command is started once more while it runs: the one that came later says so, and ends."""

    by_dvc = False
    codes = (1,)  # where the second one was at work first
    says = "another process is at work in"

    def strike(self, attempt):
        second = attempt.start_another()
        output = second.communicate(timeout=60)[0]
        expected = "another process is at work in" in output if second.returncode == 1 else second.returncode == 0
        if not expected or "Traceback" in output:
            attempt.wrong(f"a second command exited with {second.returncode}: {output[-400:]}")
        return True


class TwoRepros(Fault):
    """A second ``dvc repro`` in the same folder: DVC's own lock has it stop, or wait."""

    alone = False
    weight = 6.0

    def strike(self, attempt):
        second = attempt.start_another()
        output = second.communicate(timeout=200)[0]
        if second.returncode != 0 and not re.search("Unable to acquire lock|is busy|another process is at", output):
            attempt.wrong(f"a second dvc repro exited with {second.returncode}: {output[-400:]}")
        return True


def roles(folder: Path) -> Iterator[tuple[int, str]]:
    """Processes at work in a folder: each is a ``stage`` (or DVC itself), ``forkserver``, ``worker`` or ``other``.

    A forked process has a parent that waits for it, and that is a child of the server (``tests/func/forked.py``).
    """
    servers = {server_pid("commands"): "stage", server_pid("sandboxes"): "forkserver"}
    found: dict[int, tuple[int, str]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                parent = process.ppid()
                role = servers.get(psutil.Process(parent).ppid(), "other") if parent > 1 else "other"
                found[process.pid] = parent, role
    for pid, (parent, role) in found.items():
        is_worker = role == "other" and found.get(parent, (0, ""))[1] == "forkserver"
        yield pid, "worker" if is_worker else role
