"""A user's own caption, cloud and pictures: checked and read, before any model is loaded."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.cad.exchange.formats import SOLIDS, Unit
from pipeline.cad.exchange.scans import read_scan, silent
from pipeline.cad.language.program import Frame
from pipeline.cad.solids.rendering import on_white, read_image
from pipeline.curriculum.settings import MODALITIES
from pipeline.model.checkpoint_folder import CheckpointConfig
from pipeline.runtime.errors import UserError
from pipeline.settings.resolved import ENCODERS, read_models

LARGE = 10.0  # metres: nobody's part


@dataclass(frozen=True, slots=True)
class UserInputs:
    """What a user gives, read and checked.

    Attributes:
        points: (N, 6) normalised, or None.
        frame: the part's own frame, where there are points, or None.
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


def check_modality(features: Mapping[str, dict[str, Any]], modality: str, models: Path) -> dict[str, Any]:
    """How a checkpoint's features of a modality were made, once it is sure that the same encoder is at hand.

    Args:
        features: details of each modality that the checkpoint knows.
        models: folder of the resolved models.

    Raises:
        UserError: the checkpoint was not trained for the modality, or the encoder is another one.
    """
    if modality not in features:
        raise UserError(
            f"this checkpoint has not learnt {modality}; it knows {', '.join(['text', *features])}. "
            "Use one of a later curriculum stage"
        )
    details = features[modality]
    if read_models(models)[ENCODERS[modality]]["sha256"] != details["encoder"]["sha256"]:
        place = models / ENCODERS[modality]
        raise UserError(f"{place} is another encoder than the checkpoint was trained with (sha256 differs)")
    return details


def check_views(count: int, known: int) -> None:
    """Raise ``UserError`` where there are more pictures than views that a checkpoint knows."""
    if count > known:
        raise UserError(f"{count} images; the checkpoint knows {known} views")


def check_known(config: CheckpointConfig, models: Path, has_points: bool, num_images: int) -> int | None:
    """Whether a checkpoint can take such inputs, by its configuration: before anything is read or loaded.

    Returns:
        How many points its clouds have, where there is one.

    Raises:
        UserError: it cannot.
    """
    details = {name: entry.details for name, entry in config.features.items()}
    if num_images:
        check_modality(details, "image", models)
        check_views(num_images, config.features["image"].shape[0])
    return int(check_modality(details, "point_cloud", models)["geometry"]["num_points"]) if has_points else None


def read_inputs(
    caption: str,
    points: str | Path | np.ndarray | None,
    images: Sequence[str | Path | Image.Image],
    num_points: int | None,
    say: Callable[[str], None] = silent,
    unit: Unit = Unit.M,
) -> UserInputs:
    """Read a caption's companions; costs no model.

    Args:
        points: what ``read_scan`` takes.
        images: pictures or their files.
        num_points: of the checkpoint's clouds, where there are points.
        say: gets what is done to the points, as ``read_scan`` says it.
        unit: of the points, but for STEP's.

    Raises:
        UserError, RejectError: a file cannot be read, or is not what it should be.
    """
    pictures = tuple(_picture(image) for image in images)
    if points is None:
        return UserInputs(caption, None, None, pictures)
    assert num_points is not None, "known to a checkpoint that takes points"
    scan = read_scan(points, num_points, say, unit)
    if (length := 2 * scan.frame.scale) > LARGE:
        has_unit = isinstance(points, str | Path) and Path(points).suffix.lower() in SOLIDS
        taken = (
            "as its file says"
            if has_unit
            else f"its numbers are taken as {unit}; --unit mm, cm, m or in says what they are"
        )
        say(f"note: {length:,.0f} m long: {taken}")
    return UserInputs(caption, scan.points, scan.frame, pictures)


def _picture(image: str | Path | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return Image.fromarray(on_white(image))
    try:
        data = Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"{image} cannot be read: {error.strerror}") from error
    return Image.fromarray(read_image(data, str(image), None))
