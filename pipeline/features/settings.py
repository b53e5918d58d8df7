"""The section `features` of params.yaml."""

from typing import Literal

from pydantic import Field

from pipeline.settings.section import Positive, Section

StoredDtype = Literal["float16", "bfloat16", "int8"]


class ImageFeatures(Section):
    """What is kept of DINOv2's patch tokens."""

    pool: Positive = Field(description="patches averaged along each side into one token")
    image_size: Positive | None = Field(
        default=None, description="pixels that the encoder sees; null: as its own processor has it"
    )
    batch_size: Positive = Field(description="images per forward pass on a GPU; a CPU takes a model at a time")
    dtype: StoredDtype = Field(description="of the stored embeddings; int8 has a scale for each token")


class PointFeatures(Section):
    """What is kept of Michelangelo's tokens."""

    tokens: Literal["all", "latents", "global"]
    batch_size: Positive = Field(description="clouds per forward pass on a GPU; a CPU takes one at a time")
    dtype: StoredDtype


class Features(Section):
    """Both modalities' features."""

    image: ImageFeatures
    point_cloud: PointFeatures
