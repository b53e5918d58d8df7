"""Folders of shards, made shard by shard so that a stop costs one of them, and published when all are there."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime import interrupt
from pipeline.runtime.atomic import publish, write_text
from pipeline.runtime.errors import Reject
from pipeline.runtime.scratch import clean
from pipeline.shards.manifest import Manifest, Shard, write_rejects

SHARDS = "shards"  # in the folder of a stage that makes such: what is published of it


def shard_record(path: Path) -> Path:
    """Where scratch keeps the description of a finished shard: beside the folder that is published."""
    return path.parent.parent / path.with_suffix(".done.json").name


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
