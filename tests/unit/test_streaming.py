"""Many models: one that is slow holds up nobody, and memory does not grow."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.corpus import build
from pipeline.execution.pool import AHEAD, Failure, Here
from pipeline.execution.workers import Workers
from pipeline.geometry import build as geometry
from pipeline.planning.params import Params
from pipeline.planning.presets import compose
from pipeline.runtime.scratch import RECORDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]  # not from conftest: processes that import this file need no torch
WORKERS = 2
PER_FOLDER = 500
COUNT = AHEAD * WORKERS + 20  # more than results in order would be waited for
SHARD_SIZE = 5


def write_dataset(folder, count, caption="a part", model="{}"):
    (folder / "txt").mkdir(parents=True)
    for start in range(0, count, PER_FOLDER):
        place = f"{start // PER_FOLDER:04d}"
        names = [f"{place}/{number:08d}_00001" for number in range(start, min(start + PER_FOLDER, count))]
        (folder / "json" / place).mkdir(parents=True)
        for name in names:
            (folder / f"json/{name}.json").write_text(model)
        rows = [{"id": name, "text caption": caption} for name in names]
        (folder / f"txt/{place}.json").write_text(json.dumps(rows))


def trivial(task):
    """A record with nothing built."""
    return {
        "id": task.entry.id,
        "key": task.entry.key,
        "caption": task.entry.caption,
        "program": json.loads(task.text),
        "program_hash": task.identity[:16],
        "frame": {"centre": [0, 0, 0], "scale": 1},
        "statistics": {"num_extrudes": 1, "num_curves": 1},
        "tokens": [1, 2, 3],
    }


def slow_first(task):
    """The first model is ready when all others are in the journal, which its text names and another process holds."""
    journal = Path(json.loads(task.text))
    while task.entry.id.endswith("00000000_00001"):
        written = b"".join(part.read_bytes() for part in journal.parent.glob(f"{journal.name}*"))
        if len(set(re.findall(rb"0000/\d{8}_00001", written))) == COUNT - 1:
            break
        time.sleep(0.05)
    return trivial(task)


def params_of(folder, shard_size=100):
    p = Params.parse(compose("smoke"), "smoke")
    data = {"source": "omnicad", "path": str(folder / "raw"), "shard_size": shard_size}
    return p.model_copy(
        update={"data": p.data.model_copy(update=data), "kernel": p.kernel.model_copy(update={"timeout_s": 60})}
    )


def build_all(folder, p=None):
    p = p or params_of(folder)
    return build.build_corpus(
        p.data, p.codec, p.kernel, 0, folder / "scratch", folder / "out", Workers(WORKERS), lambda *_: None
    )


def test_one_slow_model_holds_up_nobody(tmp_path, monkeypatch):
    write_dataset(tmp_path / "raw", COUNT, model=json.dumps(str(tmp_path / "scratch" / RECORDS)))
    monkeypatch.setattr(build, "prepare", slow_first)
    assert build_all(tmp_path)["accepted"] == COUNT


def slow_begun_first(task):
    """The model that is begun first is ready when so many have begun that some are of the next shard."""
    begun = Path(task.document)
    (begun / task.id.replace("/", "-")).touch()
    try:
        (begun / "slow").mkdir()
    except FileExistsError:
        return {"points.npy": b"quick"}
    while len(list(begun.glob("*_00001"))) <= SHARD_SIZE:
        time.sleep(0.05)
    return {"points.npy": b"slow"}


def test_drawing_goes_on_with_the_next_shard(tmp_path, monkeypatch):
    begun = tmp_path / "begun"
    begun.mkdir()
    write_dataset(tmp_path / "raw", 4 * SHARD_SIZE, model=json.dumps(str(begun)))
    monkeypatch.setattr(build, "prepare", trivial)
    p = params_of(tmp_path, SHARD_SIZE)
    assert build_all(tmp_path, p)["accepted"] == 4 * SHARD_SIZE
    monkeypatch.setattr(geometry, "draw", slow_begun_first)
    folders = tmp_path / "g", tmp_path / "geometry", Workers(WORKERS)
    counts = geometry.build_geometry(tmp_path / "out", p.data, p.geometry, p.kernel, 0, *folders, lambda *_: None)
    assert (counts["samples"], counts["rejected"]) == (4 * SHARD_SIZE, 0)


def in_process(workers, function, *_):
    """A pool without processes."""
    return Here(function)


def every_other(task):
    """Half of the models are rejected, with as much to say of each."""
    return trivial(task) if int(task.entry.id[5:13]) % 2 else Failure("long_story", "d" * 4000)


def peak_mib(folder, count):
    """The most resident memory of a process that makes a corpus of so many models, 6 kB each, or a reject."""
    write_dataset(folder / "raw", count, caption="c" * 2000, model=json.dumps({"name": "x" * 4000}))
    code = (
        "import re, sys, pathlib, webdataset; from tests.unit import test_streaming as test\n"
        "test.build.prepare, test.Workers.pool = test.every_other, test.in_process\n"
        "counts = test.build_all(pathlib.Path(sys.argv[1]))\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(counts['accepted'], int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024)"
    )
    found = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    accepted, peak = found.stdout.split()
    assert int(accepted) == count // 2
    return float(peak)


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """4,500 more are 13 MB of captions and programs and 9 of rejects, and in Python more.

    What grows is SQLite's caches: four, of 2 MB each at most.
    """
    assert peak_mib(tmp_path / "many", 5_000) - peak_mib(tmp_path / "few", 500) < 10
