"""Tars elsewhere: sent once, read by their index, a bounded part of them kept here. Real servers: tests/func."""

import multiprocessing
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.features.verify import verify_folder
from pipeline.runtime.errors import Reject, UserError
from pipeline.shards import embeddings
from pipeline.shards.building import SHARDS, FinishedShard, publish_shards, shard_by_shard
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardReader
from pipeline.shards.storage import remote, store
from pipeline.shards.storage.cache import BlockCache
from pipeline.shards.storage.store import PLACE, Store, StoreError
from pipeline.shards.writer import encode_json, write_shard

SHAPE = (4, 3, 5)
FIELDS = embeddings.fields("x.npy", SHAPE, "int8")


def samples(number, count=6):
    rng = np.random.default_rng(number)
    for i in range(count):
        members = embeddings.members("x.npy", rng.normal(size=SHAPE).astype(np.float32), "int8")
        yield f"{number:04}{i:08}_00001", {**members, "json": encode_json({"text": "x" * int(rng.integers(3000))})}


def make(paths):
    for path in paths:
        make.made.append(path.name)
        number = int(path.stem.rpartition("-")[2])
        yield FinishedShard(write_shard(path, samples(number)), (Reject(path.name, "x", "broken"),))


def build(folder, number=3, to=None):
    make.made = []
    sources = {f"train-{k:06d}.tar": str(k) for k in range(number)}
    finished = shard_by_shard(folder / "scratch", sources, make, lambda *_: None, to)
    publish_shards(folder / "scratch", folder / "out", finished, "features/x", FIELDS, {}, to)
    return folder / "out"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "BLOCK", 512)
    monkeypatch.setattr(store, "WAITS_S", (0, 0))


@pytest.fixture
def url(tmp_path):
    return f"file://{tmp_path}/bucket/a"


@pytest.fixture
def asked(monkeypatch):
    """Ranges of each time that the store was asked."""
    calls, read = [], Store.read
    monkeypatch.setattr(Store, "read", lambda self, ranges: calls.append(list(ranges)) or read(self, ranges))
    return calls


# -- writing -----------------------------------------------------------------------------------------------------------


def test_what_is_published_is_that_of_a_local_run_less_its_tars(tmp_path, url):
    here, there = build(tmp_path / "here"), build(tmp_path / "there", to=Store(url))
    tars = {path.name: path.read_bytes() for path in here.glob("*.tar")}
    assert {path.name for path in there.iterdir()} == {path.name for path in here.iterdir()} - tars.keys() | {PLACE}
    for name in ("manifest.json", "index.npy", "rejects.csv"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    sent = {path.name: path.read_bytes() for path in (tmp_path / "bucket/a").iterdir()}
    assert sent == {f"{shard.sha256}.tar": tars[shard.name] for shard in Manifest.read(here).shards}
    assert verify_folder(there, 2) == []


@pytest.mark.parametrize("moment", ["put", "_record", "unlink"])
def test_a_stop_while_a_tar_is_sent_costs_no_shard(tmp_path, url, monkeypatch, moment):
    owner = {"put": Store, "_record": FinishedShard, "unlink": Path}[moment]
    original, calls = getattr(owner, moment), []

    def stopped(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == (4 if moment == "_record" else 2):
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, stopped)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, to=Store(url))
    assert make.made == ["train-000000.tar", "train-000001.tar"]
    out = build(tmp_path, to=Store(url))
    assert make.made == ["train-000002.tar"]
    assert not list(out.glob("*.tar"))
    assert verify_folder(out, 1) == []


def test_scratch_goes_on_when_the_place_changes(tmp_path, url):
    sources = {f"train-{k:06d}.tar": str(k) for k in range(3)}

    def made(to):
        make.made = []
        shard_by_shard(tmp_path / "scratch", sources, make, lambda *_: None, to)
        return make.made, sorted(path.name for path in (tmp_path / "scratch" / SHARDS).iterdir())

    names = [*sources]
    assert made(None) == (names, names)
    assert made(Store(url)) == ([], [])  # what lay here was sent
    (lost,) = list((tmp_path / "bucket/a").glob("*"))[:1]
    lost.unlink()
    assert len(made(Store(url))[0]) == 1
    assert made(Store(f"{url}/b")) == (names, [])
    assert made(None) == (names, names)


def test_a_tar_that_is_there_is_not_sent_again(tmp_path, url, monkeypatch):
    build(tmp_path / "first", to=Store(url))
    before = {path: path.stat().st_ino for path in (tmp_path / "bucket/a").iterdir()}
    build(tmp_path / "second", to=Store(url))
    assert {path: path.stat().st_ino for path in (tmp_path / "bucket/a").iterdir()} == before


# -- reading -----------------------------------------------------------------------------------------------------------


def same(here, there, rows, rng):
    for row in rows:
        parts = rng.permutation(SHAPE[0])[: int(rng.integers(1, 5))].tolist()
        assert there.json(row) == here.json(row)
        assert there.bytes(row, "x.npy") == here.bytes(row, "x.npy")
        assert there.embeddings(row, "x.npy", parts).tobytes() == here.embeddings(row, "x.npy", parts).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("most", [3 << 10, 1 << 30])
def test_members_are_those_of_local_tars_in_any_order(tmp_path, url, monkeypatch, most):
    monkeypatch.setattr(remote.BlockCache, "__init__", limited(most))
    here = ShardReader(build(tmp_path / "here"), "features/x")
    there = ShardReader(build(tmp_path / "there", to=Store(url)), "features/x")
    rng = np.random.default_rng(0)
    for rows in (range(len(here)), rng.permutation(len(here)).tolist(), rng.integers(0, len(here), 30).tolist()):
        there.fetch((row, "x.npy", None) for row in rows[:4])
        same(here, there, rows, rng)


def limited(most):
    original = BlockCache.__init__
    return lambda self, folder, _most: original(self, folder, most)


def test_what_is_announced_is_asked_for_at_once(tmp_path, url, asked):
    reader = ShardReader(build(tmp_path, to=Store(url)), "features/x")
    rows = [17, 2, 9, 5]
    reader.fetch((row, "x.npy", [0, 2]) for row in rows)
    assert len(asked) == 1
    assert len(asked[0]) >= len(rows)
    for row in rows:
        reader.embeddings(row, "x.npy", [0, 2])
    assert len(asked) == 1, "their scales, too"
    with pytest.raises(UserError, match="has no"):
        reader.fetch([(0, "y.npy", None)])


def test_what_is_announced_is_read_once_however_small_the_cache_is(tmp_path, url, asked, monkeypatch):
    monkeypatch.setattr(BlockCache, "__init__", limited(4 * (remote.BLOCK + 4)))
    folder = build(tmp_path, to=Store(url))
    reader = ShardReader(folder, "features/x")
    expected = [(reader.embeddings(row, "x.npy"), reader.bytes(row, "json")) for row in range(len(reader))]
    asked.clear()
    reader.fetch((row, member, None) for row in range(len(reader)) for member in ("json", "x.npy"))
    announced = sum(map(len, asked))
    found = [(reader.embeddings(row, "x.npy"), reader.bytes(row, "json")) for row in range(len(reader))]
    assert sum(map(len, asked)) == announced
    for (array, text), (other, same) in zip(expected, found, strict=True):
        assert np.array_equal(array, other)
        assert text == same
    for path in remote.CACHE.glob("[!.]*"):  # damaged: what is not held is read again
        path.write_bytes(b"")
    reader.fetch([(0, "json", None)])
    assert reader.bytes(0, "json") == expected[0][1]


def test_a_tar_that_is_read_in_order_is_read_ahead(tmp_path, url, asked):
    reader = ShardReader(build(tmp_path, number=1, to=Store(url)), "features/x")
    size = reader.manifest.shards[0].bytes
    assert size > 20 * remote.BLOCK
    for row in range(len(reader)):
        for member in sorted(("json", "x.npy"), key=lambda name: reader.index[name][row, 0]):
            reader.bytes(row, member)
    assert len(asked) < size / remote.BLOCK / 8
    blocks = [begin // remote.BLOCK for ranges in asked for _, begin, _ in ranges]
    assert len(blocks) == len(set(blocks)), "none twice"


def test_many_places_in_order_take_each_block_once(tmp_path, url, monkeypatch):
    reader = ShardReader(build(tmp_path, number=1, to=Store(url)), "features/x")
    places = np.concatenate([reader.index["json"], reader.index["x.npy"]])
    places = places[np.argsort(places[:, 0])]
    tar, taken, get = reader._tar(0), [], BlockCache.get
    expected = [tar.read(place) for place in places.tolist()]
    monkeypatch.setattr(BlockCache, "get", lambda cache, name: taken.append(name) or get(cache, name))
    assert tar.read_many(places) == expected
    assert len(taken) == len(set(taken)) > 20
    with pytest.raises(UserError, match="is cut off"):
        tar.read_many(np.array([[-1, 2]]))


@pytest.mark.slow
def test_a_damaged_block_is_read_again(tmp_path, url):
    folder = build(tmp_path, to=Store(url))
    reader = ShardReader(folder, "features/x")
    expected = [reader.bytes(row, "json") for row in range(len(reader))]
    rng = np.random.default_rng(0)
    damages = [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: d[:-1], lambda d: bytes(len(d)), lambda d: d + b"x"]
    for path in remote.CACHE.glob("[!.]*"):
        path.write_bytes(damages[int(rng.integers(len(damages)))](path.read_bytes()))
    assert [reader.bytes(row, "json") for row in range(len(reader))] == expected
    shutil.rmtree(remote.CACHE)
    reader = ShardReader(folder, "features/x")
    assert [reader.bytes(row, "json") for row in range(len(reader))] == expected


@pytest.mark.slow
def test_a_forked_process_reads_too(tmp_path, url):
    reader = ShardReader(build(tmp_path, to=Store(url)), "features/x")
    expected = [reader.bytes(row, "json") for row in range(len(reader))]
    shutil.rmtree(remote.CACHE)
    remote.CACHE.mkdir()
    read.reader = reader
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read, range(len(reader))) == expected


def read(row):
    return read.reader.bytes(row, "json")


# -- the cache ---------------------------------------------------------------------------------------------------------


def held(cache):
    return sum(path.stat().st_size for path in cache.folder.glob("*") if path.name != ".bytes")


def test_the_cache_keeps_what_was_used_last_within_its_bound(tmp_path):
    cache = BlockCache(tmp_path / "cache", 10_000)
    for number in range(100):
        cache.put(f"a-{number}", bytes([number]) * 996)
        assert cache.get("a-0") == bytes(996), "used each time"
        assert held(cache) <= 10_000
    assert cache.get("a-99") == bytes([99]) * 996
    assert cache.get("a-50") is None
    (tmp_path / "cache/.b-1").write_bytes(b"what a kill has left")
    for number in range(100, 120):
        cache.put(f"a-{number}", bytes(996))
    assert not (tmp_path / "cache/.b-1").exists()
    (tmp_path / "cache/.bytes").unlink()
    cache.put("b-2", bytes(996))
    assert 5_000 < held(cache) <= 10_000


def use(folder, seed):
    cache, rng = BlockCache(folder, 30_000), np.random.default_rng(seed)
    most = 0
    for number in rng.integers(0, 60, 400).tolist():
        block = bytes([number]) * (500 + number)
        found = cache.get(f"a-{number}")
        assert found in (None, block)
        if found is None:
            cache.put(f"a-{number}", block)
        most = max(most, sum(size(path) for path in folder.glob("a-*")))
    return most


def size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_processes_share_the_cache_and_its_bound(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        most = pool.starmap(use, [(tmp_path / "cache", seed) for seed in range(3)])
    assert 15_000 < max(most) <= 30_000


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_what_is_missing_or_changed_is_told_with_its_url(tmp_path, url):
    folder = build(tmp_path, to=Store(url))
    first = Manifest.read(folder).shards[0]
    tar = tmp_path / "bucket/a" / f"{first.sha256}.tar"
    whole = tar.read_bytes()
    reader = ShardReader(folder, "features/x")
    tar.unlink()
    with pytest.raises(StoreError, match=rf"{url}/{first.sha256}\.tar is missing"):
        reader.json(0)
    with pytest.raises(StoreError, match=rf"{url}/{first.sha256}\.tar is missing; put it back"):
        ShardReader(folder, "features/x")
    assert [fault.text for fault in verify_folder(folder, 1)] == ["is missing"]
    tar.write_bytes(whole[:2000])
    with pytest.raises(StoreError, match="is cut off"):
        reader.json(5)
    with pytest.raises(StoreError, match=rf"has 2000 bytes, {len(whole)} were written"):
        ShardReader(folder, "features/x")
    tar.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    (fault,) = verify_folder(folder, 1)
    assert "sha256 differs" in fault.text
    (folder / PLACE).write_text("{")
    with pytest.raises(UserError, match=r"place\.json is damaged"):
        ShardReader(folder, "features/x")


def test_a_store_that_is_away_is_tried_again_and_then_told(tmp_path, url, monkeypatch):
    reader = ShardReader(build(tmp_path, to=Store(url)), "features/x")
    fs = reader._remote.store._connection()[0]
    fails, original = [], type(fs).cat_file

    def cat_file(self, *args, **kwargs):
        if fails:
            raise fails.pop()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(fs), "cat_file", cat_file)
    fails[:] = [ConnectionResetError("reset")] * 3
    first = reader.bytes(0, "json")
    assert fails == []
    fails[:] = [TimeoutError("late")] * 9
    with pytest.raises(StoreError, match=r"tar cannot be reached \(TimeoutError.*tried 3 times; .*AWS_ENDPOINT_URL"):
        reader.bytes(12, "json")
    fails[:] = [PermissionError("Forbidden")] * 9
    with pytest.raises(StoreError, match=r"is refused \(Forbidden\).*AWS_ACCESS_KEY_ID"):
        reader.bytes(12, "json")
    fails.clear()
    assert reader.bytes(0, "json") == first


def test_a_full_disk_here_is_no_store_that_is_away(tmp_path, url):
    folder = build(tmp_path, to=Store(url))
    with pytest.raises(OSError, match="No space left"):
        Store(url).get(Manifest.read(folder).shards[0], Path("/dev/full"))


def test_urls_that_cannot_be_used_are_told(monkeypatch):
    with pytest.raises(UserError, match="must be a URL"):
        Store("bucket/prefix")
    with pytest.raises(UserError, match=r"gopher2://x is no URL that is known here"):
        Store("gopher2://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"needs a package .*\[s3\]"):
        Store("s3://bucket")


def test_places_beyond_a_tar_are_refused(tmp_path, url):
    folder = build(tmp_path, number=1, to=Store(url))
    (shard,) = Manifest.read(folder).shards
    tars = remote.remote_tars(folder)
    assert tars.read(shard, (0, 0)) == b""
    assert len(tars.read(shard, (0, shard.bytes))) == shard.bytes
    with pytest.raises(UserError, match="is cut off"):
        tars.read(shard, (shard.bytes - 1, 2))


def test_the_bound_is_that_of_params_yaml(tmp_path, url):
    folder = build(tmp_path, number=1, to=Store(url))
    assert remote.remote_tars(folder).cache.most == 8192 << 20
    Path("params.yaml").write_text("storage: {cache_mib: 64}\n")
    assert remote.remote_tars(folder).cache.most == 64 << 20
    Path("params.yaml").write_text("storage: {cache_mib: 1}\n")
    with pytest.raises(UserError, match=r"storage\.cache_mib"):
        remote.remote_tars(folder)
