"""What was rejected of a dataset: kept in a temporary file, not in memory."""

from collections.abc import Iterator

from pipeline.runtime.errors import Reject
from pipeline.runtime.scratch import temporary_tables

SCHEMA = (
    "CREATE TABLE rejects (id BLOB, pipeline_stage BLOB, reason BLOB, detail BLOB); CREATE INDEX by_id ON rejects (id)"
)


class Rejects:
    """Rejects, in order whenever they are gone through."""

    def __init__(self) -> None:
        self._tables = temporary_tables(self, SCHEMA)

    def add(self, reject: Reject) -> None:
        """Take one in."""
        row = reject.id, reject.pipeline_stage, reject.reason, reject.detail
        self._tables.execute("INSERT INTO rejects VALUES (?, ?, ?, ?)", [encoded(text) for text in row])

    def keep_up_to(self, last_id: str) -> None:
        """Forget those whose ids come after this one."""
        self._tables.execute("DELETE FROM rejects WHERE id > ?", (encoded(last_id),))

    def __len__(self) -> int:
        number: int = self._tables.execute("SELECT count(*) FROM rejects").fetchone()[0]
        return number

    def __iter__(self) -> Iterator[Reject]:
        for row in self._tables.execute("SELECT * FROM rejects ORDER BY id, pipeline_stage, reason, detail"):
            yield Reject(*map(decoded, row))

    def __contains__(self, reject_id: str) -> bool:
        """Whether anything of this id was rejected."""
        query = "SELECT 1 FROM rejects WHERE id = ?"
        return self._tables.execute(query, (encoded(reject_id),)).fetchone() is not None


def encoded(text: str) -> bytes:
    """A text as tables sort it, whatever a file system calls its files."""
    return text.encode("utf-8", "surrogatepass")


def decoded(text: bytes) -> str:
    """The text again."""
    return text.decode("utf-8", "surrogatepass")
