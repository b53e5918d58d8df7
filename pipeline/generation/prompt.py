"""A user's own caption, cloud and pictures into a prompt, encoded as the checkpoint's features were."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.cad.program import Frame
from pipeline.cad.rendering import on_white, read_image
from pipeline.cad.sampling import normalise_points, read_points
from pipeline.data.features import ENCODERS, PointFeaturizer
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.encoders.weights import read_models
from pipeline.errors import UserError
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.params import MODALITIES, ImageFeatures, PointFeatures
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

    @property
    def combination(self) -> str:
        """The modalities that are shown, as a curriculum stage names them; nothing for none."""
        shown = (bool(self.caption), self.points is not None, bool(self.images))
        return "+".join(itertools.compress(MODALITIES, shown))


def read_inputs(
    caption: str, points: str | Path | np.ndarray | None, images: Sequence[str | Path | Image.Image]
) -> UserInputs:
    """Read a caption's companions; costs no model.

    Args:
        points: (N, 3) or (N, 6), or a ``.npy`` or ``.npz`` file with it.
        images: pictures or their files.

    Raises:
        UserError, RejectError: a file cannot be read, or is not what it should be.
    """
    cloud, frame = None, None
    if points is not None:
        raw = points if isinstance(points, np.ndarray) else read_points(_bytes(Path(points)), str(points))
        cloud = normalise_points(raw)
        frame = Frame.of_box(tuple(raw[:, :3].min(axis=0).tolist()), tuple(raw[:, :3].max(axis=0).tolist()))
    return UserInputs(caption, cloud, frame, tuple(_picture(image) for image in images))


def _picture(image: str | Path | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return Image.fromarray(on_white(image))
    return Image.fromarray(read_image(_bytes(Path(image)), str(image), None))


class Encoders:
    """The frozen encoders that a checkpoint's features were made with, loaded when first needed.

    Args:
        models: folder of the resolved models.
    """

    def __init__(self, model: CadMllmModel, models: Path) -> None:
        self.model, self.folder = model, models

    def _details(self, modality: str) -> dict[str, Any]:
        """How the checkpoint's features were made, once it is sure that the same encoder is at hand.

        Raises:
            UserError: the checkpoint was not trained for the modality, or the encoder is another one.
        """
        known = self.model.feature_details
        if modality not in known:
            raise UserError(
                f"this checkpoint has not learnt {modality}; it knows {', '.join(['text', *known])}. "
                "Use one of a later curriculum stage"
            )
        if read_models(self.folder)[ENCODERS[modality]]["sha256"] != known[modality]["encoder"]["sha256"]:
            place = self.folder / ENCODERS[modality]
            raise UserError(f"{place} is another encoder than the checkpoint was trained with (sha256 differs)")
        return known[modality]

    @functools.cached_property
    def _points(self) -> tuple[PointFeaturizer, PointFeatures, int]:
        details = self._details("point_cloud")
        settings = PointFeatures(**details["settings"])
        featurizer = PointFeaturizer(self.folder, settings, torch.device("cpu"))
        return featurizer, settings, details["geometry"]["num_points"]

    @functools.cached_property
    def _images(self) -> tuple[DinoV2Encoder, ImageFeatures]:
        settings = ImageFeatures(**self._details("image")["settings"])
        return DinoV2Encoder(self.folder / "image_encoder", settings.pool, settings.image_size), settings

    @property
    def image_size(self) -> int:
        """Pixels along each side of the pictures that features were made from."""
        return int(self._details("image")["geometry"]["image_size"])

    @torch.inference_mode()
    def points(self, cloud: np.ndarray) -> np.ndarray:
        """(T, D) features of a normalised cloud, (N, 6): as many points as in training are drawn from it."""
        featurizer, settings, num_points = self._points
        rng = np.random.default_rng(0)
        chosen = cloud
        if len(cloud) != num_points:
            chosen = cloud[rng.choice(len(cloud), num_points, replace=len(cloud) < num_points)]
        return rounded(featurizer.encode(torch.from_numpy(chosen)[None])[0].numpy(), settings.dtype)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(V, T, D) features of pictures.

        Raises:
            UserError: there are more of them than views that the checkpoint knows.
        """
        encoder, settings = self._images
        known, size = self.model.feature_shapes["image"][0], self.image_size
        if len(pictures) > known:
            raise UserError(f"{len(pictures)} images; the checkpoint knows {known} views")
        views = [
            picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BICUBIC)
            for picture in pictures
        ]
        return rounded(encoder(encoder.preprocess(views)).numpy(), settings.dtype)


def make_prompt(model: CadMllmModel, encoders: Encoders, given: UserInputs, start: Sequence[int] = ()) -> Inputs:
    """The prompt that a user's inputs make.

    Args:
        start: CAD tokens of the extrusions that are given, without END.

    Raises:
        UserError: the checkpoint was not trained for an input, or its encoder is another one.
    """
    features = None if given.points is None else encoders.points(given.points)
    shown = encoders.images(given.images) if given.images else None
    prompt = tokenise_prompts(model.tokenizer, [given.caption], model.params.max_caption_tokens)[0]
    return Inputs(prompt, model.notation.start(start), features, shown, tuple(range(len(given.images))))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
