"""A user's inputs into a prompt, encoded as the checkpoint's features were."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.cad.solids.clouds import draw_points
from pipeline.encoders.dinov2 import DinoV2Encoder
from pipeline.features.build import PointFeaturizer, models_per_pass
from pipeline.features.settings import ImageFeatures, PointFeatures
from pipeline.generation.inputs import UserInputs, check_modality, check_views
from pipeline.model.cad_mllm import CadMllmModel
from pipeline.model.inputs import Inputs, tokenise_prompts
from pipeline.runtime.seeds import generator
from pipeline.shards.embeddings import rounded


class Encoders:
    """The frozen encoders that a checkpoint's features were made with, loaded when first needed, on the model's device.

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
        return PointFeaturizer(self.folder, settings, self.model.device), settings

    @functools.cached_property
    def _images(self) -> tuple[DinoV2Encoder, ImageFeatures]:
        settings = ImageFeatures(**self._details("image")["settings"])
        encoder = DinoV2Encoder(self.folder / "image_encoder", settings.pool, settings.image_size)
        return encoder.to(self.model.device), settings

    @property
    def image_size(self) -> int:
        """Pixels along each side of the pictures that features were made from."""
        return int(self._details("image")["geometry"]["image_size"])

    @torch.inference_mode()
    def points(self, clouds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(T, D) features of each normalised cloud, (N, 6): as many points as in training are drawn from it."""
        featurizer, settings = self._points
        found: list[np.ndarray] = []
        for start in range(0, len(clouds), featurizer.batch_size):
            chosen = [
                cloud if len(cloud) == self.num_points else draw_points(cloud, self.num_points, generator("encoded"))
                for cloud in clouds[start : start + featurizer.batch_size]
            ]
            tokens = featurizer.encode(torch.from_numpy(np.stack(chosen)))
            found += [rounded(each, settings.dtype) for each in tokens.cpu().numpy()]
        return found

    @torch.inference_mode()
    def images(self, shown: Sequence[Sequence[Image.Image]]) -> list[np.ndarray]:
        """(V, T, D) features of each part's pictures.

        Raises:
            UserError: a part has more of them than views that the checkpoint knows.
        """
        encoder, settings = self._images
        known, size = self.model.feature_shapes["image"][0], self.image_size
        check_views(max((len(pictures) for pictures in shown), default=0), known)
        batch_size = models_per_pass(settings.batch_size // known, self.model.device)
        found: list[np.ndarray] = []
        for start in range(0, len(shown), batch_size):
            parts = shown[start : start + batch_size]
            views = [
                picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BICUBIC)
                for picture in itertools.chain.from_iterable(parts)
            ]
            tokens = encoder(encoder.preprocess(views).to(self.model.device)).cpu()
            each = tokens.split([len(pictures) for pictures in parts])
            found += [rounded(part.numpy(), settings.dtype) for part in each]
        return found


def make_prompt(model: CadMllmModel, encoders: Encoders, given: UserInputs, start: Sequence[int] = ()) -> Inputs:
    """The prompt that a user's inputs make.

    Args:
        start: CAD tokens of the extrusions that are given, without END.

    Raises:
        UserError: the checkpoint was not trained for an input, or its encoder is another one.
    """
    features = None if given.points is None else encoders.points([given.points])[0]
    shown = encoders.images([given.images])[0] if given.images else None
    prompt = tokenise_prompts(model.tokenizer, [given.caption], model.params.max_caption_tokens)[0]
    return Inputs(prompt, model.notation.start(start), features, shown, tuple(range(len(given.images))))
