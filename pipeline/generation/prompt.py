"""A user's own caption, cloud and pictures into a prompt, encoded as the checkpoint's features were."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.cad.program import Frame
from pipeline.cad.rendering import read_image
from pipeline.cad.sampling import normalise_points, read_points
from pipeline.data.features import ENCODERS, PointFeaturizer
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.weights import read_models
from pipeline.errors import UserError
from pipeline.model.cad_mllm import CadMllm
from pipeline.params import ImageFeatures, PointFeatures
from pipeline.shards.embeddings import rounded
from pipeline.training.batches import Inputs, tokenise_prompts


@dataclass(frozen=True, slots=True)
class UserInputs:
    """What a user gives, read and checked.

    Attributes:
        points: (N, 6) normalised, or None.
        frame: the cloud's own frame, or None.
        images: pictures from the first views on, in their order.
    """

    caption: str
    points: np.ndarray | None
    frame: Frame | None
    images: tuple[Image.Image, ...]


def read_inputs(caption: str, points: Path | None, images: Sequence[Path]) -> UserInputs:
    """Read a caption's companions; costs no model.

    Args:
        points: ``.npy`` or ``.npz``, (N, 3) or (N, 6).

    Raises:
        UserError, RejectError: a file cannot be read, or is not what it should be.
    """
    cloud, frame = None, None
    if points is not None:
        raw = read_points(_bytes(points), str(points))
        cloud = normalise_points(raw)
        frame = Frame.of_box(tuple(raw[:, :3].min(axis=0).tolist()), tuple(raw[:, :3].max(axis=0).tolist()))
    pictures = tuple(Image.fromarray(read_image(_bytes(path), str(path), None)) for path in images)
    return UserInputs(caption, cloud, frame, pictures)


def make_prompt(model: CadMllm, models: Path, given: UserInputs) -> Inputs:
    """The prompt that a user's inputs make.

    Args:
        models: folder of the resolved models.

    Raises:
        UserError: the checkpoint was not trained for an input, or its encoder is not the one in ``models``.
    """
    features = None if given.points is None else _encode_points(model, models, given.points)
    shown = _encode_images(model, models, given.images) if given.images else None
    prompt = tokenise_prompts(model.tokenizer, [given.caption], model.params.max_caption_tokens)[0]
    return Inputs(prompt, [], features, shown, tuple(range(len(given.images))))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _details(model: CadMllm, models: Path, modality: str) -> dict[str, Any]:
    """How the checkpoint's features were made, once it is sure that the same encoder is at hand."""
    if modality not in model.feature_details:
        known = ", ".join(["text", *model.feature_details])
        raise UserError(
            f"this checkpoint has not learnt {modality}; it knows {known}. Use one of a later curriculum stage"
        )
    details = model.feature_details[modality]
    if read_models(models)[ENCODERS[modality]]["sha256"] != details["encoder"]["sha256"]:
        raise UserError(
            f"{models / ENCODERS[modality]} is another encoder than the checkpoint was trained with (sha256 differs)"
        )
    return details


@torch.inference_mode()
def _encode_points(model: CadMllm, models: Path, points: np.ndarray) -> np.ndarray:
    details = _details(model, models, "point_cloud")
    num_points = details["geometry"]["num_points"]
    rng = np.random.default_rng(0)
    chosen = points[rng.choice(len(points), num_points, replace=len(points) < num_points)]
    settings = PointFeatures(**details["settings"])
    encoder = PointFeaturizer(models, settings, torch.device("cpu"))
    return rounded(encoder.encode(torch.from_numpy(chosen)[None])[0].numpy(), settings.dtype)


@torch.inference_mode()
def _encode_images(model: CadMllm, models: Path, images: Sequence[Image.Image]) -> np.ndarray:
    details = _details(model, models, "image")
    known = model.feature_shapes["image"][0]
    if len(images) > known:
        raise UserError(f"{len(images)} images; the checkpoint knows {known} views")
    settings = ImageFeatures(**details["settings"])
    encoder = DinoV2Encoder(models / "image_encoder", settings.pool, settings.image_size)
    size = details["geometry"]["image_size"]
    views = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
    return rounded(encoder(encoder.preprocess(views)).numpy(), settings.dtype)
