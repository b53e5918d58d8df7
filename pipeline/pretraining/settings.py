"""The section `pretraining` of params.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.settings.section import Fraction, Positive, Section


class Recipe(Section):
    """How long something is pretrained, and how fast it learns: AdamW with warm-up and cosine decay."""

    steps: Positive
    batch_size: Positive
    lr: Annotated[float, Field(gt=0)]
    warmup_fraction: Fraction = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    save_every: Positive = 200
    log_every: Positive = 20


class ShapePretraining(Recipe):
    """The point cloud encoder: occupancy from its latents, and alignment with pictures and captions."""

    num_points: Positive = Field(description="of a cloud, drawn anew each time")
    num_queries: Positive = Field(description="points in space, drawn anew each time")
    latent_width: Positive = Field(description="of the variational bottleneck that the solid is read from")
    kl_weight: Annotated[float, Field(ge=0)]
    contrastive_weight: Annotated[float, Field(ge=0)]


class ImagePretraining(Recipe):
    """The image encoder: aligned with the finished point cloud encoder."""

    num_views: Positive = Field(description="of a model, drawn anew each time")
    pool: Positive = Field(description="patches averaged along each side into one token, as features.image.pool")
    contrastive_weight: Annotated[float, Field(ge=0)]
    heads: Recipe = Field(description="then both heads, on what the finished encoders say: more at once to tell apart")


def _whole(given: dict[str, float]) -> dict[str, float]:
    if abs(sum(given.values()) - 1) > 1e-6:
        raise ValueError(f"they add up to {sum(given.values()):g}, not 1")
    return given


Seen = Literal["text", "point_cloud", "text+point_cloud"]
Pictured = Literal["image", "text+image", "point_cloud+image", "text+point_cloud+image"]


class ReconstructionPretraining(Recipe):
    """The point cloud encoder and the language model together: programs from clouds and from captions."""

    num_points: Positive = Field(description="of a cloud, drawn anew each time")
    modality_sample_probs: Annotated[dict[Seen, Fraction], AfterValidator(_whole)] = Field(
        description="how often a batch shows what"
    )


class LanguagePretraining(Recipe):
    """The language model goes on: programs from captions, and from what the finished encoders see."""

    num_points: Positive = Field(description="of a cloud, drawn anew each time")
    num_views: Positive = Field(description="of a model, at most: one up to so many, drawn for each step")
    modality_sample_probs: Annotated[dict[Seen | Pictured, Fraction], AfterValidator(_whole)] = Field(
        description="how often a batch shows what"
    )


class Pretraining(Section):
    """What `cadmllm pretrain` makes: the weights that the package ships."""

    embedding_width: Positive = Field(description="of the space in which clouds, pictures and captions are compared")
    vocabulary_size: Positive = Field(description="of the captions' tokens; CAD tokens come on top")
    shape_encoder: ShapePretraining
    reconstruction: ReconstructionPretraining
    image_encoder: ImagePretraining
    language_model: LanguagePretraining
    text_model: Recipe = Field(description="language models that learn from captions alone, for a study")
