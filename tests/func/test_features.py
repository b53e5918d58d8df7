"""The feature store: damage is found, named and repaired; settings change what is stored, and nothing else."""

import dataclasses
import json
import random
import signal
import time

import numpy as np
import pytest

from pipeline.shards.building import write_manifest
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import encode_array, write_shard
from tests.conftest import longer
from tests.func.test_interruption import contents

NAME = "train-000001.tar"


def with_nan(folder):
    """A shard with a NaN that its manifest knows nothing of: sha256 and count are right."""
    manifest = Manifest.read(folder)
    reader = ShardReader(folder, manifest.kind)
    arrays = {reader.key(row): reader.array(row, "image.npy").copy() for row in reader.rows_of(NAME)}
    next(iter(arrays.values()))[0, 0, 0] = np.nan
    shard = write_shard(folder / NAME, ((key, {"image.npy": encode_array(a)}) for key, a in arrays.items()))
    shards = tuple(shard if s.name == NAME else s for s in manifest.shards)
    dataclasses.replace(manifest, shards=shards).write(folder)


def damage(folder, kind):
    path, other = folder / NAME, folder / "train-000000.tar"
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-3000])
        case "flipped":
            data = bytearray(path.read_bytes())
            data[1500] ^= 1
            path.write_bytes(bytes(data))
        case "missing":
            path.unlink()
        case "swapped":
            first, second = path.read_bytes(), other.read_bytes()
            path.write_bytes(second)
            other.write_bytes(first)
        case "nan":
            with_nan(folder)


def test_damage_is_found_named_and_repaired(copy):
    folder = copy.folder / "data/features/image"
    before = contents(folder)
    said = {
        "truncated": "has changed since it was written",
        "flipped": "has changed since it was written",
        "missing": "is missing",
        "swapped": "holds what belongs into train-000000.tar",
        "nan": "has NaN or infinity",
    }
    assert "shards are fine" in copy.call("features", "verify")
    for kind, message in said.items():
        damage(folder, kind)
        kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.tar")}
        output = copy.call("features", "verify", "--modality", "image", code=1)
        assert any(NAME in line and message in line for line in output.splitlines()), output
        assert "--rebuild" in output
        repaired = copy.call("features", "verify", "--rebuild")
        assert ("2 shards made again" if kind == "swapped" else "1 shards made again") in repaired
        assert contents(folder) == before, kind
        untouched = {name for name in kept if name != NAME and not (kind == "swapped" and name == "train-000000.tar")}
        assert all((folder / name).stat().st_mtime_ns == kept[name] for name in untouched)
    assert "didn't change" in copy.run("dvc", "repro", "--dry", "features@image")


def test_a_damaged_index_is_told_and_mended(copy):
    folder = copy.folder / "data/features/image"
    before = contents(folder)
    data = bytearray(copy.read("data/features/image/index.npy"))
    data[-1] ^= 1
    (folder / "index.npy").write_bytes(data)
    assert "index.npy is damaged" in copy.call("train", "stage3_all", code=1)
    assert "index.npy is damaged" in copy.call("features", "verify", "--modality", "image", code=1)
    copy.call("features", "verify", "--rebuild")
    assert contents(folder) == before


def test_rebuild_wants_the_encoder_that_was_used(copy):
    folder = copy.folder / "data/features/image"
    damage(folder, "missing")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["details"]["encoder"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    output = copy.call("features", "verify", "--rebuild", code=1)
    assert "was made with another encoder" in output


@pytest.mark.parametrize("dtype", [longer("bfloat16"), "int8"])
def test_other_dtypes_go_through_the_whole_pipeline(copy, dtype):
    truth = ShardReader(copy.folder / "data/features/image", "features/image")
    name = truth.manifest.shards[0].name
    rows = truth.rows_of(name)
    before = {row: truth.embeddings(row, "image.npy").astype(np.float64).ravel() for row in rows}
    copy.change("dtype: float16", f"dtype: {dtype}")  # of images
    copy.run("dvc", "repro", "train@stage3_all")
    stored = ShardReader(copy.folder / "data/features/image", "features/image")
    assert stored.manifest.fields["image.npy"]["encoding"] == dtype
    assert stored.keys(name) == truth.keys(name)
    for row in rows:
        a, b = before[row], stored.embeddings(row, "image.npy").astype(np.float64).ravel()
        assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.999
    assert "shards are fine" in copy.call("features", "verify")


def test_a_sample_that_cannot_be_read_costs_itself(copy):
    folder = copy.folder / "data/geometry"
    reader = ShardReader(folder, "geometry")
    name = reader.manifest.shards[0].name
    keys = reader.keys(name)
    members = {
        reader.key(row): {ext: reader.bytes(row, ext) for ext in ("points.npy", "view0.png", "view1.png")}
        for row in reader.rows_of(name)
    }
    members[keys[1]]["view1.png"] = members[keys[1]]["view1.png"][:60]
    shard = write_shard(folder / name, iter(members.items()))
    manifest = reader.manifest
    shards = [shard if s.name == name else s for s in manifest.shards]
    write_manifest(folder, manifest.kind, manifest.fields, manifest.details, shards)
    output = copy.run("cadmllm", "features", "--modality", "image")
    assert "1 rejected" in output
    rejects = (copy.folder / "data/features/image/rejects.csv").read_text()
    assert f"{keys[1]},features/image,unreadable_input" in rejects
    assert "shards are fine" in copy.call("features", "verify", "--modality", "image")


def test_killed_at_any_moment_the_shards_are_the_same(copy):
    rng = random.Random(0)
    folder, command = copy.folder / "data/features/image", ("cadmllm", "features", "--modality", "image")
    before, undisturbed, started = contents(folder), copy.start(*command), time.monotonic()
    undisturbed.communicate()
    whole_s, killed = time.monotonic() - started, 0
    for _ in range(6):
        process = copy.start(*command)
        time.sleep(rng.uniform(0.2, 0.9) * whole_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed > 0
    copy.run(*command)
    assert contents(folder) == before
