"""Files and folders that appear whole or not at all: temporary name, fsync, rename."""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pipeline.runtime import interrupt
from pipeline.runtime.errors import UserError


@contextlib.contextmanager
def atomic_open(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling of ``path`` for writing; it takes its name when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` at once."""
    with atomic_open(path) as file:
        file.write(text)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content in one step."""
    with atomic_open(path, "wb") as file:
        file.write(data)


def fsync_tree(folder: Path) -> None:
    """Force every file below ``folder`` to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside ``target`` that replaces it when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        publish(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish(source: Path, target: Path) -> None:
    """Give a finished folder its final name, in place of what stood there before.

    From another file system, where ``scratch/`` is a link or a mount, it is copied to beside its place first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _can_be_renamed(source, target):
        with atomic_folder(target) as copy:
            shutil.copytree(source, copy, dirs_exist_ok=True)
        shutil.rmtree(source)
        return
    fsync_tree(source)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(source, target)
    shutil.rmtree(old, ignore_errors=True)


def _can_be_renamed(source: Path, target: Path) -> bool:
    """Tried with an empty folder: of two mounts of one file system nothing else tells."""
    probe, there = source.with_name(f".{source.name}.probe"), target.with_name(f".{target.name}.tmp")
    if source == there:
        return True
    shutil.rmtree(there, ignore_errors=True)
    probe.mkdir(exist_ok=True)
    try:
        os.rename(probe, there)
    except OSError as error:
        probe.rmdir()
        if error.errno == errno.EXDEV:
            return False
        raise
    there.rmdir()
    return True


@contextlib.contextmanager
def exclusive(folder: Path, wait_s: float = 0) -> Iterator[None]:
    """Hold ``folder`` for this process alone.

    Args:
        wait_s: for who holds it now.

    Raises:
        UserError: another process is at work in it, or the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w", encoding="utf-8") as lock:
        try:
            _lock(lock, time.monotonic() + wait_s)
        except BlockingIOError as error:
            raise UserError(f"another process is at work in {folder}; wait for it or stop it") from error
        except OSError as error:
            raise UserError(
                f"{folder} cannot be locked ({error.strerror}): its file system has no flock. Make scratch/ a link to "
                "a folder on another"
            ) from error
        yield


def _lock(file: IO[Any], deadline: float) -> None:
    """Lock a file; ``BlockingIOError`` where another process holds it at the deadline."""
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            interrupt.check()
            time.sleep(0.1)
