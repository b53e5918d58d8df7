"""Sections of params.yaml that all curriculum stages share: the trained parts, and how they are trained."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.section import Fraction, Positive, Section, Seed

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "nf4"]


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


class Training(Section):
    """What all curriculum stages share."""

    seed: Seed | None = Field(description="of training alone: another run on the same data; null: the one above all")
    batch_size: Positive = Field(
        description="samples of an optimizer step, over all processes; an epoch is divided evenly, so a few less"
    )
    tokens_per_batch: Positive = Field(description="positions of a micro-batch, which is what memory holds at once")
    projector_lr_multiplier: Annotated[float, Field(gt=0)]
    projector_lr_adaptation: Fraction = Field(
        description="0: both projectors at the same rate. Above: it follows the modality's complexity (dimensions that "
        "its features fill, over those of the captions' embeddings) to this power, within 1/4 and 4"
    )
    vocabulary_lr_multiplier: Annotated[float, Field(gt=0)] = Field(description="for the new CAD embeddings")
    text_lr_multiplier: Annotated[float, Field(gt=0)] = Field(description="for the LLM's own, where a stage trains all")
    schedule: Literal["cosine", "linear", "constant"]
    warmup_fraction: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    dtype: Dtype = Field(description="of the frozen weights and activations")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: CUDA where there is one")
    quantization: Quantization = Field(description="nf4: frozen weights in 4 bits (QLoRA; bitsandbytes)")
    distributed: Literal["ddp", "fsdp2"] = Field(description="what several processes do: replicate or shard the model")
    gradient_checkpointing: bool = Field(description="recompute activations in the backward pass")
    compile: bool = Field(description="torch.compile for the decoder layers")
    log_every: Positive = Field(description="optimizer steps between lines of the log")
    save_every: Positive = Field(description="optimizer steps between resumable states in scratch")
    keep_states: Positive = Field(description="resumable states that are kept")
    validate_every_epochs: Annotated[float, Field(gt=0)] = Field(description="0.25: four times in an epoch")
    max_validation_samples: Positive
    retention_threshold: Annotated[float, Field(ge=1)] = Field(
        description="warn where text-only loss is so many times that of the curriculum's first stage"
    )

    @property
    def weight_bytes(self) -> float:
        """Of a frozen weight."""
        if self.quantization == "nf4":
            return 0.5
        return 4.0 if self.dtype == "float32" else 2.0
