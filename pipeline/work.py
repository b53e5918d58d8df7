"""Resumable work in ``scratch/``: one folder for each piece of work, finished units kept in it by name."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import interrupt
from pipeline.atomic import exclusive, publish, write_text
from pipeline.fingerprint import fingerprint
from pipeline.shards.manifest import Manifest, Reject, Shard, write_rejects

SCRATCH = Path("scratch")


def shard_record(path: Path) -> Path:
    """Where scratch keeps the description of a finished shard."""
    return path.with_suffix(".done.json")


@contextlib.contextmanager
def scratch(
    stage: str, module: str, params: dict[str, Any], inputs: dict[str, str], hold: bool = True
) -> Iterator[Path]:
    """The folder for this piece of work, held for this process alone, or with ``hold`` false for another that it helps.

    It is named after all that the result depends on, so what is found in it can be used. Folders of the same
    stage for other parameters stay until ``clean``: going back to old parameters goes on where it stopped.
    """
    folder = SCRATCH / stage.replace("@", "-") / fingerprint(module, params, inputs)
    with exclusive(folder) if hold else contextlib.nullcontext():
        yield folder


def clean(folder: Path) -> None:
    """Remove scratch that has been published, and its lock."""
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class FinishedShard:
    """A shard in scratch and what was rejected on the way to it."""

    shard: Shard
    rejects: tuple[Reject, ...]

    def write(self, path: Path) -> None:
        document = {"shard": asdict(self.shard), "rejects": [asdict(r) for r in self.rejects]}
        write_text(shard_record(path), json.dumps(document))

    @classmethod
    def read(cls, path: Path) -> "FinishedShard | None":
        """The record beside a tar, or None where either is missing or cut off."""
        try:
            document = json.loads(shard_record(path).read_text(encoding="utf-8"))
            finished = cls(Shard(**document["shard"]), tuple(Reject(**r) for r in document["rejects"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return finished if path.is_file() and path.stat().st_size == finished.shard.bytes else None


def shard_by_shard(
    folder: Path,
    names: list[str],
    make: Callable[[Path], FinishedShard],
    progress: Callable[[int, int, str], None],
) -> list[FinishedShard]:
    """Make each shard that scratch does not hold yet. A stop asked for takes effect between shards."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: finished for name in names if (finished := FinishedShard.read(folder / name)) is not None}
    if found:
        progress(len(found), len(names), f"{len(found)} of {len(names)} shards found in {folder}")
    for name in names:
        if name not in found:
            interrupt.check()
            made = make(folder / name)
            made.write(folder / name)
            found[name] = made
            progress(len(found), len(names), name)
    return [found[name] for name in names]


def publish_shards(
    folder: Path,
    out: Path,
    finished: list[FinishedShard],
    kind: str,
    fields: dict[str, dict[str, Any]],
    details: dict[str, Any],
) -> None:
    """Write manifest and rejects beside the shards and give the folder its final name."""
    rejects = [reject for each in finished for reject in each.rejects]
    shards = tuple(each.shard for each in finished)
    counts = {"samples": sum(shard.count for shard in shards), "rejected": len(rejects)}
    write_rejects(folder, rejects)
    Manifest(kind, fields, {**details, "counts": counts}, shards).write(folder)
    for each in finished:
        shard_record(folder / each.shard.name).unlink(missing_ok=True)
    publish(folder, out)
