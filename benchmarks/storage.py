"""Bytes per model and what rounding costs, for every stored dtype and every pooling: prints one JSON object.

    python benchmarks/storage.py [--models 4]

DINOv2-base's architecture with random weights on eight views of synthetic parts; the cosine similarity is that of each
stored token with the same token in float32, mean and lowest. Bytes are those of the tar, headers and padding included.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from _common import parse
from PIL import Image
from transformers import AutoModel, BitImageProcessorPil, Dinov2Config

from pipeline.cad.parts import synthesis
from pipeline.cad.solids.rendering import render_views
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.geometry.draw import normalised_mesh
from pipeline.shards import embeddings
from pipeline.shards.writer import write_shard

VIEWS = 8
POOLS = (1, 2, 4, 8, 16)


def make_encoder(folder: Path) -> None:
    """A folder with a random DINOv2-base and its processor."""
    torch.manual_seed(0)
    AutoModel.from_config(Dinov2Config(patch_size=14, image_size=518)).save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(…, T, D) and the same: (…, T)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=4)
    arguments = parse(parser, models=1)
    views = []
    for number in range(arguments.models):
        mesh = normalised_mesh(synthesis.make_part(0, number, tuple(synthesis.FAMILIES)).program)
        views += [Image.fromarray(view) for view in render_views(mesh, VIEWS, 224)]
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_encoder(folder / "encoder")
        encoder = DinoV2Encoder(folder / "encoder", 1)
        patches = torch.cat([encoder(encoder.preprocess(views[i : i + VIEWS])) for i in range(0, len(views), VIEWS)])
        for pool in POOLS:
            encoder.pool = pool
            tokens = encoder.pooled(patches).unflatten(0, (-1, VIEWS)).numpy()  # type: ignore[no-untyped-call]
            for dtype in embeddings.DTYPES:
                samples = (
                    (f"0000{i:08d}", embeddings.members("image.npy", each, dtype)) for i, each in enumerate(tokens)
                )
                shard = write_shard(folder / "train-000000.tar", samples)
                alike = cosine(tokens, embeddings.rounded(tokens, dtype))
                results[f"pool {pool}, {dtype}"] = {
                    "bytes_per_model": shard.bytes // len(tokens),
                    "cosine_mean": round(float(alike.mean()), 7),
                    "cosine_min": round(float(alike.min()), 7),
                }
    print(json.dumps({**results, "models": arguments.models, "views": VIEWS}))


if __name__ == "__main__":
    main()
