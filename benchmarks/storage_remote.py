"""Shards in object storage, with latency, over those on this disk: prints one JSON object.

    python benchmarks/storage_remote.py [--models 1000] [--latency-ms 20]

The server is moto's, a process on this machine, behind a proxy that answers 20 ms later; what is read over that says
little of S3's own bandwidth, and all of what waiting costs.

Rates are of float16 image features, 8 views of 16 tokens of 768 numbers, in random order, 32 samples at a time, as
training asks for them: ``mib_per_s_local`` from tars on the disk, in the page cache; ``mib_per_s_remote`` from the
store, with an empty cache; ``mib_per_s_cached`` once more, when all is in the cache; ``mib_per_s_one_by_one`` from the
store, with an empty cache, where nothing is announced.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import in_child, parse
from _object_storage import environment, object_storage, send
from reader import SHAPE, make_shards

from pipeline.runtime.seeds import generator
from pipeline.shards.reader import ShardReader
from pipeline.shards.storage.remote import CACHE

TOGETHER = 32  # samples of a step
PER_SHARD = 16  # the server copies all of a tar for each range of it, so tars are small: 3 MiB


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    arguments = parse(parser, models=40)
    with tempfile.TemporaryDirectory() as name, object_storage(Path(name), arguments.latency_ms / 1000) as (_, proxy):
        os.environ.update(environment(proxy))
        folder = Path(name) / "rates"
        folder.mkdir()
        found = in_child(folder, rates, arguments.models)
    print(json.dumps({**found, "latency_ms": arguments.latency_ms, "models": arguments.models}))


if __name__ == "__main__":
    main()
