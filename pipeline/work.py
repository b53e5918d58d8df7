"""Resumable work in ``scratch/``: one folder for each piece of work, its finished units kept in it.

A unit says by sha256 what it was made from, and is used again for exactly that: data may grow, shrink and change
between a stop and the next start.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipeline import interrupt
from pipeline.atomic import exclusive, publish, write_text
from pipeline.fingerprint import fingerprint
from pipeline.shards.manifest import Manifest, Reject, Shard, write_rejects

SCRATCH = Path("scratch")
SHARDS = "shards"  # in the folder of a stage that makes such: what is published of it
BLOCK = 64  # records in a file of a journal: so many are lost at most


def shard_record(path: Path) -> Path:
    """Where scratch keeps the description of a finished shard: beside the folder that is published."""
    return path.parent.parent / path.with_suffix(".done.json").name


@contextlib.contextmanager
def scratch(
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


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A shard in scratch and what was rejected on the way to it."""

    shard: Shard
    rejects: tuple[Reject, ...]

    def write(self, path: Path, source: str) -> None:
        document = {"source": source, "shard": asdict(self.shard), "rejects": [asdict(r) for r in self.rejects]}
        write_text(shard_record(path), json.dumps(document))

    @classmethod
    def read(cls, path: Path, source: str) -> "FinishedShard | None":
        """The record beside a tar, or None where either is missing or cut off, or was made from something else."""
        try:
            document = json.loads(shard_record(path).read_text(encoding="utf-8"))
            finished = cls(Shard(**document["shard"]), tuple(Reject(**r) for r in document["rejects"]))
            fits = document["source"] == source and path.stat().st_size == finished.shard.bytes
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return finished if fits else None


def shard_by_shard(
    folder: Path,
    sources: Mapping[str, str],
    make: Callable[[Path], FinishedShard],
    progress: Callable[[int, int, str], None],
) -> list[FinishedShard]:
    """Make each shard that scratch does not hold yet. A stop asked for takes effect between shards.

    Args:
        folder: of this work; its folder ``SHARDS`` is that of the shards.
        sources: what each shard is made from, by sha256; a shard in scratch that was made from something else, or
            that is not among them, is removed.
    """
    shards = folder / SHARDS
    shards.mkdir(parents=True, exist_ok=True)
    read = {name: FinishedShard.read(shards / name, source) for name, source in sources.items()}
    found = {name: finished for name, finished in read.items() if finished is not None}
    kept = {path for name in found for path in (shards / name, shard_record(shards / name))}
    for path in (*folder.glob(shard_record(shards / "*").name), *shards.iterdir()):
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if found:
        progress(len(found), len(sources), f"{len(found)} of {len(sources)} shards found in {folder}")
    for name, source in sources.items():
        if name not in found:
            interrupt.check()
            made = make(shards / name)
            made.write(shards / name, source)
            found[name] = made
            progress(len(found), len(sources), name)
    return [found[name] for name in sources]


def publish_shards(
    folder: Path,
    out: Path,
    finished: list[FinishedShard],
    kind: str,
    fields: dict[str, dict[str, Any]],
    details: dict[str, Any],
) -> None:
    """Write manifest and rejects beside the shards and give their folder its final name; scratch goes.

    A kill costs no shard: until the folder has that name, the records stay.
    """
    place = folder / SHARDS
    rejects = [reject for each in finished for reject in each.rejects]
    shards = tuple(each.shard for each in finished)
    counts = {"samples": sum(shard.count for shard in shards), "rejected": len(rejects)}
    write_rejects(place, rejects)
    Manifest(kind, fields, {**details, "counts": counts}, shards).write(place)
    publish(place, out)
    clean(folder)
