"""The sections `curriculum` and `training` of params.yaml: stages in the order of training, and what they share."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings.computing import Device, Dtype, Quantization
from pipeline.settings.params import Sections
from pipeline.settings.section import Fraction, Positive, Section, Seed

MODALITIES = ("text", "point_cloud", "image")
Encoded = Literal["point_cloud", "image"]  # modalities that come as features of an encoder
COMBINATIONS = (  # modalities joined by "+", in the order of MODALITIES
    "text",
    "text+point_cloud",
    "text+image",
    "text+point_cloud+image",
    "point_cloud",
    "image",
    "point_cloud+image",
)
Probabilities = dict[str, Fraction]


class EarlyStopping(Section):
    """Dynamic curriculum: the validation loss, weighted as samples are shown, decides how long a stage is.

    Its learning rate warms up and stays until the loss no longer improves, or until there is no more time than the
    decay needs; then it decays as `training.schedule` says, and the stage ends.
    """

    patience: Positive = Field(
        description="validations without improvement before the rate decays; one is enough once `epochs` are over"
    )
    min_delta: Annotated[float, Field(ge=0)] = Field(0.0, description="an improvement is more than this share")
    min_epochs: Annotated[float, Field(ge=0)] = Field(default=1.0, description="the rate never decays before")
    max_epochs: Positive | None = Field(
        None, description="a stage that still improves after `epochs` goes on, to this at most; null: it ends with them"
    )
    decay_fraction: Fraction = Field(
        0.2, description="length of the decay, as a share of the steps before it; schedule constant has none"
    )


class Rollouts(Section):
    """Objective `geometry`: programs that the model writes for training samples, and what they are worth.

    The reward is the IoU of the program's solid with the true one, less a cost for length; 0 at least, and 0 where
    nothing can be judged. Programs are learnt from by how much they are better than the others of their sample.
    """

    batch_size: Positive = Field(default=8, description="samples of an optimizer step, in place of training.batch_size")
    group_size: Annotated[int, Field(ge=2)] = Field(default=8, description="programs that are written for each of them")
    temperature: Annotated[float, Field(gt=0)] = Field(default=1.0, description="at which they are written")
    max_new_tokens: Annotated[int, Field(ge=16)] = Field(default=128, description="every program ends within it")
    length_cost: Annotated[float, Field(ge=0)] = Field(default=0.0005, description="of each token, off the reward")


class CurriculumStage(Section):
    """One stage of the curriculum. `init_from`, `point_cloud` and `image` are what DVC watches for it."""

    init_from: str = Field(description="models/llm, or the checkpoint of the stage before, or `best` in it")
    point_cloud: str = Field(description="data/features/point_cloud where the stage shows it, else data/corpus")
    image: str = Field(description="data/features/image where the stage shows it, else data/corpus")
    modality_sample_probs: Probabilities
    final_modality_sample_probs: Probabilities | None = Field(
        None, description="curriculum scheduling: probabilities shift linearly to these in the course of the stage"
    )
    modality_dropout: dict[Literal["text", "point_cloud", "image"], Fraction] = Field(
        default_factory=dict, description="how often a modality is left out of what was drawn; one always stays"
    )
    objective: Literal["tokens", "geometry"] = Field(
        "tokens", description="the true program's tokens are made likely; or programs whose solid is like the true one"
    )
    rollouts: Rollouts = Field(Rollouts(), description="for objective geometry")
    epochs: Positive | None = Field(None, description="how long; or `steps`")
    steps: Positive | None = Field(None, description="optimizer steps, in place of `epochs`")
    early_stopping: EarlyStopping | None = None
    lr: Annotated[float, Field(gt=0)]
    train_llm: bool = Field(description="LoRA")
    text_embeddings: Literal["new", "all", "none"] = Field(
        description="new: the CAD vocabulary's rows; all: those of the captions' tokens too"
    )
    train_projectors: bool | tuple[Encoded, ...] = Field(description="true: of all modalities shown; or a list")

    def batch_size(self, given: int) -> int:
        """Training samples of an optimizer step, where ``training.batch_size`` is ``given``."""
        return self.rollouts.batch_size if self.objective == "geometry" else given

    @property
    def max_epochs(self) -> int | None:
        """The most epochs that it may take; None where it is so many steps long."""
        extended = self.early_stopping.max_epochs if self.early_stopping else None
        return extended or self.epochs

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the stage shows, in the order of ``MODALITIES``."""
        given = (*self.modality_sample_probs, *(self.final_modality_sample_probs or ()))
        shown = {m for combination in given for m in combination.split("+")}
        return tuple(m for m in MODALITIES if m in shown)

    @property
    def encoded(self) -> tuple[str, ...]:
        """Modalities shown that are features of an encoder."""
        return tuple(m for m in self.modalities if m != "text")

    @property
    def trained_projectors(self) -> tuple[str, ...]:
        """Modalities whose projector is trained."""
        if isinstance(self.train_projectors, bool):
            return self.encoded if self.train_projectors else ()
        return self.train_projectors

    @property
    def combinations(self) -> tuple[str, ...]:
        """Combinations that are asked of the model: all with text that it knows, and those without that were shown."""
        given = {*self.modality_sample_probs, *(self.final_modality_sample_probs or ())}
        without_text = self.modality_dropout.get("text", 0) > 0
        return tuple(
            c
            for c in COMBINATIONS
            if c in given or (("text" in c or without_text) and set(c.split("+")) <= set(self.modalities))
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("modality_sample_probs", "final_modality_sample_probs"):
            given = getattr(self, name)
            for combination in given or ():
                if combination not in COMBINATIONS:
                    raise ValueError(f"{name}.{combination}: one of {', '.join(COMBINATIONS)}")
            if given is not None and abs(sum(given.values()) - 1) > 1e-6:
                raise ValueError(f"{name} add up to {sum(given.values()):g}, not 1")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("either epochs or steps says how long the stage is")
        if self.objective == "tokens" and self.rollouts != Rollouts():
            raise ValueError("rollouts are of objective geometry")
        rule = self.early_stopping
        if rule and rule.max_epochs and (self.epochs is None or rule.max_epochs < self.epochs):
            raise ValueError("early_stopping.max_epochs extends epochs: it needs them, and may not be less")
        for modality in (*self.modality_dropout, *self.trained_projectors):
            if modality not in self.modalities:
                raise ValueError(f"{modality} has a dropout or a trained projector, but the stage never shows it")
        for modality, given in (("point_cloud", self.point_cloud), ("image", self.image)):
            due = f"data/features/{modality}" if modality in self.modalities else "data/corpus"
            if given != due:
                raise ValueError(f"{modality} must be {due}, since its probabilities say so (DVC watches it)")
        return self


class Training(Device, extra="forbid"):
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


class CurriculumSections(Sections):
    """What all that is done with the curriculum reads."""

    seed: Seed
    training: Training
    curriculum: dict[str, CurriculumStage] = Field(min_length=1)
