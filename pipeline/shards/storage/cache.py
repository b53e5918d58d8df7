"""Blocks of what lies elsewhere, as files here: a bounded number of bytes, those used last.

Several processes may share it. A block is served whole or not at all: its file appears by a rename, and ends with a
checksum, which what a disk that lost power gives does not fit. Blocks are written under a lock, and how many bytes
there are is counted before: a process that is killed leaves the count too high, until blocks are next removed.
"""

import contextlib
import fcntl
import os
import zlib
from pathlib import Path

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
        except OSError:  # it is not there, or its disk fails: what is here may be had from the store
            return None
        block, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
        return block if _checksum(block) == checksum else None

    def put(self, name: str, block: bytes) -> None:
        """Keep a block, in place of those that were used longest ago."""
        size, temporary = len(block) + CHECKSUM, self.folder / f".{name}"
        with open(os.open(self.folder / COUNT, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as count:
            fcntl.flock(count, fcntl.LOCK_EX)
            said = count.read()
            held = int(said) if said.isdigit() else self._removed(self.most)
            if held + size > self.most:
                held = self._removed(self.most * LEFT - size)
            os.pwrite(count.fileno(), b"%020d" % (held + size), 0)  # in one piece: a kill leaves this one or the last
            temporary.write_bytes(block + _checksum(block))
            os.replace(temporary, self.folder / name)

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
