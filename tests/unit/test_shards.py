"""Shards: reproducible, checked, readable by anyone."""

import contextlib
import errno
import gc
import json
import os
import signal
import subprocess
import threading

import numpy as np
import pytest
import webdataset

from pipeline.features.verify import verify_folder
from pipeline.runtime.atomic import atomic_folder, atomic_open, exclusive
from pipeline.runtime.errors import Reject, UserError
from pipeline.runtime.scratch import work_folder
from pipeline.shards import embeddings
from pipeline.shards.building import write_manifest
from pipeline.shards.index import INDEX, shard_rows
from pipeline.shards.manifest import Manifest, read_rejects, write_rejects
from pipeline.shards.reader import ShardReader
from pipeline.shards.stream import stream
from pipeline.shards.writer import encode_array, encode_json, write_shard


def samples(seed=0, count=5):
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield (
            f"000{seed}{i:08d}_00001",
            {"json": encode_json({"id": i}), "x.npy": encode_array(rng.random((3, 2)).astype(np.float16))},
        )


FIELDS = {"x.npy": {"shape": [3, 2], "dtype": "float16"}}


@pytest.fixture
def folder(tmp_path):
    shards = [write_shard(tmp_path / f"train-{k:06d}.tar", samples(k)) for k in range(2)]
    write_manifest(tmp_path, "features/x", FIELDS, {}, shards)
    return tmp_path


def test_the_same_samples_give_the_same_bytes(tmp_path):
    first, second = (write_shard(tmp_path / name, samples()) for name in ("a-000000.tar", "b-000000.tar"))
    assert first.sha256 == second.sha256
    assert first.split == "a"


def test_any_member_is_read_by_key(folder):
    reader = ShardReader(folder, "features/x")
    expected = {**dict(samples(0)), **dict(samples(1))}
    assert [*reader.keys("train-000000.tar"), *reader.keys("train-000001.tar")] == list(expected)
    for row, key in reversed(list(enumerate(expected))):
        assert reader.row(key) == row
        assert reader.key(row) == key
        assert reader.shard(row).name == f"train-{row // 5:06d}.tar"
        assert encode_array(reader.array(row, "x.npy")) == expected[key]["x.npy"]
        assert reader.json(row) == {"id": row % 5}
    assert reader.find(["1", reader.key(7), ""]).tolist() == [-1, 7, -1]
    with pytest.raises(UserError, match="has no 1"):
        reader.row("1")
    with pytest.raises(UserError, match=r"train-000000\.tar has no .*_00001\.y\.npy"):
        reader.array(3, "y.npy")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_them_without_unpickling(folder, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    dataset = webdataset.WebDataset([str(folder / "train-000000.tar")], shardshuffle=False).decode()
    read = list(dataset)
    assert [sample["__key__"] for sample in read] == [key for key, _ in samples()]
    assert read[0]["x.npy"].dtype == np.float16
    assert read[2]["json"] == {"id": 2}
    gc.collect()  # webdataset leaves its file to the collector


def fault(folder, damage):
    path = folder / "train-000001.tar"
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            os.truncate(path, 3000)
        case "flipped":
            data = bytearray(path.read_bytes())
            data[2000] ^= 1
            path.write_bytes(bytes(data))
        case "swapped":
            path.write_bytes((folder / "train-000000.tar").read_bytes())
        case "extra":
            (folder / "train-000007.tar").write_bytes(path.read_bytes())
    return verify_folder(folder, 2)


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "swapped"])
def test_damage_is_found_and_named(folder, damage):
    assert verify_folder(folder, 2) == []
    (found,) = fault(folder, damage)
    assert found.shard == "train-000001.tar"
    assert damage != "swapped" or found.text == "holds what belongs into train-000000.tar"


def test_a_foreign_shard_is_found(folder):
    (found,) = fault(folder, "extra")
    assert (found.shard, found.text.partition(":")[0]) == ("train-000007.tar", "is not in the manifest")


def test_wrong_arrays_are_found(tmp_path):
    arrays = {
        "a": np.ones((3, 2), np.float16),
        "b": np.full((3, 2), np.nan, np.float16),
        "c": np.ones((2, 2), np.float16),
    }
    arrays["d"] = np.ones((3, 2), np.float32)
    shard = write_shard(tmp_path / "train-000000.tar", ((key, {"x.npy": encode_array(a)}) for key, a in arrays.items()))
    write_manifest(tmp_path, "features/x", FIELDS, {}, [shard])
    with pytest.raises(UserError, match=r"c\.x\.npy has not the shape"):
        ShardReader(tmp_path, "features/x").array(2, "x.npy", [0])
    faults = verify_folder(tmp_path, 1)
    assert len(faults) == 3
    assert "b.x.npy has NaN" in faults[0].text


def test_missing_foreign_and_damaged_folders_are_told(folder, tmp_path):
    with pytest.raises(UserError, match=r"holds features/x, not corpus"):
        ShardReader(folder, "corpus")
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        ShardReader(tmp_path / "nothing", "corpus")
    os.truncate(folder / "train-000000.tar", 1000)
    with pytest.raises(UserError, match="1000 bytes"):
        ShardReader(folder, "features/x")
    (folder / "manifest.json").write_text(
        json.dumps({"schema_version": 1, "kind": "corpus", "fields": {}, "details": {}, "shards": []})
    )
    with pytest.raises(
        UserError, match=r"another version of this program.* schema version 1.*run its pipeline stage again"
    ):
        ShardReader(folder, "corpus")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        ShardReader(folder, "corpus")


def test_a_damaged_index_is_told_and_not_believed(folder):
    path = folder / INDEX
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in [*range(12), *rng.integers(12, len(whole), 40).tolist()]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"index\.npy is damaged"):
            ShardReader(folder, "features/x")
    (found,) = verify_folder(folder, 1)
    assert found.shard == INDEX
    path.unlink()
    with pytest.raises(UserError, match=r"index\.npy is missing; run its pipeline stage again"):
        ShardReader(folder, "features/x")
    (found,) = verify_folder(folder, 1)
    assert found.shard == INDEX
    write_manifest(folder, "features/x", FIELDS, {}, Manifest.read(folder).shards)
    assert path.read_bytes() == whole


def test_an_index_that_says_other_than_the_tars_is_found(folder):
    def shifted(path):
        rows = shard_rows(path)
        rows["x.npy"] += 512 * (path.name == "train-000001.tar")
        return rows

    write_manifest(folder, "features/x", {}, {}, Manifest.read(folder).shards, shifted)
    (found,) = verify_folder(folder, 1)
    assert (found.shard, found.text) == ("train-000001.tar", "is not what index.npy says")


def test_shards_may_differ_in_what_their_samples_have(tmp_path):
    first = write_shard(tmp_path / "train-000000.tar", [("a", {"x.txt": b"1"}), ("abc", {"y.txt": b"22"})])
    second = write_shard(tmp_path / "train-000001.tar", [])
    third = write_shard(tmp_path / "test-000000.tar", [("abcdef", {"x.txt": b"3"})])
    write_manifest(tmp_path, "x", {}, {}, [first, second, third])
    reader = ShardReader(tmp_path, "x")
    assert [reader.key(row) for row in reader.rows()] == ["a", "abc", "abcdef"]
    assert (reader.rows("train").tolist(), reader.rows("test").tolist()) == ([0, 1], [2])
    assert [reader.bytes(0, "x.txt"), reader.bytes(1, "y.txt"), reader.bytes(2, "x.txt")] == [b"1", b"22", b"3"]
    with pytest.raises(UserError, match=r"has no abc\.x\.txt"):
        reader.bytes(1, "x.txt")
    assert verify_folder(tmp_path, 1) == []


@pytest.mark.parametrize("dtype", embeddings.DTYPES)
def test_two_of_eight_views_are_a_quarter_of_the_bytes(tmp_path, monkeypatch, dtype):
    tokens = np.random.default_rng(0).normal(size=(8, 4, 64)).astype(np.float32)
    shard = write_shard(tmp_path / "train-000000.tar", [("a", embeddings.members("image.npy", tokens, dtype))])
    write_manifest(tmp_path, "features/image", embeddings.fields("image.npy", tokens.shape, dtype), {}, [shard])
    reader, read, pread = ShardReader(tmp_path, "features/image"), [], os.pread

    def counted(fd, size, offset):
        read.append(size)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    reader.embeddings(0, "image.npy", (2, 7))
    width = {"float16": 2 * 64, "bfloat16": 2 * 64, "int8": 64 + 4}[dtype]
    assert sum(read) == 2 * 4 * width


def test_rejects_are_written_in_order_and_read_back(tmp_path):
    rejects = [Reject("b", "corpus", "too_long", 'with "quotes", and\nlines'), Reject("a", "corpus", "bad_id")]
    write_rejects(tmp_path, sorted(rejects))
    assert read_rejects(tmp_path) == sorted(rejects)
    text = (tmp_path / "rejects.csv").read_text()
    assert text.startswith("id,pipeline_stage,reason,detail\na,corpus,bad_id,\n")
    (tmp_path / "rejects.csv").write_text(text.replace("pipeline_stage", "step"))  # as it was called before
    assert read_rejects(tmp_path) == sorted(rejects)


def test_files_and_folders_appear_whole_or_not_at_all(tmp_path):
    def fail():
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError), atomic_open(tmp_path / "file") as file:
        file.write("half")
        fail()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as folder:
        (folder / "x").write_text("half")
        fail()
    assert list(tmp_path.iterdir()) == []
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / text).write_text(text)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]


def test_scratch_is_held_by_one_process(tmp_path):
    with exclusive(tmp_path / "x"), pytest.raises(UserError, match="another process"), exclusive(tmp_path / "x"):
        pass


def test_a_lock_of_a_process_that_torchrun_lost_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = ("train", __name__, {}, {})
    with work_folder(*folder) as held:
        pass
    holder = subprocess.Popen(["flock", held.with_name(f".{held.name}.lock"), "sleep", "60"], start_new_session=True)
    while True:  # until it has the lock
        with contextlib.suppress(UserError), work_folder(*folder):
            continue
        break
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    later = threading.Timer(0.5, os.killpg, (holder.pid, signal.SIGKILL))
    later.start()
    with work_folder(*folder):
        assert later.finished.is_set()
    holder.wait()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("dtype", embeddings.DTYPES)
def test_embeddings_come_back_rounded_by_key_and_as_a_stream(tmp_path, dtype, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    rng = np.random.default_rng(0)
    samples = {f"0000{i:08d}": (rng.normal(size=(2, 3, 8)) * 10.0**i).astype(np.float32) for i in range(-3, 4)}
    made = ((key, embeddings.members("image.npy", tokens, dtype)) for key, tokens in samples.items())
    shard = write_shard(tmp_path / "train-000000.tar", made)
    fields = embeddings.fields("image.npy", (2, 3, 8), dtype)
    write_manifest(tmp_path, "features/image", fields, {}, [shard])
    assert verify_folder(tmp_path, 1) == []
    reader = ShardReader(tmp_path, "features/image")
    error = {"float16": 2**-11, "bfloat16": 2**-8, "int8": 0.5 / 127}[dtype]
    streamed = dict(stream(str(tmp_path / "train-{000000..000000}.tar"), fields))
    for key, tokens in samples.items():
        row = reader.row(key)
        back = reader.embeddings(row, "image.npy")
        largest = np.abs(tokens).max(axis=-1, keepdims=True) if dtype == "int8" else np.abs(tokens)
        assert (np.abs(back.astype(np.float64) - tokens) <= largest * error * 1.001 + 6e-8).all()
        assert np.array_equal(back, embeddings.rounded(tokens, dtype))
        assert np.array_equal(back, streamed[key]["image.npy"])
        for views in ([1], [0, 1], [1, 0], []):
            assert np.array_equal(reader.embeddings(row, "image.npy", views), back[views])
    gc.collect()  # webdataset leaves its file to the collector


def test_what_float16_cannot_hold_is_clipped():
    assert embeddings.rounded(np.array([[1e9, -1e9, 0.5]], np.float32), "float16").tolist() == [
        [65504.0, -65504.0, 0.5]
    ]
    assert embeddings.rounded(np.zeros((2, 3), np.float32), "int8").tolist() == [[0.0] * 3] * 2


def test_keys_are_compared_with_the_corpus(tmp_path):
    keys = [f"0000{i:08d}_00001" for i in range(5)]
    corpus = tmp_path / "corpus"
    shard = write_shard(corpus / "train-000000.tar", ((key, {"json": b"{}"}) for key in keys))
    write_manifest(corpus, "corpus", {}, {}, [shard])

    def faults(present, rejected=()):
        folder = tmp_path / "features"
        folder.mkdir(exist_ok=True)
        array = encode_array(np.ones((1, 2), np.float16))
        shard = write_shard(folder / "train-000000.tar", ((key, {"x.npy": array}) for key in present))
        fields = {"x.npy": {"shape": [1, 2], "dtype": "float16"}}
        write_manifest(folder, "features/x", fields, {}, [shard])
        write_rejects(folder, [Reject(key, "features/x", "not_finite") for key in rejected])
        return [fault.text for fault in verify_folder(folder, 1, corpus)]

    assert faults(keys) == []
    assert faults(keys[:3] + keys[4:], rejected=[keys[3]]) == []
    assert faults(keys[:3]) == [f"lacks {keys[3]} (and 1 more)"]
    assert faults([*keys, "0009x"]) == ["holds 0009x, which the corpus' shard does not (and 0 more)"]
    assert faults([keys[1], keys[0], *keys[2:]]) == ["has its samples in another order than the corpus"]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_shard_that_is_broken_off_leaves_nothing_that_writes_later(tmp_path):
    def broken_off():
        yield from samples()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / "train-000000.tar", broken_off())
    gc.collect()
    assert list(tmp_path.iterdir()) == []
