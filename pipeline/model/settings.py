"""The section `model` of params.yaml: the trained parts."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.section import Positive, Section


class Lora(Section):
    """PEFT LoRA."""

    r: Positive
    alpha: Annotated[float, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: tuple[str, ...] = Field(min_length=1)


class Projector(Section):
    """From a modality's embeddings into the language model's space."""

    kind: Literal["mlp", "resampler"] = Field(description="a two-layer GELU MLP, or learnt queries before it")
    hidden: Positive
    num_queries: Positive = Field(description="tokens that a resampler gives")


class Projectors(Section):
    """One for each modality."""

    point_cloud: Projector
    image: Projector


class ModelParams(Section):
    """The trained parts."""

    lora: Lora
    projectors: Projectors
    vocabulary: Literal["cad", "text"] = Field(
        description="cad: programs in tokens of their own; text: written out in the LLM's, no token added, no grammar"
    )
    max_caption_tokens: Positive = Field(description="longer captions are cut")
    views_per_sample: Annotated[int, Field(ge=1, le=8)] = Field(
        description="views drawn anew for each sample and epoch"
    )
