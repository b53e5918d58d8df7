"""Sections of params.yaml that say what is trained on: models, data, codec, kernel, geometry, features."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings.section import Fraction, Positive, Section


class Model(Section):
    """Where one set of weights comes from."""

    source: str = Field(
        description="hub:<id> | path:<file or folder> | shipped:<name> (in this package) | "
        "package:<distribution> (a GGUF in an installed package) | "
        "init (random weights of `architecture`, from the seed)"
    )
    revision: str | None = Field(
        None, description="of the hub's repository: a commit, which stays the same, or a branch or tag, which may not"
    )
    architecture: dict[str, Any] = Field(
        default_factory=dict, description="for init: the configuration, transformers' or Michelangelo's names"
    )
    num_heads: Positive | None = Field(None, description="Michelangelo only: heads are not in its weights (width / 64)")

    @model_validator(mode="after")
    def _known_source(self) -> Self:
        kind = self.source.partition(":")[0]
        if kind not in ("hub", "path", "shipped", "package", "init"):
            raise ValueError(f"source {self.source!r} must begin with hub:, path:, shipped: or package:, or be init")
        if kind == "init" and not self.architecture:
            raise ValueError("source init needs an architecture")
        return self

    @property
    def pinned(self) -> bool:
        """Whether it is the same at any time: not what happens to be in a hub's repository."""
        return not self.source.startswith("hub:") or re.fullmatch("[0-9a-f]{40}", self.revision or "") is not None


class Models(Section):
    """The language model and the two frozen encoders."""

    llm: Model
    image_encoder: Model
    point_cloud_encoder: Model


class Synthetic(Section):
    """The corpus that the project makes itself."""

    num_models: Positive = Field(description="how many parts")
    families: tuple[str, ...] = Field(description="which families of parts, in turn")
    unseen_families: tuple[str, ...] = Field((), description="further families, which only test models are made of")
    general: Fraction = Field(
        0.0, description="share of parts of no family: random sketches and sequences, as broad as Omni-CAD's"
    )


class Split(Section):
    """Fractions of base models; the published test split is used where the dataset has it."""

    validation: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


class Data(Section):
    """Which models, and how they are divided."""

    source: Literal["synthetic", "omnicad"]
    path: str = Field(
        description="Omni-CAD as published: a folder with json/ and txt/, or Omni-CAD.zip. DVC watches it; a file that "
        "is always there takes its place where no data is read"
    )
    limit: Positive | None = Field(description="take only this many entries (in order of id); null for all")
    synthetic: Synthetic
    split: Split
    prefixes: Annotated[int, Field(ge=0)] = Field(
        description="at most so many prefixes of each training model become models of their own, as in Omni-CAD"
    )
    duplicates: Literal["drop", "keep"] = Field(
        description="drop: a validation or test model whose program training has, or a pretrained network has seen, is "
        "left out"
    )
    shard_size: Positive = Field(description="models per shard")
    max_program_tokens: Annotated[int, Field(ge=16, le=32768)] = Field(description="longer programs are rejected")


class Codec(Section):
    """The CAD token vocabulary."""

    bits: Annotated[int, Field(ge=6, le=12)] = Field(description="bits of a quantised value")
    tolerance: Annotated[float, Field(ge=0, le=1)] = Field(
        description="share of a solid's volume that rounding may cost before numbers take a second, finer token"
    )


class Kernel(Section):
    """Limits of one model's kernel work, in a process of its own."""

    timeout_s: Annotated[float, Field(gt=0)]
    memory_mib: Annotated[int, Field(ge=256)]


class Geometry(Section):
    """What is drawn from each solid."""

    num_points: Annotated[int, Field(ge=16)] = Field(description="surface points with normals")
    num_views: Annotated[int, Field(ge=1, le=8)]
    image_size: Annotated[int, Field(ge=32, le=1024)] = Field(description="pixels along a side")
    num_queries: Annotated[int, Field(ge=0)] = Field(
        0, description="points in space that know whether they are inside: what pretraining a shape encoder needs"
    )


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
