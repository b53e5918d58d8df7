"""SQLite tables: what is looked up, sorted and counted on disk, so that memory does not grow with it."""

import sqlite3
import weakref
from pathlib import Path

from pipeline.runtime.errors import UserError


def open_tables(owner: object, path: Path, schema: str) -> sqlite3.Connection:
    """The database in a file, which is closed with its owner. What is committed survives a kill at any moment.

    Args:
        schema: statements that make its tables where they are not there yet.

    Raises:
        UserError: the file is damaged.
    """
    connection = sqlite3.connect(path)
    weakref.finalize(owner, connection.close)
    try:
        connection.executescript(schema)
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} cannot be used ({error}); remove it, and what it held is made again") from error
    return connection


def temporary_tables(owner: object, schema: str) -> sqlite3.Connection:
    """A database in a temporary file, which goes with its owner."""
    connection = sqlite3.connect("")
    weakref.finalize(owner, connection.close)
    connection.executescript(f"PRAGMA journal_mode = OFF; {schema}")
    return connection
