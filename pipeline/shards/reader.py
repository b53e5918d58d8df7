"""Reading shards: the index says where each sample's members lie, and only what is asked for is read.

Samples go by their row, which is their number in the folder; ``ShardReader.find`` gives those of keys. Nothing is
unpickled. The files stay plain WebDataset tars.
"""

import bisect
import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime.errors import UserError
from pipeline.shards.embeddings import restore, scale_member
from pipeline.shards.index import INDEX, open_index
from pipeline.shards.manifest import Manifest, Shard
from pipeline.shards.storage.remote import RemoteTar, remote_tars
from pipeline.shards.tars import Place, TarFile, decode_array, header_bytes

OPEN_FILES = 128


class ShardReader:
    """A folder of shards, whose tars lie in it or, as ``place.json`` says, in object storage.

    Args:
        folder: with ``manifest.json`` and ``index.npy``.
        kind: what the manifest must say it holds.

    Attributes:
        index: (N,) a row for each sample, as ``pipeline.shards.index`` describes them.

    Raises:
        UserError: the folder is missing, foreign, or a shard is missing or has another size than recorded.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder, kind)
        self._remote = remote = remote_tars(folder)
        if remote is None:
            _check_files(folder, self.manifest.shards)
        else:
            remote.store.check(self.manifest.shards)
        self.index = open_index(folder, self.manifest)
        self._ends = self.manifest.ends
        # Training goes to any shard at any time: as many files are open as any system allows.
        self._file: Callable[[Shard], TarFile | RemoteTar] = lru_cache(maxsize=OPEN_FILES)(
            lambda shard: TarFile(folder / shard.name) if remote is None else RemoteTar(remote, shard)
        )

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, split: str | None = None) -> np.ndarray:
        """(N,) rows of a split, or all, in order."""
        chosen = [split in (None, shard.split) for shard in self.manifest.shards]
        return np.flatnonzero(np.repeat(chosen, [shard.count for shard in self.manifest.shards]))

    def rows_of(self, name: str) -> range:
        """Rows of one shard; none where there is no such shard."""
        for shard, end in zip(self.manifest.shards, self._ends, strict=True):
            if shard.name == name:
                return range(end - shard.count, end)
        return range(0)

    def keys(self, name: str) -> list[str]:
        """Keys of one shard, in order."""
        return [self.key(row) for row in self.rows_of(name)]

    def find(self, keys: np.ndarray | Iterable[str]) -> np.ndarray:
        """(N,) rows of samples by their keys; -1 where there is none.

        Many at once: it takes some 20 ms for 450,000 samples, however few are looked for.
        """
        wanted = keys if isinstance(keys, np.ndarray) else np.array([key.encode() for key in keys], "S")
        own = self.index["key"]
        if not len(own):
            return np.full(len(wanted), -1)
        order = np.argsort(own, kind="stable")
        places = np.searchsorted(own[order], wanted)
        rows = order[np.minimum(places, len(own) - 1)]
        return np.where(own[rows] == wanted, rows, -1)

    def row(self, key: str) -> int:
        """The row of one sample.

        Raises:
            UserError: there is none.
        """
        row = int(self.find([key])[0])
        if row < 0:
            raise UserError(f"{self.folder} has no {key}")
        return row

    def key(self, row: int) -> str:
        """The key of a sample."""
        return str(self.index["key"][row].decode(errors="replace"))

    def shard(self, row: int) -> Shard:
        """The shard that holds a sample."""
        return self.manifest.shards[bisect.bisect_right(self._ends, row)]

    def bytes(self, row: int, member: str) -> bytes:
        """One member as it is stored."""
        return self._tar(row).read(self._place(row, member))

    def array(self, row: int, member: str, parts: Sequence[int] | None = None) -> np.ndarray:
        """One ``.npy`` member.

        Args:
            parts: of its first axis, counted from 0; only these are read. The manifest must have the member's shape.

        Raises:
            IndexError: there is no such part.
        """
        if parts is None:
            return decode_array(self.bytes(row, member), self._name(row, member))
        field = self.manifest.fields[member]
        read = b"".join(map(self._tar(row).read, self._part_places(row, member, parts)))
        return np.frombuffer(read, np.dtype(field["dtype"])).reshape(len(parts), *field["shape"][1:])

    def _part_places(self, row: int, member: str, parts: Sequence[int]) -> list[Place]:
        """Where parts of an array are, as of ``array``."""
        place, field = self._place(row, member), self.manifest.fields[member]
        if not field["shape"] or None in field["shape"]:
            raise UserError(
                f"{self._name(row, member)} has not the shape that the manifest says; run its pipeline stage again"
            )
        dtype, (number, *shape) = np.dtype(field["dtype"]), field["shape"]
        if not all(0 <= part < number for part in parts):
            raise IndexError(f"parts {list(parts)} of {number}")
        each = dtype.itemsize * int(np.prod(shape))
        header = header_bytes((number, *shape), field["dtype"])
        if place[1] != header + number * each:
            raise UserError(
                f"{self._name(row, member)} has not the shape that the manifest says; run its pipeline stage again"
            )
        return [(place[0] + header + part * each, each) for part in parts]

    def embeddings(self, row: int, member: str, parts: Sequence[int] | None = None) -> np.ndarray:
        """A member that ``embeddings`` wrote, as float16 or float32; ``parts`` as for ``array``."""
        dtype = self.manifest.fields[member]["encoding"]
        scales = self.array(row, scale_member(member), parts) if dtype == "int8" else None
        return restore(self.array(row, member, parts), scales, dtype)

    def fetch(self, wanted: Iterable[tuple[int, str, Sequence[int] | None]]) -> None:
        """Say what will be read: (row, member, parts), with parts as of ``array``.

        Of tars in object storage it is asked for all at once; of others nothing is done.
        """
        if self._remote is None:
            return
        places: list[tuple[Shard, Place]] = []
        for row, member, parts in wanted:
            is_int8 = self.manifest.fields.get(member, {}).get("encoding") == "int8"
            for each in (member, scale_member(member)) if is_int8 else (member,):
                found = [self._place(row, each)] if parts is None else self._part_places(row, each, parts)
                places += [(self.shard(row), place) for place in found]
        self._remote.fetch(places)

    def json(self, row: int) -> Any:
        """One ``.json`` member."""
        try:
            return json.loads(self.bytes(row, "json"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._name(row, 'json')} is damaged: {error}") from error

    def _tar(self, row: int) -> TarFile | RemoteTar:
        return self._file(self.shard(row))

    def _name(self, row: int, member: str) -> str:
        return f"{self.folder / self.shard(row).name}: {self.key(row)}.{member}"

    def _place(self, row: int, member: str) -> Place:
        offset, size = self.index[member][row].tolist() if member in (self.index.dtype.names or ()) else (-1, -1)
        if offset < 0:
            raise UserError(f"{self.folder / self.shard(row).name} has no {self.key(row)}.{member}")
        return offset, size


def _check_files(folder: Path, shards: Iterable[Shard]) -> None:
    for shard in shards:
        path = folder / shard.name
        if not path.is_file():
            raise UserError(f"{path} is missing; run its pipeline stage again")
        if path.stat().st_size != shard.bytes:
            raise UserError(
                f"{path} has {path.stat().st_size} bytes, {shard.bytes} were written; run its pipeline stage again"
            )


class CorpusReader(ShardReader):
    """The corpus: what its index says of a sample beyond places."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "corpus")

    def _column(self, name: str) -> np.ndarray:
        if name not in (self.index.dtype.names or ()):
            raise UserError(f"{self.folder / INDEX} is damaged (no column {name}); run its pipeline stage again")
        column: np.ndarray = self.index[name]
        return column

    def id(self, row: int) -> str:
        """The id of a model."""
        return str(self._column("id")[row].decode(errors="replace"))

    def _place(self, row: int, member: str) -> Place:
        """As of any shards; ``caption`` is a part of ``json``."""
        offset, size = super()._place(row, member)
        return (offset + super()._place(row, "json")[0], size) if member == "caption" else (offset, size)

    def caption(self, row: int) -> str:
        """The caption of a model."""
        try:
            return str(json.loads(self.bytes(row, "caption")))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._name(row, 'json')} is damaged: {error}") from error

    def captions(self, rows: np.ndarray) -> list[str]:
        """The captions of models (n,): of many at once in a third of the time."""
        texts, captions = self._column("json")[rows], self._column("caption")[rows]
        places = np.stack([texts[:, 0] + captions[:, 0], captions[:, 1]], axis=1)
        shards = np.searchsorted(self._ends, rows, side="right")
        cuts = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(rows)]
        pieces: list[bytes] = []
        for at, end in itertools.pairwise(cuts):
            if at < end:
                pieces += self._tar(int(rows[at])).read_many(places[at:end])
        found: list[str] = []
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(b"[" + b",".join(pieces) + b"]")
        if len(found) == len(rows) and all(isinstance(caption, str) for caption in found):
            return found
        return [self.caption(row) for row in rows.tolist()]  # which tells the one that is damaged
