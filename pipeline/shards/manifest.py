"""What a folder of shards holds: ``manifest.json`` beside them."""

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.atomic import atomic_open, write_text
from pipeline.runtime.errors import Reject, UserError

SCHEMA_VERSION = 2  # 1 had no index.npy
MANIFEST = "manifest.json"
REJECTS = "rejects.csv"
SHARD_NAME = re.compile(r"\w[\w-]*\.tar", re.ASCII)
DTYPES = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]  # of members that are arrays
DTYPES += ["float16", "float32", "float64", "bool"]
ENCODINGS = (None, "float16", "bfloat16", "int8")  # of embeddings


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar. ``name`` is ``<split>-%06d.tar``, the same in every modality."""

    name: str
    count: int
    bytes: int
    sha256: str

    @property
    def split(self) -> str:
        """``train``, ``validation`` or ``test``."""
        return self.name.rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a folder of shards.

    Attributes:
        kind: ``corpus``, ``geometry``, ``features/image`` …
        fields: shape and dtype of each array member.
        details: whatever else identifies the content: the encoder and its sha256, the settings, counts; and
            ``libraries``, the versions that it was made with.
        shards: in order.
        index_sha256: of the index beside it (``pipeline.shards.index``).
    """

    kind: str
    fields: dict[str, dict[str, Any]]
    details: dict[str, Any]
    shards: tuple[Shard, ...]
    index_sha256: str

    @property
    def num_samples(self) -> int:
        """In all shards."""
        return sum(shard.count for shard in self.shards)

    @property
    def ends(self) -> list[int]:
        """The row of the index after the last one of each shard."""
        return list(itertools.accumulate(shard.count for shard in self.shards))

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        document = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        write_text(folder / MANIFEST, json.dumps(document, indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, folder: Path, kind: str | None = None) -> "Manifest":
        """Read ``manifest.json``.

        Raises:
            UserError: it is missing, damaged, of another schema or of another kind.
        """
        path = folder / MANIFEST
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            version = document.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise UserError(
                    f"{path} was made by another version of this program: it has schema version {version}, not "
                    f"{SCHEMA_VERSION}; run its pipeline stage again"
                )
            shards = tuple(Shard(**shard) for shard in document.pop("shards"))
            manifest = cls(**document, shards=shards)
            _check(manifest)
        except FileNotFoundError as error:
            raise UserError(
                f"{path} is missing: {folder} is not a folder of shards, or its pipeline stage has not run"
            ) from error
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); run its pipeline stage again") from error
        if kind is not None and manifest.kind != kind:
            raise UserError(f"{folder} holds {manifest.kind}, not {kind}")
        return manifest


def _check(manifest: Manifest) -> None:
    """Raise ``ValueError`` where a manifest says what none of ours does: above all, a shard outside of its folder."""
    if not (isinstance(manifest.kind, str) and isinstance(manifest.index_sha256, str)):
        raise ValueError("kind and index_sha256 are texts")
    for shard in manifest.shards:
        if not isinstance(shard.name, str) or not SHARD_NAME.fullmatch(shard.name):
            raise ValueError(f"a shard is no file of this folder: {shard.name!r:.80}")
        if not all(type(number) is int and 0 <= number < 1 << 53 for number in (shard.count, shard.bytes)):
            raise ValueError(f"{shard.name}: counts are whole numbers")
        if not isinstance(shard.sha256, str):
            raise ValueError(f"{shard.name}: sha256 is a text")
    if not isinstance(manifest.details, dict):
        raise ValueError("details is an object")
    for name, field in manifest.fields.items():
        lengths, dtype = field["shape"], field["dtype"]
        whole = isinstance(lengths, list) and all(n is None or (type(n) is int and 0 <= n < 1 << 31) for n in lengths)
        if not whole or dtype not in DTYPES or field.get("encoding") not in ENCODINGS:
            raise ValueError(f"fields.{name!s:.40} is no shape and dtype that are stored")


def write_rejects(folder: Path, rejects: Iterable[Reject]) -> None:
    """Write ``rejects.csv``; what no UTF-8 can say, such as a file's name in another encoding, is escaped.

    Args:
        rejects: in order.
    """
    with atomic_open(folder / REJECTS) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "pipeline_stage", "reason", "detail"])
        for r in rejects:
            row = r.id, r.pipeline_stage, r.reason, r.detail
            table.writerow([text.encode(errors="backslashreplace").decode() for text in row])


def read_rejects(folder: Path) -> list[Reject]:
    """Read ``rejects.csv``, whatever its columns were called when it was written."""
    with open(folder / REJECTS, encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return [Reject(*row) for row in rows]


def reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """How many rejects there are for each reason, most first."""
    return dict(sorted(Counter(r.reason for r in rejects).items(), key=lambda item: (-item[1], item[0])))
