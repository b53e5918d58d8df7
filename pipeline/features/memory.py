"""What helps where memory runs out in an encoder."""

from collections.abc import Iterator

from pipeline.features.settings import ImageFeatures, PointFeatures


def remedies(modality: str, settings: ImageFeatures | PointFeatures, gpu: bool) -> Iterator[str]:
    """With what an encoder takes less memory."""
    if gpu and settings.batch_size > 1:  # a CPU takes one model at a time
        yield f"features.{modality}.batch_size: less than {settings.batch_size}"
    if isinstance(settings, ImageFeatures):
        yield "features.image.image_size: fewer pixels (a multiple of the encoder's patch)"
    else:
        yield "geometry.num_points: fewer"
    yield f"models.{modality}_encoder: a smaller one"
