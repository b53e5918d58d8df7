"""What goes wrong, one class each: add a class to ``FAULTS`` and schedules have it.

A fault changes something before a command starts, while it runs, or after it has ended, and takes back then what would
not go away by itself. It says which exit codes it may lead to, and what the message must name.
"""

import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil

from tests.faults.project import CHANGES, RAW, STAGES, Stage, files, remove
from tests.func.forked import _server

if TYPE_CHECKING:
    from tests.faults.run import Attempt

KERNEL = {"corpus", "geometry", "evaluate", "robustness", "transfer", "report"}
TRAINED = {"train", "evaluate"}
HUGE = "1g"


class Fault:
    """Nothing goes wrong.

    Attributes:
        weight: how often it is drawn, beside others.
        stages: kinds of the stages that it can meet; all where it is empty.
        by_dvc: whether it can meet a stage that ``dvc repro`` runs; ``alone``: whether one that is run by itself.
        codes: exit codes, besides 0, that it may lead to.
        says: a pattern that the message of exit code 1 has.
        needs: ``mounts`` where it takes mounts of its own.
    """

    weight: ClassVar[float] = 1.0
    stages: ClassVar[set[str]] = set()
    by_dvc: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    codes: ClassVar[tuple[int, ...]] = ()
    says: ClassVar[str] = "$."
    needs: ClassVar[str] = ""

    @classmethod
    def meets(cls, stage: Stage, by_dvc: bool) -> bool:
        """Whether it can meet a stage."""
        return (cls.by_dvc if by_dvc else cls.alone) and (not cls.stages or stage.kind in cls.stages)

    def before(self, attempt: "Attempt") -> None:
        """Before the command starts."""

    def strike(self, attempt: "Attempt") -> bool:
        """While it runs; False where there is nothing yet that it could strike: it is tried again."""
        return True

    def after(self, attempt: "Attempt") -> None:
        """When the command has ended."""


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


class Torn(Fault):
    """SIGKILL, and then a file in scratch is cut off, as after a power failure."""

    weight = 2.0
    codes = (-signal.SIGKILL,)

    def strike(self, attempt):
        return attempt.signal_stage(signal.SIGKILL)

    def after(self, attempt):
        found = [path for path in files(attempt.folder / "scratch") if path.stat().st_size]
        if path := attempt.chosen(found):
            attempt.note(f"{path.relative_to(attempt.folder)} is cut off")
            os.truncate(path, int(path.stat().st_size * random.Random(attempt.planned.where).random()))


class Flipped(Torn):
    """SIGKILL, and then a bit of a file in scratch is another one."""

    def after(self, attempt):
        found = [path for path in files(attempt.folder / "scratch") if path.stat().st_size]
        if path := attempt.chosen(found):
            attempt.note(f"{path.relative_to(attempt.folder)} has another bit")
            flip(path, attempt.planned.where)


def flip(path: Path, where: float) -> None:
    """Change one bit of a file, in place."""
    with open(path, "r+b") as file:
        at = int(random.Random(where).random() * path.stat().st_size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 16]))


class DamagedOut(Fault):
    """What an earlier stage has published is cut off or has another bit: DVC sees it, and has it made again."""

    alone = False

    def before(self, attempt):
        earlier = [out for stage in STAGES[: attempt.number] for out in stage.outs]
        found = [path for out in earlier for path in files(attempt.folder / out) if path.stat().st_size]
        if path := attempt.chosen(found):
            attempt.note(f"{path.relative_to(attempt.folder)} is damaged")
            if attempt.planned.where < 0.5:
                os.truncate(path, path.stat().st_size // 2)
            else:
                flip(path, attempt.planned.where)


class CutInput(Fault):
    """A shard that an earlier stage has published is cut off: what reads it says so, or never looks at it."""

    by_dvc = False
    codes = (1,)
    says = r"run its pipeline stage again|run `cadmllm|is damaged|is missing"

    def before(self, attempt):
        earlier = [out for stage in STAGES[: attempt.number] for out in stage.outs]
        found = [path for out in earlier for path in files(attempt.folder / out) if path.stat().st_size]
        self.path = attempt.chosen(found)
        if self.path:
            attempt.note(f"{self.path.relative_to(attempt.folder)} is cut off")
            self.whole = self.path.read_bytes()
            mode = self.path.stat().st_mode
            self.path.chmod(0o644)
            os.truncate(self.path, len(self.whole) // 2)
            self.path.chmod(mode)

    def after(self, attempt):
        if self.path:
            remove(self.path)
            self.path.write_bytes(self.whole)


class FullDisk(Fault):
    """The disk is full, or all but; then there is space again."""

    weight = 2.0
    codes = (1,)
    says = r"no space is left for|cannot be read or written: .*; what it holds is kept|cannot be loaded: .*No space left on device"
    needs = "mounts"

    def strike(self, attempt):
        disk = attempt.folder.parent
        left = int(4096 * 2 ** (attempt.planned.where * 9))  # bytes: from a page to 2 MiB
        used = os.statvfs(disk)
        taken = (used.f_blocks - used.f_bfree) * used.f_frsize
        subprocess.run(["mount", "-o", f"remount,size={taken + left}", str(disk)], check=True)
        attempt.note(f"{left} bytes are left")
        return True

    def after(self, attempt):
        subprocess.run(["mount", "-o", f"remount,size={HUGE}", str(attempt.folder.parent)], check=True)


class FullFromTheStart(FullDisk):
    """The disk is full before the command starts."""

    weight = 1.0

    def before(self, attempt):
        FullDisk.strike(self, attempt)

    def strike(self, attempt):
        return True


class ReadOnly(Fault):
    """A folder that is written to lies on a file system that is read-only, as after an error of the disk."""

    weight = 2.0
    codes = (1,)
    says = r"cannot be read or written"
    needs = "mounts"

    def before(self, attempt):
        tops = sorted({out.partition("/")[0] for stage in attempt.stages for out in stage.outs} | {"scratch"})
        found = [attempt.folder / top for top in tops if (attempt.folder / top).is_dir()]
        self.place = attempt.chosen(found) if attempt.planned.where < 0.8 else attempt.folder
        if self.place is None:
            self.place = attempt.folder
        attempt.note(f"{os.path.relpath(self.place, attempt.folder)}/ is read-only")
        subprocess.run(["mount", "--bind", str(self.place), str(self.place)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.place)], check=True)

    def after(self, attempt):
        subprocess.run(["umount", "-l", str(self.place)], check=True)


class Immutable(Fault):
    """What was published before may not be changed or replaced (``chattr +i``)."""

    codes = (1,)
    says = r"cannot be read or written"
    needs = "mounts"

    def before(self, attempt):
        outs = [attempt.folder / out for stage in attempt.stages for out in stage.outs]
        found = [*(out for out in outs if out.exists()), *(out.parent for out in outs if out.parent.is_dir())]
        self.place = attempt.chosen(found)
        if self.place:
            attempt.note(f"{os.path.relpath(self.place, attempt.folder)} is immutable")
            subprocess.run(["chattr", "+i", str(self.place)], check=True)

    def after(self, attempt):
        if self.place:
            subprocess.run(["chattr", "-i", str(self.place)], check=True)


class WorkerDies(Fault):
    """A process of the CAD kernel is killed: the model that it was at is tried once more."""

    weight = 2.0
    stages = KERNEL

    def strike(self, attempt):
        worker = attempt.chosen(attempt.processes("worker"))
        if worker is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        return True


class WorkerHangs(Fault):
    """A process of the CAD kernel hangs until its time is over: the model that it was at is tried once more."""

    stages = KERNEL

    def strike(self, attempt):
        worker = attempt.chosen(attempt.processes("worker"))
        if worker is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGSTOP)
        return True


class ClockJumps(Fault):
    """The clock jumps while a command runs, by up to a year; files have times from both sides."""

    def before(self, attempt):
        jump = (attempt.planned.where - 0.5) * 2 * 365 * 86400
        attempt.env["CADMLLM_CLOCK"] = f"{attempt.planned.at if attempt.planned.trigger == 'time' else 0.5} {jump}"
        for path in files(attempt.folder / "scratch"):
            with suppress(FileNotFoundError):
                os.utime(path, (time.time() + jump, time.time() + jump))


class Twice(Fault):
    """The same command is started once more while it runs: that one says so, and ends."""

    by_dvc = False

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
    weight = 3.0

    def strike(self, attempt):
        second = attempt.start_another()
        output = second.communicate(timeout=200)[0]
        if second.returncode != 0 and not re.search("Unable to acquire lock|is busy|another process is at", output):
            attempt.wrong(f"a second dvc repro exited with {second.returncode}: {output[-400:]}")
        return True


class NoService(Fault):
    """Weights & Biases refuses connections."""

    stages = TRAINED
    codes = (1,)
    says = "Weights & Biases: "

    def address(self) -> str:
        return "http://127.0.0.1:9"

    def before(self, attempt):
        attempt.change("wandb_mode: disabled", "wandb_mode: online")
        attempt.env |= {"WANDB_BASE_URL": self.address(), "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "4"}
        attempt.env |= {"WANDB_DIR": str(attempt.folder)}

    def after(self, attempt):
        attempt.change("wandb_mode: online", "wandb_mode: disabled")


class SlowService(NoService):
    """Weights & Biases takes connections and never answers."""

    def address(self) -> str:
        self.service = socket.create_server(("127.0.0.1", 0), backlog=64)
        return f"http://127.0.0.1:{self.service.getsockname()[1]}"

    def after(self, attempt):
        super().after(attempt)
        self.service.close()


class DataChange(Fault):
    """The dataset changes while a stage reads it: the result is that of the data as they are at the end."""

    weight = 4.0
    stages: ClassVar[set[str]] = set(CHANGES)
    by_dvc = False
    codes = (1,)
    says = "changed while it was read"

    def before(self, attempt):
        self.data, self.change = CHANGES[attempt.stages[0].name]
        attempt.allow_changed()

    def strike(self, attempt):
        self.change(attempt.folder / self.data)
        attempt.run.data_are_changed = True
        return True


class DamagedData(Fault):
    """A file of the dataset is damaged while a stage reads it, and is mended when the command has ended."""

    stages: ClassVar[set[str]] = {"corpus", "geometry"}
    by_dvc = False
    codes = (1,)
    says = "changed while it was read|no model is left for"

    def before(self, attempt):
        attempt.allow_any()

    def strike(self, attempt):
        self.path = attempt.chosen(files(attempt.folder / RAW))
        self.whole = self.path.read_bytes()
        (os.truncate(self.path, len(self.whole) // 2) if attempt.planned.where < 0.5 else flip(self.path, 0.5))
        attempt.again = True
        return True

    def after(self, attempt):
        if hasattr(self, "path"):
            self.path.write_bytes(self.whole)


FAULTS: dict[str, type[Fault]] = {
    fault.__name__: fault
    for fault in (
        Kill, Term, TermTwice, Torn, Flipped, DamagedOut, CutInput, FullDisk, FullFromTheStart, ReadOnly, Immutable,
        WorkerDies, WorkerHangs, ClockJumps, Twice, TwoRepros, NoService, SlowService, DataChange, DamagedData,
    )
}  # fmt: skip


def roles(folder: Path) -> Iterator[tuple[int, str]]:
    """Processes at work in a folder: each is a ``stage`` (or DVC itself), ``forkserver``, ``worker`` or ``other``.

    A forked process has a parent that waits for it, and that is a child of the server (``tests/func/forked.py``).
    """
    servers = {_server("commands")[1].pid: "stage", _server("sandboxes")[1].pid: "forkserver"}
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
