"""The features stage: a frozen encoder over every geometry sample, once, into shards of embeddings."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.encoders.dinov2 import DinoV2Encoder, as_float16, decode_png
from pipeline.encoders.michelangelo import MichelangeloEncoder
from pipeline.encoders.weights import read_models
from pipeline.errors import UserError
from pipeline.params import Features
from pipeline.prefetch import prefetch
from pipeline.shards.manifest import Reject, reasons
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import encode_array, write_shard
from pipeline.work import FinishedShard, publish_shards, shard_by_shard

TOKEN_SLICES = {"all": slice(None), "latents": slice(1, None), "global": slice(0, 1)}
ENCODERS = {"image": "image_encoder", "point_cloud": "point_cloud_encoder"}


class ImageFeaturizer:
    """Views of a model to (V, T, D) DINOv2 patch tokens."""

    member = "image.npy"

    def __init__(self, models: Path, features: Features, num_views: int, device: torch.device) -> None:
        self.encoder = DinoV2Encoder(models / "image_encoder", features.image.pool).to(device)
        self.num_views = num_views
        self.batch_size = max(1, features.image.batch_size // num_views)
        self.device = device
        self.shape = (num_views, *self.encoder.token_shape)

    def load(self, reader: ShardReader, shard: str, key: str) -> Tensor:
        """(V, 3, H, W) preprocessed pixels."""
        views = [decode_png(reader.bytes(shard, key, f"view{i}.png")) for i in range(self.num_views)]
        return self.encoder.preprocess(views)

    def encode(self, batch: Tensor) -> Tensor:
        """(B, V, 3, H, W) to (B, V, T, D)."""
        return self.encoder(batch.flatten(0, 1).to(self.device)).unflatten(0, batch.shape[:2])  # type: ignore[no-any-return]


class PointFeaturizer:
    """A cloud to (T, D) Michelangelo tokens: all, its latents, or the global one."""

    member = "point_cloud.npy"

    def __init__(self, models: Path, features: Features, device: torch.device) -> None:
        self.encoder = MichelangeloEncoder.from_pretrained(models / "point_cloud_encoder").eval().to(device)
        self.batch_size = features.point_cloud.batch_size
        self.tokens = TOKEN_SLICES[features.point_cloud.tokens]
        self.device = device
        num_tokens = len(range(1 + self.encoder.config.num_latents)[self.tokens])
        self.shape = (num_tokens, self.encoder.config.width)

    def load(self, reader: ShardReader, shard: str, key: str) -> Tensor:
        """(N, 6) xyz and normal."""
        return torch.from_numpy(reader.array(shard, key, "points.npy"))

    def encode(self, batch: Tensor) -> Tensor:
        """(B, N, 6) to (B, T, D)."""
        return self.encoder(batch.to(self.device))[:, self.tokens]  # type: ignore[no-any-return]


def make_featurizer(
    modality: str, models: Path, features: Features, num_views: int, device: torch.device
) -> ImageFeaturizer | PointFeaturizer:
    """The encoder of a modality with its preprocessing."""
    if modality == "image":
        return ImageFeaturizer(models, features, num_views, device)
    return PointFeaturizer(models, features, device)


def build_features(
    modality: str,
    geometry: Path,
    models: Path,
    features: Features,
    device: torch.device,
    scratch: Path,
    out: Path,
    progress: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """Encode every geometry shard into one feature shard of the same name and publish them to ``out``.

    A sample whose embedding is not finite is left out and listed in ``rejects.csv``.

    Raises:
        UserError: models or geometry are missing or do not fit.
    """
    if modality not in ENCODERS:
        raise UserError(f"modality {modality!r}; there are {', '.join(ENCODERS)}")
    entry = read_models(models)[ENCODERS[modality]]
    reader = ShardReader(geometry, "geometry")
    geometry_settings = reader.manifest.details["settings"]
    featurizer = make_featurizer(modality, models, features, geometry_settings["num_views"], device)

    @torch.inference_mode()
    def make(path: Path) -> FinishedShard:
        rejects: list[Reject] = []

        def batches() -> Iterator[tuple[list[str], Tensor]]:
            keys = reader.keys(path.name)
            for start in range(0, len(keys), featurizer.batch_size):
                chunk = keys[start : start + featurizer.batch_size]
                yield chunk, torch.stack([featurizer.load(reader, path.name, key) for key in chunk])

        def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
            for keys, batch in prefetch(batches()):
                for key, tokens in zip(keys, as_float16(featurizer.encode(batch)), strict=True):
                    if np.isfinite(tokens).all():
                        yield key, {featurizer.member: encode_array(tokens)}
                    else:
                        rejects.append(Reject(key, f"features/{modality}", "not_finite"))

        return FinishedShard(write_shard(path, samples()), tuple(rejects))

    finished = shard_by_shard(scratch, [shard.name for shard in reader.manifest.shards], make, progress)
    fields = {featurizer.member: {"shape": list(featurizer.shape), "dtype": "float16"}}
    settings = getattr(features, modality).model_dump(mode="json")
    details = {"encoder": {"source": entry["source"], "sha256": entry["sha256"]}}
    details |= {"settings": settings, "geometry": geometry_settings}
    publish_shards(scratch, out, finished, f"features/{modality}", fields, details)
    rejects = [reject for each in finished for reject in each.rejects]
    return {"samples": sum(f.shard.count for f in finished), "rejected": len(rejects), "reasons": reasons(rejects)}
