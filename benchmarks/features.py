"""`cadmllm features` over the bare encoder: prints one JSON object.

    python benchmarks/features.py [--models 12] [--views 8] [--rounds 3]

Encoders of DINOv2-base's and Michelangelo's released sizes with random weights. ``bare`` is the forward pass alone on
batches that are prepared already; the command also reads shards, decodes PNGs, preprocesses, pools, rounds and writes.
Both take turns; medians, and the median of their ratios, since machines drift.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import ROOT, parse

from pipeline.cad.solids.rendering import encode_png
from pipeline.features.build import Featurizer, make_featurizer, make_shard
from pipeline.planning.params import Params
from pipeline.runtime.seeds import generator
from pipeline.shards.building import write_manifest
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import encode_array, write_shard
from pipeline.weights.resolve import build_models

DINOV2_BASE = {
    "model_type": "dinov2",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 14,
    "image_size": 518,
}
MICHELANGELO = {"width": 768, "num_heads": 12, "num_layers": 8, "num_latents": 256}
SHARD = "train-000000.tar"


def write_geometry(folder: Path, num_models: int, num_views: int, num_points: int, size: int) -> None:
    """A geometry shard of pictures with shapes in them and of random points."""
    rng = generator("features")

    def picture() -> bytes:
        image = np.full((size, size), 255, np.uint8)
        for _ in range(6):
            x, y, w, h = rng.integers(0, size // 2, 4)
            image[y : y + h, x : x + w] = rng.integers(60, 230)
        return encode_png(image)

    def samples() -> Any:
        for number in range(num_models):
            points = rng.normal(size=(num_points, 6)).astype(np.float32)
            views = {f"view{i}.png": picture() for i in range(num_views)}
            yield f"0000{number:08d}_00001", {"points.npy": encode_array(points), **views}

    shard = write_shard(folder / SHARD, samples())
    fields = {"points.npy": {"shape": [num_points, 6], "dtype": "float32"}}
    settings = {"num_views": num_views, "num_points": num_points, "image_size": size}
    write_manifest(folder, "geometry", fields, {"settings": settings}, [shard])


@torch.inference_mode()
def measure(featurizer: Featurizer, folder: Path, dtype: str, rounds: int) -> dict[str, float]:
    """Models per second of the command and of the bare encoder."""
    reader = ShardReader(folder, "geometry")
    batches = [featurizer.load(reader, row)[None] for row in range(len(reader))]
    featurizer.encode(batches[0])  # warm

    def bare() -> None:
        for batch in batches:
            featurizer.encode(batch)

    def stage() -> None:
        make_shard(featurizer, reader, folder / featurizer.modality / SHARD, dtype)

    found = [(seconds(bare), seconds(stage)) for _ in range(rounds)]
    each = len(reader) * (featurizer.shape[0] if featurizer.modality == "image" else 1)
    return {
        "per_s": round(each / statistics.median(taken for _, taken in found), 2),
        "bare_per_s": round(each / statistics.median(taken for taken, _ in found), 2),
        "over_bare": round(statistics.median(alone / whole for alone, whole in found), 3),
    }


def seconds(work: Callable[[], None]) -> float:
    """What some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parse(parser, models=1, views=2, rounds=1)
    p = Params.load(ROOT / "params.yaml")
    tiny = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    tiny |= {"num_attention_heads": 2, "num_key_value_heads": 1, "tokenizer": "bytes"}
    chosen = {
        "llm": p.models.llm.model_copy(update={"source": "init", "architecture": tiny}),
        "image_encoder": p.models.image_encoder.model_copy(update={"source": "init", "architecture": DINOV2_BASE}),
        "point_cloud_encoder": p.models.point_cloud_encoder.model_copy(
            update={"source": "init", "architecture": MICHELANGELO}
        ),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_models(p.models.model_copy(update=chosen), 0, folder / "scratch", folder / "models", lambda *_: None)
        geometry = folder / "geometry"
        write_geometry(geometry, arguments.models, arguments.views, p.geometry.num_points, p.geometry.image_size)
        results: dict[str, Any] = {}
        image = p.features.image.model_copy(update={"pool": 8, "image_size": 224})
        for modality, settings in (("image", image), ("point_cloud", p.features.point_cloud)):
            featurizer = make_featurizer(modality, folder / "models", settings, arguments.views, torch.device("cpu"))
            results[modality] = measure(featurizer, geometry, settings.dtype, arguments.rounds)
    print(
        json.dumps(
            {**results, "models": arguments.models, "views": arguments.views, "threads": torch.get_num_threads()}
        )
    )


if __name__ == "__main__":
    main()
