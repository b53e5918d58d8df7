"""Reading features in training order over reading the same bytes with ``cat``: prints one JSON object.

    python benchmarks/reader.py [--models 50000] [--per-shard 1000]

Shards of float16 image features, 8 views of 16 tokens of 768 numbers, read in random order as training does, after
``cat`` of all files has filled the page cache. ``over_cat`` is the ratio of bytes per second where whole samples are
read, which is all that ``cat`` reads. Training reads only the views that an example shows: ``two_views_over_all`` is
how many times as many samples that is in a second, where two are shown. Resident memory is that of the reading process.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from _common import parse

from pipeline.runtime.seeds import generator
from pipeline.shards import embeddings
from pipeline.shards.building import write_manifest
from pipeline.shards.manifest import Shard
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import write_shard

SHAPE = (8, 16, 768)


def resident_mib() -> float:
    """Resident memory of this process, files that it maps included."""
    return float(psutil.Process().memory_info().rss) / 2**20


def make_shards(folder: Path, models: int, per_shard: int, tokens: np.ndarray) -> list[Shard]:
    """A folder of features that are alike, with its manifest."""
    shards = []
    for start in range(0, models, per_shard):
        keys = [f"0000{number:08d}_00001" for number in range(start, min(start + per_shard, models))]
        samples = ((key, embeddings.members("image.npy", tokens, "float16")) for key in keys)
        shards.append(write_shard(folder / f"train-{start // per_shard:06d}.tar", samples))
    write_manifest(folder, "features/image", embeddings.fields("image.npy", SHAPE, "float16"), {}, shards)
    return shards


def cat_s(paths: list[str]) -> float:
    """Seconds that ``cat`` takes to a pipe, since to /dev/null nothing would be copied."""
    started = time.perf_counter()
    cat = subprocess.Popen(["cat", *paths], stdout=subprocess.PIPE)
    assert cat.stdout is not None
    while cat.stdout.read(1 << 20):
        pass
    cat.wait()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--per-shard", type=int, default=1_000)
    parser.add_argument("--samples", type=int, default=50_000)
    arguments = parse(parser, models=200, per_shard=100, samples=1_000)
    rng = generator("reader")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = rng.normal(size=SHAPE).astype(np.float32)
        shards = make_shards(folder, arguments.models, arguments.per_shard, tokens)
        paths = [str(folder / shard.name) for shard in shards]
        subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True)  # the page cache is warm for both
        cat_rate = sum(shard.bytes for shard in shards) / cat_s(paths)

        reader = ShardReader(folder, "features/image")
        order = np.resize(rng.permutation(len(reader)), arguments.samples).tolist()
        rss, size = {}, 0
        started = time.perf_counter()
        for done, row in enumerate(order, 1):
            size += reader.embeddings(row, "image.npy").nbytes
            if done in (1_000, arguments.samples):
                rss[done] = resident_mib()
        seconds = time.perf_counter() - started
        shown = [sorted(rng.choice(SHAPE[0], 2, replace=False).tolist()) for _ in order]
        started = time.perf_counter()
        for row, views in zip(order, shown, strict=True):
            reader.embeddings(row, "image.npy", views)
        seconds_of_two = time.perf_counter() - started
    print(
        json.dumps(
            {
                "samples_per_s": round(len(order) / seconds),
                "over_cat": round(size / seconds / cat_rate, 3),
                "two_views_over_all": round(seconds / seconds_of_two, 2),
                "cat_mib_per_s": round(cat_rate / 2**20),
                "rss_1000_mib": round(rss[1_000], 1),
                f"rss_{arguments.samples}_mib": round(rss[arguments.samples], 1),
                "models": arguments.models,
                "bytes_per_sample": size // len(order),
            }
        )
    )


if __name__ == "__main__":
    main()
