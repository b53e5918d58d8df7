"""The section `data` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.cad.omnicad.settings import Source
from pipeline.settings.section import Fraction, Positive, Section


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


class Data(Source, extra="forbid"):
    """Which models, and how they are divided."""

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
