"""A user's inputs into a prompt, encoded as the checkpoint's features were."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.cad.clouds import draw_points
from pipeline.data.features import PointFeaturizer
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.generation.inputs import UserInputs, check_modality, check_views
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.params import ImageFeatures, PointFeatures
from pipeline.shards.embeddings import rounded
from pipeline.training.batches import Inputs, tokenise_prompts


class Encoders:
    """The frozen encoders that a checkpoint's features were made with, loaded when first needed.

    Args:
        models: folder of the resolved models.
    """

    def __init__(self, model: CadMllmModel, models: Path) -> None:
        self.model, self.folder = model, models

    def _details(self, modality: str) -> dict[str, Any]:
        """How the checkpoint's features were made; raises as ``check_modality`` does."""
        return check_modality(self.model.feature_details, modality, self.folder)

    @property
    def num_points(self) -> int:
        """Points of the clouds that features were made from."""
        return int(self._details("point_cloud")["geometry"]["num_points"])

    @functools.cached_property
    def _points(self) -> tuple[PointFeaturizer, PointFeatures]:
        settings = PointFeatures(**self._details("point_cloud")["settings"])
        return PointFeaturizer(self.folder, settings, torch.device("cpu")), settings

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
        featurizer, settings = self._points
        chosen = cloud if len(cloud) == self.num_points else draw_points(cloud, self.num_points, seed=0)
        return rounded(featurizer.encode(torch.from_numpy(chosen)[None])[0].numpy(), settings.dtype)

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """(V, T, D) features of pictures.

        Raises:
            UserError: there are more of them than views that the checkpoint knows.
        """
        encoder, settings = self._images
        size = self.image_size
        check_views(len(pictures), self.model.feature_shapes["image"][0])
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
