"""Shards in object storage: a real server of S3, which is slow, killed and started again; and DVC's remote there."""

import hashlib
import shutil
import threading
import time

import pytest

from benchmarks._object_storage import BUCKET, environment, object_storage
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardReader
from pipeline.shards.storage import store
from tests.func.test_interruption import contents

URL = f"s3://{BUCKET}/project"
PLACE = f'{{"url": "{URL}"}}\n'.encode()
FOLDERS = ("data/corpus", "data/geometry", "data/features/point_cloud", "data/features/image")
COMMANDS = (
    ("cadmllm", "corpus"),
    ("cadmllm", "geometry"),
    ("cadmllm", "features", "--modality", "point_cloud"),
    ("cadmllm", "features", "--modality", "image"),
)


@pytest.fixture
def served(tmp_path):
    """The server and the proxy before it, which adds 20 ms."""
    with object_storage(tmp_path, latency_s=0.02, recorded=True) as both:
        yield both


def use(project, served):
    project.env |= environment(served[1])
    project.change("shards: null", f"shards: {URL}")


def given(monkeypatch, served):
    """What a project is given to find the server, for this process."""
    for key, value in environment(served[1]).items():
        monkeypatch.setenv(key, value)


def elsewhere(done, folder):
    """What a folder has whose tars are in the bucket."""
    here = {name: digest for name, digest in contents(done.folder / folder).items() if not name.endswith(".tar")}
    return here | {"place.json": hashlib.sha256(PLACE).hexdigest()}


def test_stages_write_and_read_there_what_they_do_here(done, copy, served):
    use(copy, served)
    for command in COMMANDS:
        copy.run(*command)
    for folder in FOLDERS:
        assert contents(copy.folder / folder) == elsewhere(done, folder), folder
        assert copy.read(f"{folder}/place.json") == PLACE
    served[1].latency_s = 0.3  # slower yet
    assert copy.call("verify").count(": ok") == len(FOLDERS)
    served[1].latency_s = 0.02
    copy.run("cadmllm", "train", "stage3_all")
    name = "checkpoints/stage3_all"
    assert contents(copy.folder / name) == contents(done.folder / name)
    blocks = [path.stat().st_size for path in (copy.folder / "scratch/blocks").glob("[!.]*")]
    assert len(blocks) > 3
    copy.call("export", "dataset", "exported")
    for folder in (folder for folder in FOLDERS if folder != "data/geometry"):
        for shard in Manifest.read(done.folder / folder).shards:
            exported = copy.folder / "exported" / folder.removeprefix("data/") / shard.name
            assert exported.read_bytes() == (done.folder / folder / shard.name).read_bytes()


def test_a_server_that_is_killed_and_comes_back_costs_nothing(done, copy, served, monkeypatch):
    server, _ = served
    use(copy, served)
    folder = copy.folder / "data/features/image"
    shutil.rmtree(folder)
    process = copy.start("cadmllm", "features", "--modality", "image")
    while not (records := list(copy.folder.glob("scratch/features-image/*/*.done.json"))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    server.kill()
    time.sleep(4)
    assert process.poll() is None
    assert len(records) < len(Manifest.read(done.folder / "data/features/image").shards)
    server.start()
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert contents(folder) == elsewhere(done, "data/features/image")
    assert "shards are fine" in copy.call("features", "verify", "--modality", "image")
    monkeypatch.chdir(copy.folder)
    given(monkeypatch, served)
    here, there = (ShardReader(each, "features/image") for each in (done.folder / "data/features/image", folder))
    server.kill()
    back = threading.Timer(3, server.start)
    back.start()
    there.fetch((row, "image.npy", None) for row in range(len(here)))
    assert all(there.bytes(row, "image.npy") == here.bytes(row, "image.npy") for row in range(len(here)))
    back.join()


@pytest.mark.longer
def test_a_server_that_stays_away_is_told_and_finished_work_kept(done, copy, served, monkeypatch):
    server, _ = served
    use(copy, served)
    monkeypatch.setattr(store, "WAITS_S", (0.1, 0.1))
    server.kill()
    said = copy.call("features", "--modality", "point_cloud", code=1)
    assert f"error: {URL}/" in said
    assert "AWS_ENDPOINT_URL" in said
    assert list(copy.folder.glob("scratch/features-point_cloud/*/shards/*.tar")), "the finished one"
    server.start()
    refused = {**copy.env, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    copy.env, allowed = refused, copy.env
    assert "is refused (Unable to locate credentials)" in copy.call("features", "--modality", "point_cloud", code=1)
    copy.env = allowed
    copy.change(URL, "s3://elsewhere")
    assert "no such bucket, or the tar was removed" in copy.call("features", "--modality", "point_cloud", code=1)
    copy.change("s3://elsewhere", URL)
    said = copy.call("features", "--modality", "point_cloud")
    assert "1 of " in said
    assert contents(copy.folder / "data/features/point_cloud") == elsewhere(done, "data/features/point_cloud")


def test_a_tar_that_was_damaged_there_is_made_again(copy, served, monkeypatch):
    use(copy, served)
    copy.call("features", "--modality", "point_cloud")
    shard = Manifest.read(copy.folder / "data/features/point_cloud").shards[1]
    before = contents(copy.folder / "data/features/point_cloud")
    given(monkeypatch, served)
    there = store.Store(URL)
    fs, root = there._connection()
    data = bytearray(fs.cat_file(f"{root}/{shard.sha256}.tar"))
    data[1500] ^= 1
    fs.pipe_file(f"{root}/{shard.sha256}.tar", bytes(data))
    said = copy.call("features", "verify", "--modality", "point_cloud", code=1)
    assert f"{shard.name}: has changed since it was written" in said
    assert "1 shards made again, 1 with the bytes" in copy.call("features", "verify", "--rebuild")
    assert "shards are fine" in copy.call("features", "verify", "--modality", "point_cloud")
    assert contents(copy.folder / "data/features/point_cloud") == before


@pytest.mark.longer
def test_dvc_pushes_to_and_pulls_from_the_same_server(done, copy, served):
    copy.env |= environment(served[1])
    copy.run("dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    outs = ("data/corpus", "data/features/image")
    copy.run("dvc", "push", *outs)
    for place in (*outs, ".dvc/cache"):
        shutil.rmtree(copy.folder / place)
    copy.run("dvc", "pull", *outs)
    for folder in outs:
        assert contents(copy.folder / folder) == contents(done.folder / folder)
