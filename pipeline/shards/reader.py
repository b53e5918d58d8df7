"""Reading shards by key: a tar's member table once, then any member through a memory map.

Only what is asked for is read, and nothing is unpickled. The files stay plain WebDataset tars.
"""

import csv
import io
import json
import mmap
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.shards.embeddings import restore, scale_member
from pipeline.shards.manifest import Manifest

INDEX = "index.csv"


class TarIndex:
    """The members of one tar, by key and extension."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    self.members.setdefault(key, {})[extension] = (member.offset_data, member.size)
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; run its stage again") from error
        except (tarfile.TarError, ValueError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); run its stage again") from error

    def read(self, key: str, extension: str) -> bytes:
        """The bytes of one member."""
        try:
            offset, size = self.members[key][extension]
        except KeyError as error:
            raise UserError(f"{self.path} has no {key}.{extension}") from error
        if offset + size > len(self._map):
            raise UserError(f"{self.path} is cut off inside {key}.{extension}; run its stage again")
        return self._map[offset : offset + size]


def decode_array(data: bytes, name: str) -> np.ndarray:
    """The array in ``.npy`` bytes.

    Raises:
        UserError: the bytes are not an array.
    """
    try:
        array: np.ndarray = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{name} is damaged: {error}") from error
    return array


class ShardReader:
    """A folder of shards.

    Args:
        folder: with ``manifest.json``.
        kind: what the manifest must say it holds.

    Raises:
        UserError: the folder is missing, foreign, or a shard is missing or has another size than recorded.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder, kind)
        for shard in self.manifest.shards:
            path = folder / shard.name
            if not path.is_file():
                raise UserError(f"{path} is missing; run its stage again")
            if path.stat().st_size != shard.bytes:
                raise UserError(
                    f"{path} has {path.stat().st_size} bytes, {shard.bytes} were written; run its stage again"
                )
        # Every open shard costs an index in memory and a mapping; training walks over few at a time.
        self._open = lru_cache(maxsize=64)(lambda name: TarIndex(folder / name))

    def keys(self, shard: str) -> list[str]:
        """Keys of one shard, in order."""
        return list(self._open(shard).members)

    def has(self, shard: str, key: str) -> bool:
        """Whether a sample is there."""
        return key in self._open(shard).members

    def bytes(self, shard: str, key: str, extension: str) -> bytes:
        """One member as it is stored."""
        return self._open(shard).read(key, extension)

    def array(self, shard: str, key: str, extension: str) -> np.ndarray:
        """One ``.npy`` member."""
        return decode_array(self.bytes(shard, key, extension), f"{self.folder / shard}: {key}.{extension}")

    def embeddings(self, shard: str, key: str, member: str) -> np.ndarray:
        """A member that ``embeddings`` wrote, as float16 or float32."""
        dtype = self.manifest.fields[member]["encoding"]
        scales = self.array(shard, key, scale_member(member)) if dtype == "int8" else None
        return restore(self.array(shard, key, member), scales, dtype)

    def json(self, shard: str, key: str) -> Any:
        """One ``.json`` member."""
        try:
            return json.loads(self.bytes(shard, key, "json"))
        except ValueError as error:
            raise UserError(f"{self.folder / shard}: {key}.json is damaged: {error}") from error


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One sample of the corpus, as batches are planned from it."""

    key: str
    id: str
    shard: str
    program_tokens: int
    num_extrudes: int
    num_curves: int
    caption: str

    @property
    def split(self) -> str:
        return self.shard.rpartition("-")[0]


def read_index(folder: Path, split: str | None = None) -> list[IndexRow]:
    """Rows of the corpus' index, of one split or all.

    Raises:
        UserError: the index is missing or damaged.
    """
    try:
        with open(folder / INDEX, encoding="utf-8", newline="") as file:
            rows = list(_rows(file))
    except FileNotFoundError as error:
        raise UserError(f"{folder / INDEX} is missing; run the corpus stage") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / INDEX} is damaged ({error}); run the corpus stage again") from error
    return [row for row in rows if split is None or row.split == split]


def _rows(file: Any) -> Iterator[IndexRow]:
    for row in csv.DictReader(file):
        yield IndexRow(
            key=row["key"],
            id=row["id"],
            shard=row["shard"],
            program_tokens=int(row["program_tokens"]),
            num_extrudes=int(row["num_extrudes"]),
            num_curves=int(row["num_curves"]),
            caption=row["caption"],
        )
