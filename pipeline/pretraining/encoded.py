"""What the finished encoders say of a split's models: computed once, kept in scratch.

Shapes: M models, L tokens of a cloud, V views, T tokens of a view, W and D the encoders' widths.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.michelangelo import MichelangeloEncoder
from pipeline.pretraining.data import ShapeData
from pipeline.runtime import interrupt
from pipeline.runtime.atomic import atomic_open

Show = Callable[[int, int, str], None]
BATCH = 64


def encode_clouds(encoder: MichelangeloEncoder, data: ShapeData, num_points: int, path: Path, show: Show) -> np.ndarray:
    """(M, L, W) float16 tokens of all clouds, from ``path`` where they are there already."""

    def batches() -> Iterator[np.ndarray]:
        encoder.eval()
        for rows in _batches(data, show, "clouds encoded"):
            yield encoder(data.points(rows, num_points)).half().numpy()

    return _kept(path, batches)


def encode_views(encoder: DinoV2Encoder, data: ShapeData, views: np.ndarray, path: Path, show: Show) -> np.ndarray:
    """(M, V, T, D) float16 tokens of the views (M, V), from ``path`` where they are there already."""

    def batches() -> Iterator[np.ndarray]:
        encoder.eval()
        for rows in _batches(data, show, "models' pictures encoded"):
            pixels = data.views(rows, views[rows], encoder)
            yield encoder(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).half().numpy()

    return _kept(path, batches)


def _batches(data: ShapeData, show: Show, text: str) -> Iterator[range]:
    for first in range(0, len(data), BATCH):
        interrupt.check()
        rows = range(first, min(first + BATCH, len(data)))
        yield rows
        show(rows.stop, len(data), text)


def _kept(path: Path, batches: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    if not path.is_file():
        with torch.inference_mode():
            found = np.concatenate(list(batches()))
        with atomic_open(path, "wb") as file:
            np.save(file, found, allow_pickle=False)
    array: np.ndarray = np.load(path, allow_pickle=False)
    return array
