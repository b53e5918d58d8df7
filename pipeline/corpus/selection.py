"""Which models become samples, and of which split: in a temporary file, however many there are."""

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.cad.omnicad.listing import base_model
from pipeline.cad.omnicad.published import SPLITS
from pipeline.corpus.settings import Split
from pipeline.corpus.splits import assign_splits
from pipeline.runtime.scratch import temporary_tables

SCHEMA = """
CREATE TABLE models (id TEXT PRIMARY KEY, base TEXT, program TEXT, identity TEXT, is_prefix INTEGER) WITHOUT ROWID;
CREATE INDEX by_program ON models (program);
CREATE TABLE bases (base TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID;
CREATE TABLE published (base TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID;
CREATE TABLE left_out (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE VIEW samples AS SELECT models.*, split FROM models JOIN bases USING (base);
"""


class Selection:
    """Models that can be used, and what is needed to choose among them; the journal has the rest."""

    def __init__(self) -> None:
        self._tables = temporary_tables(self, SCHEMA)

    def add(self, record: dict[str, Any], identity: str, is_prefix: bool) -> None:
        """Take a model in.

        Args:
            record: of ``prepare``.
            identity: what the journal has it under.
            is_prefix: of another model, which is in.
        """
        row = record["id"], base_model(record["id"]), record["program_hash"], identity, is_prefix
        self._tables.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?)", row)

    def assign_splits(self, split: Split, seed: int, published: Iterable[tuple[str, str]]) -> None:
        """Give every base model its split; ``corpus.splits`` says how."""
        self._tables.executemany("INSERT OR REPLACE INTO published VALUES (?, ?)", published)

        def find(base: str) -> str | None:
            row = self._tables.execute("SELECT split FROM published WHERE base = ?", (base,)).fetchone()
            return None if row is None else str(row[0])

        bases = (base for (base,) in self._tables.execute("SELECT DISTINCT base FROM models"))
        self._tables.executemany("INSERT OR REPLACE INTO bases VALUES (?, ?)", assign_splits(bases, split, seed, find))

    def identities(self, split: str, prefixes: bool = True) -> Iterator[str]:
        """What the journal has a split's models under, in order of their ids.

        Args:
            prefixes: also of those that are prefixes; without them, models may be added meanwhile that are.
        """
        query = "SELECT identity FROM samples WHERE split = ? AND is_prefix <= ? ORDER BY id"
        return (identity for (identity,) in self._tables.execute(query, (split, prefixes)))

    def programs(self, split: str) -> Iterator[str]:
        """Hashes of a split's programs, each once."""
        query = "SELECT DISTINCT program FROM samples WHERE split = ?"
        return (program for (program,) in self._tables.execute(query, (split,)))

    def twins(self, split: str) -> Iterator[tuple[str, str, str | None]]:
        """Id and program hash of each of a split's models, and the first model of the train split with that program."""
        query = """
            SELECT id, program, (
                SELECT min(id) FROM samples AS other WHERE other.program = samples.program AND other.split = 'train'
            ) FROM samples WHERE split = ? ORDER BY id
        """
        yield from self._tables.execute(query, (split,))

    def leave_out(self, ids: Iterable[str]) -> None:
        """Take models out again; which, may be told from the selection as it was."""
        self._tables.executemany("INSERT INTO left_out VALUES (?)", ((each,) for each in ids))
        self._tables.execute("DELETE FROM models WHERE id IN left_out")

    def counts(self) -> dict[str, int]:
        """How many models each split has."""
        found = dict(self._tables.execute("SELECT split, count(*) FROM samples GROUP BY split"))
        return {split: found.get(split, 0) for split in SPLITS}
