"""Michelangelo's pretraining (Zhao et al. 2023, arXiv 2306.17115) at any size: a solid is read back from the latents
of its cloud, and the global token is aligned with a picture and a caption.

Shapes: B models, N surface points, Q points in space, L latents, W width, Z bottleneck.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.encoders.alignment import AlignmentHead
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.michelangelo import CrossBlock, MichelangeloEncoder, SelfStack, fourier_embedding
from pipeline.pretraining.contrastive import CaptionTower, caption_tokenizer, contrastive_loss
from pipeline.pretraining.data import ShapeData
from pipeline.pretraining.settings import ShapePretraining
from pipeline.runtime.seeds import generator

DECODER_LAYERS = 2
CAPTION_VOCABULARY = 1024


@dataclass(frozen=True, slots=True)
class ShapeBatch:
    """Inputs of one step: (B, N, 6) clouds, (B, Q, 4) points in space, (B, 1, 3, S, S) pixels, (B, T) caption ids."""

    points: Tensor
    queries: Tensor
    pixels: Tensor
    captions: Tensor


class OccupancyDecoder(nn.Module):
    """From latents through a variational bottleneck to whether points in space are inside."""

    def __init__(self, width: int, num_heads: int, latent_width: int) -> None:
        super().__init__()
        self.pre_kl = nn.Linear(width, 2 * latent_width)
        self.post_kl = nn.Linear(latent_width, width)
        self.transformer = SelfStack(width, num_heads, DECODER_LAYERS)
        self.query_proj = nn.Linear(51, width)
        self.cross_attn = CrossBlock(width, num_heads)
        self.ln_post = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, 1)

    def forward(self, latents_BLW: Tensor, xyz_BQ3: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q) logits, and the divergence of the bottleneck from a unit normal, in nats for a number."""
        mean, log_variance = self.pre_kl(latents_BLW).chunk(2, dim=-1)
        log_variance = log_variance.clamp(-30, 20)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        drawn = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.training else mean
        x_BLW = self.post_kl(drawn)
        for block in self.transformer.resblocks:
            x_BLW = block(x_BLW)
        queries_BQW = self.query_proj(fourier_embedding(xyz_BQ3))
        seen_BQW = self.ln_post(self.cross_attn(queries_BQW, x_BLW))
        return self.output_proj(seen_BQW).squeeze(-1), divergence


class ShapeTraining(nn.Module):
    """The encoder with all that it is trained by."""

    def __init__(
        self, encoder: MichelangeloEncoder, images: DinoV2Encoder, settings: ShapePretraining, embedding_width: int
    ) -> None:
        super().__init__()
        width, self.settings = encoder.config.width, settings
        self.encoder, self.images = encoder, images
        self.decoder = OccupancyDecoder(width, encoder.config.num_heads, settings.latent_width)
        self.captions = CaptionTower(CAPTION_VOCABULARY, width)
        self.shape_head = AlignmentHead(width, embedding_width)
        self.image_head = AlignmentHead(images.token_shape[1], embedding_width)
        self.caption_head = AlignmentHead(width, embedding_width)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def loss(self, batch: ShapeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Occupancy, divergence and alignment."""
        tokens_BLW = self.encoder(batch.points)
        logits_BQ, divergence = self.decoder(tokens_BLW[:, 1:], batch.queries[..., :3])
        inside_BQ = batch.queries[..., 3]
        occupancy = F.binary_cross_entropy_with_logits(logits_BQ, inside_BQ)
        shapes_BE = self.shape_head(tokens_BLW[:, :1])
        images_BE = self.image_head(self.images(batch.pixels.flatten(0, 1)))
        captions_BE = self.caption_head(self.captions(batch.captions))
        to_image = contrastive_loss(shapes_BE, images_BE, self.log_scale)
        to_caption = contrastive_loss(shapes_BE, captions_BE, self.log_scale)
        settings = self.settings
        total = occupancy + settings.kl_weight * divergence + settings.contrastive_weight * (to_image + to_caption)
        with torch.no_grad():
            right = ((logits_BQ > 0) == inside_BQ.bool()).float().mean()
        return total, {
            "occupancy": occupancy.detach(),
            "occupancy_accuracy": right,
            "divergence": divergence.detach(),
            "image": to_image.detach(),
            "caption": to_caption.detach(),
        }

    def save(self, shape_folder: Path, image_folder: Path) -> None:
        """Write both encoders, each with its head."""
        self.encoder.save_pretrained(shape_folder)
        self.shape_head.save(shape_folder)
        save_image_encoder(self.images, self.image_head, image_folder)


@torch.inference_mode()
def occupancy_scores(module: ShapeTraining, data: ShapeData, rows: Sequence[int]) -> dict[str, float]:
    """How well solids are read back: share of points in space that are right, and common over joint volume."""
    module.eval()
    settings, right, common, joint = module.settings, 0.0, 0.0, 0.0
    for row in rows:
        rng = generator(data.seed, "read back", row)
        queries = data.queries([row], 2 * settings.num_queries, rng)
        tokens = module.encoder(data.points([row], settings.num_points, rng))
        inside = module.decoder(tokens[:, 1:], queries[..., :3])[0] > 0
        true = queries[..., 3].bool()
        right += float((inside == true).float().mean())
        common += float((inside & true).sum())
        joint += float((inside | true).sum())
    return {"occupancy_accuracy": round(right / len(rows), 4), "occupancy_iou": round(common / max(1.0, joint), 4)}


def save_image_encoder(images: DinoV2Encoder, head: AlignmentHead, folder: Path) -> None:
    """Write an image encoder with its preprocessing and its head."""
    folder.mkdir(parents=True, exist_ok=True)
    images.model.save_pretrained(folder)
    images.processor.save_pretrained(folder)
    head.save(folder)


class ShapeBatches:
    """The inputs of each step."""

    def __init__(self, data: ShapeData, images: DinoV2Encoder, settings: ShapePretraining) -> None:
        self.data, self.images, self.settings = data, images, settings
        texts = [data.corpus.caption(row) for row in data.rows]
        tokenizer = caption_tokenizer(texts, CAPTION_VOCABULARY)
        self.ids = tokenizer(texts, add_special_tokens=False)["input_ids"]

    def __call__(self, step: int) -> ShapeBatch:
        """The batch of a step."""
        settings, data = self.settings, self.data
        rows, rng = data.chosen(step, settings.batch_size)
        ids = [torch.tensor(self.ids[row][:64]) for row in rows]
        return ShapeBatch(
            data.points(rows, settings.num_points, rng),
            data.queries(rows, settings.num_queries, rng),
            data.views(rows, data.drawn_views(len(rows), 1, rng), self.images),
            torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        )
