"""Resumable work in ``scratch/``: one folder for each piece of work, its finished units kept in it.

A unit says by sha256 what it was made from, and is used again for exactly that: data may grow, shrink and change
between a stop and the next start.
"""

import contextlib
import json
import shutil
import sqlite3
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pipeline.runtime.atomic import exclusive
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import fingerprint

SCRATCH = Path("scratch")
RECORDS = "records.sqlite"


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


def temporary_tables(owner: object, schema: str) -> sqlite3.Connection:
    """SQLite tables in a temporary file that goes with its owner, for what would grow in memory with the corpus.

    Args:
        schema: statements that make them.
    """
    tables = sqlite3.connect("")
    weakref.finalize(owner, tables.close)
    tables.executescript(f"PRAGMA journal_mode = OFF; {schema}")
    return tables


class Journal:
    """Finished records in scratch, each under the identity of what it was made from.

    Records come in any order, and are found whatever else was done before or between. They are on disk alone. What was
    added outlives a kill at any moment.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal in a folder, or begin one.

        Raises:
            UserError: it is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RECORDS
        self._tables = sqlite3.connect(path, isolation_level=None)  # each record is a transaction of its own
        weakref.finalize(self, self._tables.close)
        try:
            # Written ahead, a record costs no wait for the disk; a machine that fails costs the last ones. Held by this
            # process alone, it needs no memory shared with others, which network file systems do not have.
            pragmas = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL")
            self._tables.executescript("; ".join(f"PRAGMA {pragma}" for pragma in pragmas))
            self._tables.execute("CREATE TABLE IF NOT EXISTS records (identity TEXT PRIMARY KEY, record TEXT)")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} cannot be used ({error}); remove it, and what it held is made again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.close()

    def __len__(self) -> int:
        found: int = self._tables.execute("SELECT count(*) FROM records").fetchone()[0]
        return found

    def __contains__(self, identity: str) -> bool:
        return self._tables.execute("SELECT 1 FROM records WHERE identity = ?", (identity,)).fetchone() is not None

    def __getitem__(self, identity: str) -> dict[str, Any]:
        row = self._tables.execute("SELECT record FROM records WHERE identity = ?", (identity,)).fetchone()
        if row is None:
            raise KeyError(identity)
        record: dict[str, Any] = json.loads(row[0])
        return record

    def add(self, identity: str, record: dict[str, Any]) -> None:
        """Keep a record of plain JSON values."""
        self._tables.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (identity, json.dumps(record)))
