"""What goes wrong with disks and files."""

import os
import random
import signal
import subprocess
from pathlib import Path

from tests.faults.base import Fault
from tests.faults.project import STAGES, files, remove

HUGE = "1g"


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
    """A file that an earlier stage has published is replaced by half of it or by another: DVC makes it again.

    Not changed in place: the file is a hard link into DVC's cache, and what is damaged there DVC takes as it is.
    """

    weight = 6.0
    alone = False

    def before(self, attempt):
        earlier = [out for stage in STAGES[: attempt.number] for out in stage.outs]
        found = [path for out in earlier for path in files(attempt.folder / out) if path.stat().st_size]
        if path := attempt.chosen(found):
            attempt.note(f"{path.relative_to(attempt.folder)} is damaged")
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data[: len(data) // 2])
            if attempt.planned.where < 0.5:
                path.write_bytes(data)
                flip(path, attempt.planned.where)


class CutInput(Fault):
    """A shard, an index or weights that an earlier stage has published are cut off: what reads them says so.

    Not those of a ``best/``: no stage reads them, and the next lineage has the digest of the folder as it is.
    """

    by_dvc = False
    codes = (1,)
    says = r"run its pipeline stage again|run `cadmllm|is damaged|is missing|was trained on another"
    kinds = (".tar", ".npy", ".safetensors")

    def before(self, attempt):
        earlier = [out for stage in STAGES[: attempt.number] for out in stage.outs]
        found = [path for out in earlier for path in files(attempt.folder / out) if path.stat().st_size]
        read = [path for path in found if path.suffix in self.kinds and path.parent.name != "best"]
        self.path = attempt.chosen(read)
        if self.path:
            attempt.note(f"{self.path.relative_to(attempt.folder)} is cut off")
            self.whole = self.path.read_bytes()
            attempt.spare_watching(self.path, True)
            self.path.unlink()
            self.path.write_bytes(self.whole[: len(self.whole) // 2])

    def after(self, attempt):
        if self.path:
            remove(self.path)
            self.path.write_bytes(self.whole)
            attempt.spare_watching(self.path, False)


class FullDisk(Fault):
    """The disk is full, or all but; then there is space again."""

    weight = 2.0
    codes = (1,)
    says = r"no space is left for|cannot be (read or written|loaded): .*([Ff]ull|I/O|No space)"
    needs = "mounts"

    def strike(self, attempt):
        disk = attempt.folder.parent
        left = int(4096 * 2 ** (attempt.planned.where * 9))  # bytes: from a page to 2 MiB
        used = os.statvfs(disk)
        taken = (used.f_blocks - used.f_bfree) * used.f_frsize
        command = ["mount", "-o", f"remount,size={taken + left}", str(disk)]
        if subprocess.run(command, capture_output=True).returncode:
            return False  # more than that has been written meanwhile
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
