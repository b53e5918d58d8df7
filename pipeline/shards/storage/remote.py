"""Members of tars in object storage, by ranged reads: block by block, through the cache on this disk.

A reader that goes through a tar in order is read ahead for; one that knows what it will read asks for it first, all at
once (``fetch``): what each request waits for an answer is then waited once, and a cache that is smaller than what is
asked for loses none of it.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.runtime.errors import UserError
from pipeline.runtime.scratch import SCRATCH
from pipeline.settings.params import PARAMS_FILE
from pipeline.shards.manifest import Shard
from pipeline.shards.storage.cache import BlockCache
from pipeline.shards.storage.settings import Storage, StorageSections
from pipeline.shards.storage.store import AGAIN, REQUESTS, Store, store_of
from pipeline.shards.tars import Place

CACHE = SCRATCH / "blocks"
# A sample of features has some 50 KiB. At 100 MB a second, a block takes 3 ms beside 20 ms of latency.
BLOCK = 256 << 10
JOINED = 4  # neighbouring blocks that one request reads
AHEAD = 2 * REQUESTS  # blocks that are read ahead
Block = tuple[Shard, int]


def remote_tars(folder: Path) -> "RemoteTars | None":
    """The tars of a folder, where ``place.json`` beside its manifest says that they are elsewhere.

    Raises:
        UserError: that is damaged, the store is not known here, or params.yaml is not right.
    """
    store = store_of(folder)
    if store is None:
        return None
    storage = StorageSections.load().storage if PARAMS_FILE.is_file() else Storage()
    return RemoteTars(store, BlockCache(CACHE, storage.cache_mib << 20))


def forget(shard: Shard) -> None:
    """Have no blocks of a tar in the cache: they may be of one that was damaged."""
    for path in CACHE.glob(f"{shard.sha256}-*"):
        path.unlink(missing_ok=True)


class RemoteTars:
    """Tars of a store. Threads may share them, and forked processes."""

    def __init__(self, store: Store, cache: BlockCache) -> None:
        self.store, self.cache = store, cache
        self._last: dict[str, int] = {}  # block of each tar that was read last
        self._held: dict[tuple[str, Place], bytes] = {}  # places that were asked for, until they are read

    def read(self, shard: Shard, place: Place) -> bytes:
        """The bytes of one place.

        Raises:
            UserError: the tar ends before, or the store does not give them.
        """
        offset, size = place
        if offset < 0 or size < 0 or offset + size > shard.bytes:
            raise UserError(f"{self.store.address(shard)} is cut off; {AGAIN}")
        if (held := self._held.pop((shard.sha256, place), None)) is not None:
            return held
        needed = _blocks(place)
        found = {number: self.cache.get(_name(shard, number)) for number in needed}
        missing = [number for number, block in found.items() if block is None]
        if missing:
            in_order = 0 <= needed[0] - self._last.get(shard.sha256, needed[0] + 1) <= JOINED
            last = min(needed[-1] + AHEAD * in_order, (shard.bytes - 1) // BLOCK)
            ahead = [number for number in range(needed[-1] + 1, last + 1) if _name(shard, number) not in self.cache]
            for (_, number), block in self._download([(shard, number) for number in missing + ahead]):
                if number in found:
                    found[number] = block
        if needed:
            self._last[shard.sha256] = needed[-1]
        first = offset - needed.start * BLOCK
        return b"".join(block for block in found.values() if block is not None)[first : first + size]

    def fetch(self, wanted: Iterable[tuple[Shard, Place]]) -> None:
        """Hold places, each until it is read, in place of those of the last call.

        In the cache, what does not fit together would be gone by then, and a block be read for each place in it.
        """
        self._held = {}
        places: dict[Block, set[Place]] = {}
        for shard, place in wanted:
            for number in _blocks(place):
                places.setdefault((shard, number), set()).add(place)
        pieces: dict[tuple[str, Place], list[bytes]] = {}
        for (shard, number), block in self._each(sorted(places, key=lambda block: (block[0].sha256, block[1]))):
            for offset, size in places[shard, number]:
                begin = offset - number * BLOCK
                piece = block[max(begin, 0) : begin + size]
                pieces.setdefault((shard.sha256, (offset, size)), []).append(piece)
        self._held = {asked: b"".join(found) for asked, found in pieces.items()}

    def _each(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, bytes]]:
        """Blocks, in order, out of the cache or the store, which is asked for several at once."""
        missing = [block for block in blocks if _name(*block) not in self.cache]
        coming, lacking = self._download(missing), set(missing)
        for block in blocks:
            if block in lacking:
                yield next(coming)
            elif (found := self.cache.get(_name(*block))) is not None:
                yield block, found
            else:  # it had to go for others meanwhile, or is damaged
                yield from self._download([block])

    def _download(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, bytes]]:
        """Blocks, in order, as they are put into the cache."""
        joined = list(_joined(blocks))
        for at in range(0, len(joined), REQUESTS):
            together = joined[at : at + REQUESTS]
            spans = [(shard, run.start * BLOCK, min(run.stop * BLOCK, shard.bytes)) for shard, run in together]
            for (shard, run), data in zip(together, self.store.read(spans), strict=True):
                for number in run:
                    begin = (number - run.start) * BLOCK
                    block = data[begin : begin + BLOCK]
                    with contextlib.suppress(OSError):  # a cache that is full or lost costs speed, and nothing else
                        self.cache.put(_name(shard, number), block)
                    yield (shard, number), block


class RemoteTar:
    """One of them, read as ``pipeline.shards.tars.TarFile`` is."""

    def __init__(self, tars: RemoteTars, shard: Shard) -> None:
        self.tars, self.shard = tars, shard

    def read(self, place: Place) -> bytes:
        """The bytes of one place."""
        return self.tars.read(self.shard, place)

    def read_many(self, places: np.ndarray) -> list[bytes]:
        """The bytes of each of some places (n, 2), in the order of which no block is read twice."""
        found, held, begins = [], b"", 0
        for offset, size in places.tolist():
            if size < 0:
                self.read((offset, size))  # which tells what that means
            if not begins <= offset <= offset + size <= begins + len(held):
                blocks = _blocks((offset, max(size, 1)))
                begins, ends = blocks.start * BLOCK, max(offset + size, min(blocks.stop * BLOCK, self.shard.bytes))
                held = self.read((begins, ends - begins))
            found.append(held[offset - begins : offset - begins + size])
        return found


def _blocks(place: Place) -> range:
    """Numbers of the blocks that a place touches."""
    offset, size = place
    return range(offset // BLOCK, -(-(offset + size) // BLOCK)) if size else range(0)


def _joined(blocks: Sequence[Block]) -> Iterator[tuple[Shard, range]]:
    """Runs of neighbours, ``JOINED`` at most in each."""
    runs = itertools.groupby(enumerate(blocks), lambda each: (each[1][0], each[1][1] - each[0]))
    for (shard, _), run in runs:
        numbers = [number for _, (_, number) in run]
        for at in range(0, len(numbers), JOINED):
            yield shard, range(numbers[at], numbers[at : at + JOINED][-1] + 1)


def _name(shard: Shard, number: int) -> str:
    return f"{shard.sha256}-{number}"
