"""Resumable work in ``scratch/``: one folder for each piece of work, its finished units kept in it.

A unit says by sha256 what it was made from, and is used again for exactly that: data may grow, shrink and change
between a stop and the next start.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pipeline.runtime.atomic import exclusive, write_text
from pipeline.runtime.fingerprint import fingerprint

SCRATCH = Path("scratch")
BLOCK = 64  # records in a file of a journal: so many are lost at most


@contextlib.contextmanager
def work_folder(
    stage: str, module: str, params: dict[str, Any], inputs: dict[str, str], hold: bool = True
) -> Iterator[Path]:
    """The folder for this piece of work, held for this process alone, or with ``hold`` false for another that it helps.

    It is named after what every unit of the work depends on: parameters, inputs, code. Folders of the same stage for
    other parameters stay until ``clean``: going back to old parameters goes on where it stopped.
    """
    folder = SCRATCH / stage.replace("@", "-") / fingerprint(module, params, inputs)
    with exclusive(folder) if hold else contextlib.nullcontext():
        yield folder


def clean(folder: Path) -> None:
    """Remove scratch that has been published."""
    shutil.rmtree(folder, ignore_errors=True)


class Journal:
    """Finished records in a folder of scratch, each under the identity of what it was made from.

    Records come in any order, and are found whatever else was done before or between. What is added is written in
    blocks, the last one when the ``with`` block ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[str, dict[str, Any]] = {}
        self._unwritten: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._blocks = 0
        for path in sorted(folder.glob("*.json")):
            self._records |= json.loads(path.read_bytes())
            self._blocks = int(path.stem) + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def __contains__(self, identity: str) -> bool:
        return identity in self._records

    def __getitem__(self, identity: str) -> dict[str, Any]:
        return self._records[identity]

    def add(self, identity: str, record: dict[str, Any]) -> None:
        """Keep a record of plain JSON values."""
        self._records[identity] = self._unwritten[identity] = record
        if len(self._unwritten) == BLOCK:
            self._write()

    def _write(self) -> None:
        if self._unwritten:
            write_text(self.folder / f"{self._blocks:06d}.json", json.dumps(self._unwritten))
            self._unwritten = {}
            self._blocks += 1
