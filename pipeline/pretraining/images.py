"""The image encoder learns what the finished point cloud encoder knows: its tokens are read from pictures, and both
find each other in the space of the heads.

Shapes: B models, V views, T tokens of a view, L tokens of the point cloud encoder, W and D widths of the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.encoders.alignment import AlignmentHead, retrieval
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.michelangelo import CrossBlock, MichelangeloEncoder
from pipeline.pretraining.contrastive import contrastive_loss
from pipeline.pretraining.data import ShapeData
from pipeline.pretraining.settings import ImagePretraining
from pipeline.runtime import interrupt
from pipeline.runtime.seeds import generator


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Inputs of one step: (B, V, 3, S, S) pixels, (B, V) view numbers, (B, L, W) tokens of the clouds."""

    pixels: Tensor
    views: Tensor
    shapes: Tensor


class ImageTraining(nn.Module):
    """The encoder with all that it is trained by.

    Args:
        shape_head: of the point cloud encoder; it learns as well.
        mean, std: (L, W) of the cloud tokens over the data.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        images: DinoV2Encoder,
        image_head: AlignmentHead,
        shape_head: AlignmentHead,
        num_views: int,
        settings: ImagePretraining,
        mean: Tensor,
        std: Tensor,
    ) -> None:
        super().__init__()
        (num_tokens, width), num_width = mean.shape, images.token_shape[1]
        self.images, self.image_head, self.shape_head, self.settings = images, image_head, shape_head, settings
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.view_embedding = nn.Embedding(num_views, num_width)
        nn.init.normal_(self.view_embedding.weight, std=0.02)
        self.queries = nn.Parameter(torch.randn(num_tokens, num_width) * 0.02)
        self.reader = nn.ModuleList(CrossBlock(num_width, max(1, num_width // 64)) for _ in range(2))
        self.output_proj = nn.Linear(num_width, width)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def loss(self, batch: ImageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """How far the cloud's tokens are from what the pictures tell, and alignment."""
        tokens = self.images(batch.pixels.flatten(0, 1)).unflatten(0, batch.views.shape)  # (B, V, T, D)
        data_BTD = (tokens + self.view_embedding(batch.views).unsqueeze(2)).flatten(1, 2)
        x_BLD = self.queries.expand(len(tokens), -1, -1)
        for block in self.reader:
            x_BLD = block(x_BLD, data_BTD)
        wanted_BLW = (batch.shapes - self.mean) / self.std
        distance = F.mse_loss(self.output_proj(x_BLD), wanted_BLW)
        aligned = contrastive_loss(
            self.shape_head(batch.shapes[:, :1]), self.image_head(tokens.flatten(1, 2)), self.log_scale
        )
        total = distance + self.settings.contrastive_weight * aligned
        return total, {"tokens": distance.detach(), "shape": aligned.detach()}


@dataclass(frozen=True, slots=True)
class HeadBatch:
    """Inputs of one step: (B, 1, W) global tokens of clouds, (B, T', D) tokens of some views."""

    shapes: Tensor
    images: Tensor


class HeadTraining(nn.Module):
    """The heads of two finished encoders."""

    def __init__(self, shape_head: AlignmentHead, image_head: AlignmentHead) -> None:
        super().__init__()
        self.shape_head, self.image_head = shape_head, image_head
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def loss(self, batch: HeadBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """How well clouds and pictures of the same models find each other."""
        found = contrastive_loss(self.shape_head(batch.shapes), self.image_head(batch.images), self.log_scale)
        return found, {}


class HeadBatches:
    """The inputs of each step, of what was encoded before: one view of each model up to all, drawn for the step.

    Args:
        shapes: (M, L, W) tokens of clouds; images: (M, V, T, D) of all views.
    """

    def __init__(self, shapes: np.ndarray, images: np.ndarray, batch_size: int, seed: int) -> None:
        self.shapes, self.images, self.seed = shapes, images, seed
        self.batch_size = min(batch_size, len(shapes))

    def __call__(self, step: int) -> HeadBatch:
        """The batch of a step."""
        rng, num_views = generator(self.seed, "heads", step), self.images.shape[1]
        rows = rng.choice(len(self.shapes), self.batch_size, replace=False)
        count = int(rng.integers(num_views)) + 1
        views = np.stack([rng.permutation(num_views)[:count] for _ in rows])
        shapes = torch.from_numpy(self.shapes[rows, :1].astype(np.float32))
        images = torch.from_numpy(self.images[rows[:, None], views].astype(np.float32))
        return HeadBatch(shapes, images.flatten(1, 2))


@torch.inference_mode()
def retrieval_scores(
    shapes: tuple[MichelangeloEncoder, AlignmentHead],
    images: tuple[DinoV2Encoder, AlignmentHead],
    data: ShapeData,
    rows: Sequence[int],
    num_points: int,
) -> dict[str, Any]:
    """How often a cloud finds its model's pictures among those of all ``rows``, and the other way round."""
    views = np.arange(data.num_views)[None]
    clouds, pictures = [], []
    for row in rows:
        interrupt.check()
        clouds.append(shapes[1](shapes[0](data.points([row], num_points))[:, :1]))
        pixels = data.views([row], views, images[0])
        pictures.append(images[1](images[0](pixels.flatten(0, 1)).flatten(0, 1)[None]))
    return {"models": len(rows), **retrieval(torch.cat(clouds).numpy(), torch.cat(pictures).numpy())}


class ImageBatches:
    """The inputs of each step."""

    def __init__(self, data: ShapeData, images: DinoV2Encoder, shapes: np.ndarray, settings: ImagePretraining) -> None:
        self.data, self.images, self.shapes, self.settings = data, images, shapes, settings

    def __call__(self, step: int) -> ImageBatch:
        """The batch of a step."""
        rows, rng = self.data.chosen(step, self.settings.batch_size)
        views = self.data.drawn_views(len(rows), self.settings.num_views, rng)
        shapes = torch.from_numpy(self.shapes[rows].astype(np.float32))
        return ImageBatch(self.data.views(rows, views, self.images), torch.from_numpy(views), shapes)
