"""Folders of shards, made shard by shard so that a stop costs one of them, and published when all are there.

What scratch has of a finished shard beside its tar: a record of it, and its rows of the index. Where tars go to object
storage, they are sent as they are finished, and scratch keeps these two alone.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime import interrupt
from pipeline.runtime.atomic import atomic_open, publish
from pipeline.runtime.errors import Reject
from pipeline.runtime.fingerprint import sha256_file
from pipeline.runtime.scratch import clean, keep, read_kept
from pipeline.shards.index import shard_rows, write_index
from pipeline.shards.manifest import Manifest, Shard, write_rejects
from pipeline.shards.storage.store import Store, write_place

SHARDS = "shards"  # in the folder of a pipeline stage that makes such: what is published of it
RECORD, ROWS = ".done.json", ".rows.npy"


def beside(path: Path, suffix: str) -> Path:
    """Where scratch keeps what belongs to a shard: beside the folder that is published."""
    return path.parent.parent / path.with_suffix(suffix).name


def keep_rows(path: Path) -> None:
    """Keep the rows of a finished shard, so that none is looked through twice."""
    with atomic_open(beside(path, ROWS), "wb") as file:
        np.save(file, shard_rows(path), allow_pickle=False)


def kept_rows(path: Path) -> np.ndarray:
    """The rows that ``keep_rows`` kept."""
    rows: np.ndarray = np.load(beside(path, ROWS), allow_pickle=False)
    return rows


def write_manifest(
    folder: Path,
    kind: str,
    fields: dict[str, dict[str, Any]],
    details: dict[str, Any],
    shards: Sequence[Shard],
    rows_by: Callable[[Path], np.ndarray] = shard_rows,
) -> None:
    """Write the index and the manifest of finished shards; arguments as of ``Manifest`` and ``write_index``."""
    Manifest(kind, fields, details, tuple(shards), write_index(folder, shards, rows_by)).write(folder)


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A shard in scratch and what was rejected on the way to it."""

    shard: Shard
    rejects: tuple[Reject, ...]

    def write(self, path: Path, source: str, store: Store | None = None) -> None:
        """Keep the record of the tar at ``path``, which ``read`` finds for the same source, and its rows.

        Args:
            store: where the tar goes; None: it stays.
        """
        keep_rows(path)
        self._record(path, source, None)
        if store is not None:
            self._send(path, source, store)

    def _send(self, path: Path, source: str, store: Store) -> None:
        """A stop before the end costs no more than to send the tar again: until then it is here, with its record."""
        store.put(path, self.shard)
        self._record(path, source, store.url)
        path.unlink()

    def _record(self, path: Path, source: str, url: str | None) -> None:
        rows, rejects = sha256_file(beside(path, ROWS)), [asdict(reject) for reject in self.rejects]
        document = {"source": source, "shard": asdict(self.shard), "rows": rows, "rejects": rejects, "url": url}
        keep(beside(path, RECORD), document)

    @classmethod
    def read(cls, path: Path, source: str, store: Store | None = None) -> "FinishedShard | None":
        """The record beside a tar, or None where either is missing or damaged, or was made from something else.

        Args:
            store: where the tar has to be, and is sent to where it is still here; None: here.
        """
        try:
            document = read_kept(beside(path, RECORD))
            finished = cls(Shard(**document["shard"]), tuple(Reject(**r) for r in document["rejects"]))
            if document["source"] != source or document["rows"] != sha256_file(beside(path, ROWS)):
                return None
        except (FileNotFoundError, ValueError):
            return None
        if store is not None and document["url"] == store.url and store.holds(finished.shard):
            path.unlink(missing_ok=True)
            return finished
        if not path.is_file() or sha256_file(path) != finished.shard.sha256:
            return None
        if store is not None:
            finished._send(path, source, store)
        return finished


def shard_by_shard(
    folder: Path,
    sources: Mapping[str, str],
    make: Callable[[Sequence[Path]], Iterator[FinishedShard]],
    progress: Callable[[int, int, str], None],
    store: Store | None = None,
) -> list[FinishedShard]:
    """Make those shards that scratch does not hold yet. A stop asked for takes effect between shards.

    Args:
        folder: of this work; its folder ``SHARDS`` is that of the shards.
        sources: what each shard is made from, by sha256; a shard in scratch that was made from something else, or
            that is not among them, is removed.
        make: writes a shard at each of some paths, and gives them as they are finished.
        store: where each tar goes; None: it stays.
    """
    shards = folder / SHARDS
    shards.mkdir(parents=True, exist_ok=True)
    read = {name: FinishedShard.read(shards / name, source, store) for name, source in sources.items()}
    found = {name: finished for name, finished in read.items() if finished is not None}
    kept = {shards / name for name in found}
    kept |= {beside(path, suffix) for path in kept for suffix in (RECORD, ROWS)}
    for path in (*folder.glob(f"*{RECORD}"), *folder.glob(f"*{ROWS}"), *shards.iterdir()):
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if found:
        progress(len(found), len(sources), f"{len(found)} of {len(sources)} shards found in {folder}")
    interrupt.check()
    for finished in make([shards / name for name in sources if name not in found]):
        name = finished.shard.name
        finished.write(shards / name, sources[name], store)
        found[name] = finished
        progress(len(found), len(sources), name)
        interrupt.check()
    return [found[name] for name in sources]


def publish_shards(
    folder: Path,
    out: Path,
    finished: list[FinishedShard],
    kind: str,
    fields: dict[str, dict[str, Any]],
    details: dict[str, Any],
    store: Store | None = None,
) -> None:
    """Write manifest and rejects beside the shards and give their folder its final name; scratch goes.

    A kill costs no shard: until the folder has that name, the records stay.
    """
    place = folder / SHARDS
    rejects = sorted(reject for each in finished for reject in each.rejects)
    shards = tuple(each.shard for each in finished)
    counts = {"samples": sum(shard.count for shard in shards), "rejected": len(rejects)}
    write_rejects(place, rejects)
    if store is not None:
        write_place(place, store.url)
    write_manifest(place, kind, fields, {**details, "counts": counts}, shards, kept_rows)
    publish(place, out)
    clean(folder)
