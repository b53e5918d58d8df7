"""What is at published paths while the pipeline runs: looked at all the time, and never anything half-written."""

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tests.faults.project import digest

EVERY_S = 0.004


class Watcher:
    """Looks at outs in a thread of its own: each is absent, or has a digest that it may have.

    Attributes:
        wrong: what was seen that may not be.
        published: how often something at one of the outs, or beside it, has changed.
        seen: names in scratch that have been seen since ``begin``.
    """

    def __init__(self, folder: Path, may_be: dict[str, set[str]]) -> None:
        self.folder, self.may_be = folder, may_be
        self.wrong: list[str] = []
        self.published = 0
        self.seen: set[str] = set()
        self._before = {out: _state(folder / out) for out in may_be}
        self._old: set[str] = set()
        self._beside: dict[Path, list[tuple[str, int, int, int]]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self) -> None:
        """Another attempt: what it writes is new."""
        self.published = 0
        self._old = set(_paths(str(self.folder / "scratch")))
        self.seen = set()

    def _look(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.seen.update(self._new())
            for out in self.may_be:
                self._look_at(out)
                self._count_beside(self.folder / out)

    def _new(self) -> set[str]:
        return set(_paths(str(self.folder / "scratch"))) - self._old

    def _count_beside(self, place: Path) -> None:
        for beside in (place.with_name(f".{place.name}.{kind}") for kind in ("tmp", "old")):
            state = _state(beside)
            self.published += state != self._beside.get(beside, [])
            self._beside[beside] = state

    def _look_at(self, out: str) -> None:
        place = self.folder / out
        state = _state(place)
        if state == self._before[out]:
            return
        self.published += 1
        try:
            found = digest(place)
        except OSError:
            return  # it is being replaced: looked at again
        if _state(place) == state:
            self._before[out] = state
            if found and found not in self.may_be[out]:
                self.wrong.append(f"{out} was not whole, or another one, at {time.strftime('%X')}: {state[:4]}")


def _state(place: Path) -> list[tuple[str, int, int, int]]:
    """What changes whenever a file or folder does."""
    found = []
    for path in [str(place), *_paths(str(place))]:
        try:
            entry = Path(path).stat()
        except OSError:
            continue
        found.append((os.path.relpath(path, place), entry.st_ino, entry.st_size, entry.st_mtime_ns))
    return found


def _paths(place: str) -> Iterable[str]:
    try:
        with os.scandir(place) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in inside:
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from _paths(entry.path)
