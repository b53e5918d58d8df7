"""Blocks of what lies elsewhere, as files here: a bounded number of bytes, those used last.

Several processes may share it. A block is served whole or not at all: its file appears by a rename, and ends with a
checksum, which a disk that lost power does not fit. How many bytes there are is counted in a file under a lock, before
a block is written: a process that is killed leaves the count too high, never too low, until blocks are next removed.
"""

import contextlib
import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

COUNT = ".bytes"
CHECKSUM = 4  # bytes
LEFT = 0.75  # of what there may be, when blocks are removed: not for each new one


class BlockCache:
    """A folder of blocks by name.

    Args:
        most: bytes that their files have together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file; ``get`` finds out whether it is good."""
        return (self.folder / name).is_file()

    def get(self, name: str) -> bytes | None:
        """A block; None where it is not there, or damaged."""
        path = self.folder / name
        try:
            data = path.read_bytes()
            os.utime(path)  # it is the last to go
        except FileNotFoundError:
            return None
        block, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
        return block if _checksum(block) == checksum else None

    def put(self, name: str, block: bytes) -> None:
        """Keep a block, in place of those that were used longest ago."""
        size = len(block) + CHECKSUM
        with self._counted() as count:
            held = int(count.read() or 0)
            if held + size > self.most:
                held = self._removed(self.most * LEFT - size)
            count.seek(0)
            count.truncate()
            count.write(str(held + size))
        temporary = self.folder / f".{name}.{os.getpid()}-{threading.get_native_id()}"
        temporary.write_bytes(block + _checksum(block))
        os.replace(temporary, self.folder / name)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[IO[Any]]:
        """The count, for this thread alone."""
        with open(self.folder / COUNT, "a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file

    def _removed(self, left: float) -> int:
        """Remove blocks, and what a kill has left of one, until so many bytes are left at most; how many are."""
        found = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        files = sorted(each for each in found if not each[2].endswith(f"/{COUNT}"))
        held = sum(size for _, size, _ in files)
        for _, size, path in files:
            if held <= left:
                break
            Path(path).unlink(missing_ok=True)
            held -= size
        return held


def _checksum(block: bytes) -> bytes:
    return zlib.crc32(block).to_bytes(CHECKSUM, "little")
