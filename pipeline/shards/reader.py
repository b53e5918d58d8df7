"""Reading shards by key: a tar's member table once, then any member at its place.

Only what is asked for is read, and nothing is unpickled. The files stay plain WebDataset tars.
"""

import csv
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime.errors import UserError
from pipeline.shards.embeddings import restore, scale_member
from pipeline.shards.manifest import Manifest

INDEX = "index.csv"
OPEN_FILES = 128


class _File:
    """An open file that is read at any place, and closed when it is dropped."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class TarIndex:
    """The members of one tar, by key and extension: some 150 bytes of memory for a sample.

    Raises:
        UserError: the file is missing or no tar.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, int] = {}
        places: dict[str, dict[int, tuple[int, int]]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    row = self.rows.setdefault(key, len(self.rows))
                    places.setdefault(extension, {})[row] = (member.offset_data, member.size)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; run its stage again") from error
        except (tarfile.TarError, ValueError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); run its stage again") from error
        self._places: dict[str, np.ndarray] = {}
        for extension, found in places.items():
            table = np.full((len(self.rows), 2), -1, np.int64)
            table[list(found)] = list(found.values())
            self._places[extension] = table

    def extensions(self, key: str) -> list[str]:
        """What a sample has."""
        row = self.rows[key]
        return [extension for extension, table in self._places.items() if table[row, 0] >= 0]

    def read(self, key: str, extension: str, file: _File | None = None) -> bytes:
        """The bytes of one member; from ``file``, where it is open already."""
        row, table = self.rows.get(key), self._places.get(extension)
        if row is None or table is None or table[row, 0] < 0:
            raise UserError(f"{self.path} has no {key}.{extension}")
        offset, size = table[row].tolist()
        # Read, not mapped: pages of a map would count as this process' memory.
        opened = file or _File(self.path)
        data = os.pread(opened.fd, size, offset)
        if len(data) < size:
            raise UserError(f"{self.path} is cut off inside {key}.{extension}; run its stage again")
        return data


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
        # Training goes to any shard at any time: tables are kept, and as many files open as any system allows.
        self._open = lru_cache(maxsize=None)(lambda name: TarIndex(folder / name))
        self._file = lru_cache(maxsize=OPEN_FILES)(lambda name: _File(folder / name))

    def keys(self, shard: str) -> list[str]:
        """Keys of one shard, in order."""
        return list(self._open(shard).rows)

    def has(self, shard: str, key: str) -> bool:
        """Whether a sample is there."""
        return key in self._open(shard).rows

    def bytes(self, shard: str, key: str, extension: str) -> bytes:
        """One member as it is stored."""
        return self._open(shard).read(key, extension, self._file(shard))

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
