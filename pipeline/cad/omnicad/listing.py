"""Which captions and models of a dataset belong together: listed in a temporary file, not in memory."""

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.cad.omnicad.rejects import Rejects, decoded, encoded
from pipeline.runtime.errors import Reject
from pipeline.runtime.scratch import temporary_tables

ID = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9]+_[0-9]+")
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: JSON can name it, UTF-8 cannot write it


@dataclass(frozen=True, slots=True)
class Entry:
    """One caption with its model."""

    id: str
    caption: str

    @property
    def key(self) -> str:
        """The sample's key in shards: the id without its slash."""
        return self.id.replace("/", "")


def base_model(entry_id: str) -> str:
    """The base model that an id is a version or prefix of: ``0000/00000071_00005`` -> ``0000/00000071``."""
    return entry_id.rpartition("_")[0]


def _shown(value: Any) -> str:
    """A value in a message; of lists and objects, which may be deep, their kind alone."""
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else f"{value!r:.80}"


class Listing:
    """Models, each with its caption once that is found; iterating gives the entries in order of id.

    Models come first, then captions, then ``finish``: of these, every caption and every model is either an entry or
    among the rejects.

    Attributes:
        rejects: what does not fit together.
    """

    def __init__(self) -> None:
        schema = "CREATE TABLE models (id BLOB PRIMARY KEY, caption TEXT) WITHOUT ROWID"
        self._tables = temporary_tables(self, schema)
        self.rejects = Rejects()

    def add_model(self, entry_id: str) -> None:
        """List a model by its file's name without the suffix."""
        self._tables.execute("INSERT OR IGNORE INTO models VALUES (?, NULL)", (encoded(entry_id),))

    def add_caption(self, row: Any, place: str) -> None:
        """Give a model its caption, or reject it.

        Args:
            row: ``{"id": …, "text caption": …}``, if it is as it should be.
            place: where it stands.
        """
        checked = self._check(row, place)
        if isinstance(checked, Reject):
            self.rejects.add(checked)
        else:
            values = checked.caption, encoded(checked.id)
            self._tables.execute("UPDATE models SET caption = ? WHERE id = ?", values)

    def _check(self, row: Any, place: str) -> Entry | Reject:
        entry_id = row.get("id") if isinstance(row, dict) else None
        if not isinstance(entry_id, str) or not ID.fullmatch(entry_id):
            return Reject(place, "corpus", "bad_id", f"{_shown(entry_id)} is not like 0000/00000071_00005")
        caption = row.get("text caption")
        found = self._tables.execute("SELECT caption FROM models WHERE id = ?", (encoded(entry_id),)).fetchone()
        if found is not None and found[0] is not None:
            return Reject(entry_id, "corpus", "duplicate_id", place)
        if not isinstance(caption, str) or not caption.strip() or SURROGATE.search(caption):
            return Reject(entry_id, "corpus", "bad_caption", f"{_shown(caption)} is not a text")
        if found is None:
            return Reject(entry_id, "corpus", "model_missing", f"json/{entry_id}.json does not exist")
        return Entry(entry_id, caption.strip())

    def finish(self, limit: int | None) -> None:
        """Reject models without a caption, and leave out all but the first ``limit`` of entries and rejects, by id."""
        for model in map(decoded, self._column("SELECT id FROM models WHERE caption IS NULL ORDER BY id")):
            if model not in self.rejects:
                self.rejects.add(Reject(model, "corpus", "caption_missing"))
        self._tables.execute("DELETE FROM models WHERE caption IS NULL")
        if limit is not None:
            entries = map(decoded, self._column("SELECT id FROM models ORDER BY id"))
            first = heapq.merge(entries, (reject.id for reject in self.rejects))
            last = next(islice(first, limit - 1, None), None)
            if last is not None:
                self._tables.execute("DELETE FROM models WHERE id > ?", (encoded(last),))
                self.rejects.keep_up_to(last)

    def _column(self, query: str) -> Iterator[Any]:
        return (value for (value,) in self._tables.execute(query))

    def __len__(self) -> int:
        found: int = next(self._column("SELECT count(*) FROM models"))
        return found

    def __iter__(self) -> Iterator[Entry]:
        for entry_id, caption in self._tables.execute("SELECT id, caption FROM models ORDER BY id"):
            yield Entry(decoded(entry_id), caption)

    def __contains__(self, entry_id: str) -> bool:
        """Whether there is an entry of this id."""
        query = "SELECT 1 FROM models WHERE id = ?"
        return self._tables.execute(query, (encoded(entry_id),)).fetchone() is not None
