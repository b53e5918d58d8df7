"""What pretraining reads: clouds, views, points in space and captions of one split, in an order that the seed gives.

Shapes: B models, N surface points, Q points in space, V views, S pixels along a side.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import generator
from pipeline.shards.pictures import decode_png
from pipeline.shards.reader import CorpusReader, ShardReader


def program_hashes(corpus: CorpusReader, rows: np.ndarray) -> frozenset[str]:
    """Hashes of the programs of some models of the corpus."""
    return frozenset(corpus.json(row)["program_hash"] for row in rows)


class ShapeData:
    """Models of one split that have a geometry.

    Attributes:
        rows: (N,) of each model in the corpus.

    Raises:
        UserError: there is none.
    """

    def __init__(self, corpus: Path, geometry: Path, split: str, seed: int) -> None:
        self.corpus, self.reader = CorpusReader(corpus), ShardReader(geometry, "geometry")
        self.num_views: int = self.reader.manifest.details["settings"]["num_views"]
        rows = self.corpus.rows(split)
        drawn = self.reader.find(self.corpus.index["key"][rows])
        self.rows, self._drawn = rows[drawn >= 0], drawn[drawn >= 0]
        self.seed = seed
        if not len(self.rows):
            raise UserError(f"{geometry} holds no model of the {split} split")

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, step: int, batch_size: int) -> tuple[list[int], np.random.Generator]:
        """The rows of a step, every row once in an epoch, and random numbers of the step's own."""
        first = step * batch_size
        rows = [self._row(at) for at in range(first, first + batch_size)]
        return rows, generator(self.seed, "step", step)

    def _row(self, at: int) -> int:
        epoch, place = divmod(at, len(self.rows))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._order = epoch, generator(self.seed, "order", epoch).permutation(len(self.rows))
        return int(self._order[place])

    def points(self, rows: Sequence[int], num_points: int, rng: np.random.Generator | None = None) -> Tensor:
        """(B, N, 6) points of each surface: the first ones, or some drawn by ``rng``."""
        return self._sampled(rows, "points.npy", num_points, rng)

    def queries(self, rows: Sequence[int], num_queries: int, rng: np.random.Generator) -> Tensor:
        """(B, Q, 4) points in space and whether they are inside."""
        return self._sampled(rows, "queries.npy", num_queries, rng)

    def _sampled(self, rows: Sequence[int], member: str, number: int, rng: np.random.Generator | None) -> Tensor:
        found = []
        self.reader.fetch((self._drawn[row], member, None) for row in rows)
        for row in rows:
            array = self.reader.array(self._drawn[row], member)
            if len(array) < number:
                raise UserError(f"{self.reader.folder}: {member} has {len(array)} points, {number} are asked for")
            found.append(array[:number] if rng is None else array[rng.permutation(len(array))[:number]])
        return torch.from_numpy(np.stack(found))

    def views(self, rows: Sequence[int], views: np.ndarray, encoder: DinoV2Encoder) -> Tensor:
        """(B, V, 3, S, S) preprocessed pixels of the views (B, V) of each model."""
        asked = ((row, view) for row, shown in zip(rows, views, strict=True) for view in shown.tolist())
        self.reader.fetch((self._drawn[row], f"view{view}.png", None) for row, view in asked)
        pictures = [
            decode_png(self.reader.bytes(self._drawn[row], f"view{view}.png"))
            for row, shown in zip(rows, views, strict=True)
            for view in shown.tolist()
        ]
        pixels = encoder.preprocess(pictures)
        return pixels.view(*views.shape, *pixels.shape[1:])

    def drawn_views(self, number: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """(number, count) views, none twice for a model."""
        return np.stack([np.sort(rng.permutation(self.num_views)[:count]) for _ in range(number)])
