"""The features stage: a frozen encoder over every geometry sample, once, into shards of embeddings."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.michelangelo import MichelangeloEncoder
from pipeline.execution.pool import Failure, Pool
from pipeline.execution.workers import Workers
from pipeline.features.memory import remedies
from pipeline.features.settings import ImageFeatures, PointFeatures
from pipeline.runtime import interrupt
from pipeline.runtime.device import choose_device
from pipeline.runtime.errors import Reject, UserError
from pipeline.runtime.fingerprint import libraries
from pipeline.runtime.prefetch import prefetch
from pipeline.settings import memory
from pipeline.settings.resolved import ENCODERS, read_models
from pipeline.shards import embeddings
from pipeline.shards.building import FinishedShard, publish_shards, shard_by_shard
from pipeline.shards.manifest import reasons
from pipeline.shards.pictures import decode_png
from pipeline.shards.reader import ShardReader
from pipeline.shards.storage.store import Store, StoreError
from pipeline.shards.writer import write_shard

TOKEN_SLICES = {"all": slice(None), "latents": slice(1, None), "global": slice(0, 1)}
READERS = 4  # threads that decode and preprocess while the encoder computes
Settings = ImageFeatures | PointFeatures


class Featurizer(Protocol):
    """A frozen encoder with its preprocessing.

    Attributes:
        modality: ``image`` or ``point_cloud``.
        shape: of one sample's embeddings.
        batch_size: models in a forward pass.
    """

    modality: str
    shape: tuple[int, ...]
    batch_size: int

    def load(self, reader: ShardReader, row: int) -> Tensor:
        """One sample, preprocessed."""

    def encode(self, batch: Tensor) -> Tensor:
        """Samples to embeddings."""


class ImageFeaturizer:
    """Views of a model to (V, T, D) DINOv2 patch tokens."""

    modality = "image"

    def __init__(self, models: Path, settings: ImageFeatures, num_views: int, device: torch.device) -> None:
        self.encoder = DinoV2Encoder(models / "image_encoder", settings.pool, settings.image_size).to(device)
        self.num_views = num_views
        self.batch_size = models_per_pass(settings.batch_size // num_views, device)
        self.device = device
        self.shape: tuple[int, ...] = (num_views, *self.encoder.token_shape)

    def load(self, reader: ShardReader, row: int) -> Tensor:
        """(V, 3, H, W) preprocessed pixels."""
        views = [decode_png(reader.bytes(row, f"view{i}.png")) for i in range(self.num_views)]
        return self.encoder.preprocess(views)

    def encode(self, batch: Tensor) -> Tensor:
        """(B, V, 3, H, W) to (B, V, T, D)."""
        return self.encoder(batch.flatten(0, 1).to(self.device)).unflatten(0, batch.shape[:2])  # type: ignore[no-any-return]


class PointFeaturizer:
    """A cloud to (T, D) Michelangelo tokens: all, its latents, or the global one."""

    modality = "point_cloud"

    def __init__(self, models: Path, settings: PointFeatures, device: torch.device) -> None:
        self.encoder = MichelangeloEncoder.from_pretrained(models / "point_cloud_encoder").eval().to(device)
        self.batch_size = models_per_pass(settings.batch_size, device)
        self.tokens = TOKEN_SLICES[settings.tokens]
        self.device = device
        num_tokens = len(range(1 + self.encoder.config.num_latents)[self.tokens])
        self.shape: tuple[int, ...] = (num_tokens, self.encoder.config.width)

    def load(self, reader: ShardReader, row: int) -> Tensor:
        """(N, 6) xyz and normal."""
        return torch.from_numpy(reader.array(row, "points.npy"))

    def encode(self, batch: Tensor) -> Tensor:
        """(B, N, 6) to (B, T, D)."""
        return self.encoder(batch.to(self.device))[:, self.tokens]  # type: ignore[no-any-return]


def models_per_pass(wanted: int, device: torch.device) -> int:
    """Models in one forward pass.

    One on a CPU: a matrix product may round differently with other rows beside it, so the batch would show in the
    embeddings' last bits; and one model's eight views, or 4,096 points, fill a CPU already.
    """
    return max(1, wanted) if device.type != "cpu" else 1


def device_of(workers: Workers, wanted: str) -> torch.device:
    """What encoders run on, from ``training.device``: here, or on a cluster's machines, which this one is unlike.

    Raises:
        UserError: as of ``choose_device``, and of ``Workers.device``.
    """
    return choose_device(wanted) if workers.are_here else torch.device(workers.device(wanted))


def make_featurizer(
    modality: str, models: Path, settings: Settings, num_views: int, device: torch.device
) -> Featurizer:
    """The encoder of a modality with its preprocessing.

    Raises:
        UserError: there is no such modality, or its encoder does not fit the settings.
    """
    if isinstance(settings, ImageFeatures):
        return ImageFeaturizer(models, settings, num_views, device)
    if modality not in ENCODERS:
        raise UserError(f"modality {modality!r}; there are {', '.join(ENCODERS)}")
    return PointFeaturizer(models, settings, device)


def member_of(modality: str) -> str:
    """The name of a modality's member in a tar."""
    return f"{modality}.npy"


def _load(featurizer: Featurizer, reader: ShardReader, row: int, pipeline_stage: str) -> Tensor | Reject:
    try:
        return featurizer.load(reader, row)
    except StoreError:  # no model's fault
        raise
    except (UserError, OSError, ValueError, SyntaxError) as error:
        return Reject(reader.key(row), pipeline_stage, "unreadable_input", str(error))


@torch.inference_mode()
def make_shard(featurizer: Featurizer, reader: ShardReader, path: Path, dtype: str) -> FinishedShard:
    """Encode one geometry shard into the feature shard ``path`` of the same name.

    A sample that cannot be read, or whose embeddings are not finite, is left out and listed.
    """
    rejects: list[Reject] = []
    pipeline_stage, rows = f"features/{featurizer.modality}", reader.rows_of(path.name)

    def batches() -> Iterator[tuple[list[str], Tensor]]:
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(rows), featurizer.batch_size):
                chunk = rows[start : start + featurizer.batch_size]
                good: dict[str, Tensor] = {}
                found = pool.map(lambda row: _load(featurizer, reader, row, pipeline_stage), chunk)
                for row, loaded in zip(chunk, found, strict=True):
                    if isinstance(loaded, Reject):
                        rejects.append(loaded)
                    else:
                        good[reader.key(row)] = loaded
                if good:
                    # With numpy: torch would start OpenMP threads for this thread too, and where there are more of them
                    # than cores, the encoder's go to sleep whenever they wait for one another.
                    yield list(good), torch.from_numpy(np.stack([each.numpy() for each in good.values()]))

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        with closing(prefetch(batches())) as ready:
            for chunk, batch in ready:
                interrupt.check()  # a shard can take an hour on a CPU: it is given up, not waited for
                for key, tokens in zip(chunk, featurizer.encode(batch).float().cpu().numpy(), strict=True):
                    if np.isfinite(tokens).all():
                        yield key, embeddings.members(member_of(featurizer.modality), tokens, dtype)
                    else:
                        rejects.append(Reject(key, pipeline_stage, "not_finite"))

    return FinishedShard(write_shard(path, samples()), tuple(sorted(rejects)))


def _made(pool: Pool[Path, FinishedShard], paths: Sequence[Path]) -> Iterator[FinishedShard]:
    """A shard at each path, as they come: each is kept by itself."""
    for path, made in pool.as_completed(paths):
        if isinstance(made, Failure):
            raise UserError(f"{path.name} could not be encoded: {made.detail}")
        yield made


def feature_details(encoder: dict[str, Any], settings: Settings, geometry: dict[str, Any]) -> dict[str, Any]:
    """What a user's own input is encoded alike by.

    Args:
        encoder: of the resolved models.
        geometry: how clouds and views were made.
    """
    source = {name: encoder[name] for name in ("source", "sha256")}
    return {"encoder": source, "settings": settings.model_dump(mode="json"), "geometry": geometry}


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a worker loads elsewhere: the encoder, and the geometry that it encodes.

    Attributes:
        device: ``cpu`` or ``cuda``: the one that the worker is given.
    """

    modality: str
    geometry: Path
    models: Path
    settings: Settings
    device: str

    def begin(self) -> Callable[[Path], FinishedShard]:
        """Load it."""
        reader, device = ShardReader(self.geometry, "geometry"), choose_device(self.device)
        num_views = reader.manifest.details["settings"]["num_views"]
        featurizer = make_featurizer(self.modality, self.models, self.settings, num_views, device)

        def made(path: Path) -> FinishedShard:
            # In a folder of its own: a worker that was given up for lost may still be at the same shard.
            with tempfile.TemporaryDirectory(dir=path.parent.parent) as own:
                finished = make_shard(featurizer, reader, Path(own) / path.name, self.settings.dtype)
                os.replace(Path(own) / path.name, path)
            return finished

        return made


def build_features(
    modality: str,
    geometry: Path,
    models: Path,
    settings: Settings,
    device: torch.device,
    scratch: Path,
    out: Path,
    workers: Workers,
    progress: Callable[[int, int, str], None],
    store: Store | None = None,
) -> dict[str, Any]:
    """Encode every geometry shard into one feature shard of the same name and publish them to ``out``.

    Tars go to ``store`` where there is one.

    Args:
        device: what is encoded on, here or elsewhere.

    Raises:
        UserError: models or geometry are missing or do not fit, or memory runs out.
    """
    reader = ShardReader(geometry, "geometry")
    geometry_settings = reader.manifest.details["settings"]
    entry = read_models(models)[ENCODERS[modality]]
    sources = {shard.name: shard.sha256 for shard in reader.manifest.shards}
    with memory.explained(
        lambda: f"on {device} with {modality}s", lambda: remedies(modality, settings, device.type != "cpu")
    ):
        own = device if workers.are_here else torch.device("cpu")  # elsewhere, this process sees what would not fit
        featurizer = make_featurizer(modality, models, settings, geometry_settings["num_views"], own)
        here = functools.partial(make_shard, featurizer, reader, dtype=settings.dtype)
        job = Encoding(modality, geometry, models, settings, device.type)
        with workers.networks(here, job, job.device) as pool:
            finished = shard_by_shard(scratch, sources, lambda paths: _made(pool, paths), progress, store)
    details = feature_details(entry, settings, geometry_settings) | {"libraries": libraries(__name__)}
    fields = embeddings.fields(member_of(modality), featurizer.shape, settings.dtype)
    publish_shards(scratch, out, finished, f"features/{modality}", fields, details, store)
    rejects = [reject for each in finished for reject in each.rejects]
    return {"samples": sum(f.shard.count for f in finished), "rejected": len(rejects), "reasons": reasons(rejects)}
