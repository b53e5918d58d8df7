"""Resumable work in ``scratch/``: one folder for each piece of work, its finished units kept in it.

A unit says by sha256 what it was made from, and is used again for exactly that: data may grow, shrink and change
between a stop and the next start. It also says by sha256 what it holds: what a disk has damaged is made again.
"""

import contextlib
import hashlib
import json
import shutil
import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pipeline.runtime.atomic import exclusive, write_text
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import fingerprint
from pipeline.runtime.interrupt import is_restarted_by_torchrun

SCRATCH = Path("scratch")
RECORDS = "records.sqlite"
LOST_LOCK_S = 120  # after which a file server gives up the lock of a machine that is lost: of NFS, 90 s
T = TypeVar("T")


@contextlib.contextmanager
def work_folder(
    name: str, module: str, params: dict[str, Any], inputs: dict[str, str], hold: bool = True
) -> Iterator[Path]:
    """The folder for this piece of work, held for this process alone, or with ``hold`` false for another that it helps.

    It is in the folder ``name``, and called after what every unit of the work depends on: parameters, inputs, code.
    Those for other parameters stay until ``clean``: going back to old parameters goes on where it stopped.
    """
    folder = SCRATCH / name / fingerprint(module, params, inputs)
    wait_s = LOST_LOCK_S if is_restarted_by_torchrun() else 0
    with exclusive(folder, wait_s) if hold else contextlib.nullcontext():
        yield folder


def clean(folder: Path) -> None:
    """Remove scratch that has been published."""
    shutil.rmtree(folder, ignore_errors=True)


def keep(path: Path, value: Any) -> None:
    """Keep a plain JSON value in scratch, with its sha256."""
    write_text(path, json.dumps({"sha256": _sha256(json.dumps(value).encode()), "value": value}))


def read_kept(path: Path) -> Any:
    """What ``keep`` kept.

    Raises:
        ValueError: it is no longer what it was. FileNotFoundError: there is nothing.
    """
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict) or document.get("sha256") != _sha256(json.dumps(document.get("value")).encode()):
        raise ValueError(f"{path} is damaged")
    return document["value"]


def kept_or(default: T, path: Path) -> Any | T:
    """As ``read_kept``; the default where nothing is kept, or it is damaged."""
    try:
        return read_kept(path)
    except (FileNotFoundError, ValueError):
        return default


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


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
            UserError: it is damaged, then or whenever it is used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / RECORDS
        # Without SQLite's own locks, which not every network file system has: the folder is this process' alone
        # (``work_folder``). Each record is a transaction.
        uri = f"{self.path.absolute().as_uri()}?vfs=unix-none"
        self._tables = sqlite3.connect(uri, uri=True, isolation_level=None)
        self._tables.text_factory = bytes  # what a disk has damaged may be no text
        weakref.finalize(self, self._tables.close)
        # Written ahead, a record costs no wait for the disk; a machine that fails costs the last ones. Exclusive, it
        # needs no memory shared with other processes, which network file systems do not have.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._execute(f"PRAGMA {pragma}")
        self._execute("CREATE TABLE IF NOT EXISTS records (identity TEXT PRIMARY KEY, record TEXT, sha256 TEXT)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.close()

    def _execute(self, statement: str, values: Sequence[str] = ()) -> tuple[Any, ...] | None:
        """The first row of an answer.

        Raises:
            UserError: the file is damaged, or the disk refuses it.
        """
        try:
            row: tuple[Any, ...] | None = self._tables.execute(statement, values).fetchone()
        except sqlite3.OperationalError as error:  # a full disk, for one
            raise UserError(f"{self.path} cannot be read or written: {error}; what it holds is kept") from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} cannot be used ({error}); remove it, and what it held is made again"
            ) from error
        return row

    def __len__(self) -> int:
        row = self._execute("SELECT count(*) FROM records")
        assert row is not None, "a count is always one row"
        return int(row[0])

    def __contains__(self, identity: str) -> bool:
        return self._text(identity) is not None

    def __getitem__(self, identity: str) -> dict[str, Any]:
        text = self._text(identity)
        if text is None:
            raise KeyError(identity)
        record: dict[str, Any] = json.loads(text)
        return record

    def _text(self, identity: str) -> bytes | None:
        """A record as it is stored; None where there is none, or it is no longer what it was."""
        row = self._execute("SELECT record, sha256 FROM records WHERE identity = ?", (identity,))
        return row[0] if row is not None and _sha256(row[0]).encode() == row[1] else None

    def add(self, identity: str, record: dict[str, Any]) -> None:
        """Keep a record of plain JSON values."""
        text = json.dumps(record)
        self._execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (identity, text, _sha256(text.encode())))
