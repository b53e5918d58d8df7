"""Shards in object storage, with latency, over those on this disk: prints one JSON object.

    python benchmarks/storage_remote.py [--models 1000] [--trained 10000] [--latency-ms 20]

The server is moto's, a process on this machine, behind a proxy that answers 20 ms later; what is read over that says
little of S3's own bandwidth, and all of what waiting costs.

Rates are of float16 image features, 8 views of 16 tokens of 768 numbers, in random order, 32 samples at a time, as
training asks for them: ``mib_per_s_local`` from tars on the disk, in the page cache; ``mib_per_s_remote`` from the
store, with an empty cache; ``mib_per_s_cached`` once more, when all is in the cache; ``mib_per_s_one_by_one`` from the
store, with an empty cache, where nothing is announced.

Memory is that of a process which trains an epoch of `stage3_all` on so many tiny models (``benchmarks/scale.py``), all
tars of which are in the store, with the smallest cache, 16 MiB, which does not hold all of them: resident memory after
10% of the steps, ``rss_mib_at_10_percent``, and at the end, ``rss_mib_at_100_percent``. ``epoch_read_mib`` came from
the store, ``epoch_mib`` is what the tars have.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import _scale_corpus as corpus
import _scale_project as project
import numpy as np
from _common import in_child, parse
from _object_storage import BUCKET, environment, object_storage
from reader import SHAPE, make_shards, resident_mib

from pipeline.planning import presets
from pipeline.runtime.seeds import generator
from pipeline.settings.places import CORPUS, FEATURES
from pipeline.settings.yaml_files import read_yaml
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardReader
from pipeline.shards.storage.remote import CACHE
from pipeline.shards.storage.settings import LEAST_MIB
from pipeline.shards.storage.store import Store, write_place

TOGETHER = 32  # samples of a step
# The server copies all of a tar for each range of it, so tars are small: 3 MiB, and 2 MiB.
PER_SHARD, PER_SHARD_OF_TINY = 16, 250
URL = f"s3://{BUCKET}/benchmark"


def send(folder: Path) -> None:
    """Have the tars of a folder in the store, and there alone."""
    store = Store(URL)
    for shard in Manifest.read(folder).shards:
        store.put(folder / shard.name, shard)
        (folder / shard.name).unlink()
    write_place(folder, URL)


def mib_per_s(folder: Path, announced: bool = True) -> float:
    """All samples of a folder, each once."""
    reader = ShardReader(folder, "features/image")
    order = generator("storage").permutation(len(reader)).tolist()
    size, started = 0, time.perf_counter()
    for at in range(0, len(order), TOGETHER):
        rows = order[at : at + TOGETHER]
        if announced:
            reader.fetch((row, "image.npy", None) for row in rows)
        size += sum(reader.embeddings(row, "image.npy").nbytes for row in rows)
    return size / 2**20 / (time.perf_counter() - started)


def rates(models: int) -> dict[str, float]:
    """Reading rates, in the folder of this process."""
    tokens = generator("features").normal(size=SHAPE).astype(np.float32)
    here, there = Path("here"), Path("there")
    make_shards(here, models, PER_SHARD, tokens)
    shutil.copytree(here, there)
    send(there)
    local = mib_per_s(here)
    remote = mib_per_s(there)
    cached = mib_per_s(there)
    shutil.rmtree(CACHE)
    found = {"local": local, "remote": remote, "cached": cached, "one_by_one": mib_per_s(there, announced=False)}
    return {f"mib_per_s_{name}": round(rate, 1) for name, rate in found.items()} | {
        "remote_over_local": round(remote / local, 4),
        "cached_over_local": round(cached / local, 3),
    }


def make_project(folder: Path, models: int) -> None:
    """A project with its tars in the store, up to the stage before the last."""
    data = Path("data/raw/Omni-CAD")
    project.make_project(folder, data, PER_SHARD_OF_TINY)
    document = read_yaml(folder / "params.yaml")
    presets.merge(document, {"storage": {"cache_mib": LEAST_MIB}}, "")
    presets.write(document, folder / "params.yaml")
    corpus.make_folder(folder / data, models)
    for make in (corpus.corpus, project.make_models, project.make_outs, send_all, train_parent):
        in_child(folder, make)


def send_all() -> None:
    """All that the last stage reads."""
    for place in (CORPUS, *(FEATURES / modality for modality in project.SHAPES)):
        send(place)


def train_parent() -> None:
    """``cadmllm train`` of the stage before."""
    from training import run_command

    run_command(f"train {project.PARENT}")


def memory() -> dict[str, float]:
    """An epoch of the last stage, in the project of this folder and in this process."""
    from scale import train_steps
    from training import make_trainer, set_up

    p, model, (data, validation) = set_up(project.STAGE, ("train", "validation"))
    trainer = make_trainer(p, project.STAGE, model, data, validation)
    trainer.validate_where_due()
    steps = trainer.plan.steps_per_epoch
    train_steps(trainer, max(1, steps // 10))
    before = resident_mib()
    train_steps(trainer, steps - max(1, steps // 10))
    after = resident_mib()
    trainer.steps.close()
    size = sum(shard.bytes for reader in (data.corpus, *data.features.values()) for shard in reader.manifest.shards)
    return {
        "rss_mib_at_10_percent": round(before, 1),
        "rss_mib_at_100_percent": round(after, 1),
        "epoch_samples": len(data),
        "epoch_steps": steps,
        "epoch_mib": round(size / 2**20, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000, help="whose features are read for the rates")
    parser.add_argument("--trained", type=int, default=10_000, help="models of the epoch")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    arguments = parse(parser, models=40, trained=200)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, object_storage(Path(name), arguments.latency_ms / 1000) as (_, proxy):
        os.environ.update(environment(proxy))
        for part in ("rates", "project"):
            (Path(name) / part).mkdir()
        found |= in_child(Path(name) / "rates", rates, arguments.models)
        print(found, file=sys.stderr, flush=True)
        make_project(Path(name) / "project", arguments.trained)
        read = proxy.passed
        found |= in_child(Path(name) / "project", memory)
        found["epoch_read_mib"] = round((proxy.passed - read) / 2**20, 1)
    print(json.dumps({**found, "latency_ms": arguments.latency_ms, "models": arguments.models}))


if __name__ == "__main__":
    main()
