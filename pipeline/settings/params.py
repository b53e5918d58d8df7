"""``params.yaml`` as frozen models. Every key is documented here; unknown keys and impossible values are errors."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.runtime.errors import UserError
from pipeline.settings.recipes import Pretraining
from pipeline.settings.section import Fraction, Positive, Section, validated
from pipeline.settings.yaml_files import plain, read_yaml

PARAMS_FILE = Path("params.yaml")
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
Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "nf4"]


# -- models -------------------------------------------------------------------------------------------------


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


# -- data ---------------------------------------------------------------------------------------------------


class Synthetic(Section):
    """The corpus that the project makes itself."""

    num_models: Positive = Field(description="how many parts")
    families: tuple[str, ...] = Field(description="which families of parts, in turn")
    unseen_families: tuple[str, ...] = Field((), description="further families, which only test models are made of")


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


# -- model and training -------------------------------------------------------------------------------------


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

    seed: Annotated[int, Field(ge=0)] = Field(
        description="added to `seed` in training alone: other runs on the same data"
    )
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


class EarlyStopping(Section):
    """Dynamic curriculum: the validation loss, weighted as samples are shown, decides how long a stage is.

    Its learning rate warms up and stays until the loss no longer improves, or until there is no more time than the
    decay needs; then it decays as `training.schedule` says, and the stage ends.
    """

    patience: Positive = Field(
        description="validations without improvement before the rate decays; one is enough once `epochs` are over"
    )
    min_delta: Annotated[float, Field(ge=0)] = Field(0.0, description="an improvement is more than this share")
    min_epochs: Annotated[float, Field(ge=0)] = Field(1.0, description="the rate never decays before")
    max_epochs: Positive | None = Field(
        None, description="a stage that still improves after `epochs` goes on, to this at most; null: it ends with them"
    )
    decay_fraction: Fraction = Field(
        0.2, description="length of the decay, as a share of the steps before it; schedule constant has none"
    )


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
    epochs: Positive | None = Field(None, description="how long; or `steps`")
    steps: Positive | None = Field(None, description="optimizer steps, in place of `epochs`")
    early_stopping: EarlyStopping | None = None
    lr: Annotated[float, Field(gt=0)]
    train_llm: bool = Field(description="LoRA")
    text_embeddings: Literal["new", "all", "none"] = Field(
        description="new: the CAD vocabulary's rows; all: those of the captions' tokens too"
    )
    train_projectors: bool | tuple[Encoded, ...] = Field(description="true: of all modalities shown; or a list")

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


class Evaluation(Section):
    """What is measured after each stage."""

    num_test_models: Positive = Field(description="test models that are generated, for each combination")
    max_new_tokens: Annotated[int, Field(ge=16)]
    batch_size: Positive
    num_points: Annotated[int, Field(ge=16)] = Field(description="points of each side of a chamfer distance")
    num_candidates: Positive = Field(description="programs for each prompt, of which the best by its input is kept")
    temperature: Annotated[float, Field(gt=0)] = Field(description="of all candidates but the first, which is greedy")
    completion: bool = Field(description="also complete the first half of test programs")
    conditioning: bool = Field(description="also generate from another test model's caption, points, images")


class Robustness(Section):
    """Worse inputs, tried on the last stage. Lists may be empty."""

    noise: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        description="standard deviation of Gaussian noise on points, in the normalised frame"
    )
    dropped: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(description="share of the points left out")
    rotations_deg: tuple[float, ...] = Field(description="turns of the part about z before it is seen")


class Transfer(Section):
    """Real models that nothing is trained on, tried on the last stage."""

    path: str = Field(
        description="Omni-CAD, or the folder that it is in; without one nothing is measured (DVC watches it)"
    )
    limit: Positive = Field(description="take only so many entries, in order of id")
    num_test_models: Positive = Field(description="of these are generated, for each combination")


class Tracking(Section):
    """Weights & Biases; the truth is in the stages' JSONL."""

    wandb_mode: Literal["offline", "online", "disabled"]
    wandb_project: str
    wandb_entity: str | None


class Params(Section):
    """All of params.yaml."""

    preset: str = Field(description="the preset this file was made from")
    seed: Annotated[int, Field(ge=0)]
    models: Models
    data: Data
    codec: Codec
    kernel: Kernel
    geometry: Geometry
    features: Features
    model: ModelParams
    training: Training
    curriculum: dict[str, CurriculumStage] = Field(min_length=1)
    evaluation: Evaluation
    robustness: Robustness
    transfer: Transfer
    tracking: Tracking
    pretraining: Pretraining | None = None

    @model_validator(mode="after")
    def _chained(self) -> Self:
        faults = []
        if self.training.distributed == "fsdp2" and self.training.dtype == "float16":
            faults.append(
                "training.distributed fsdp2 needs training.dtype bfloat16 or float32: no scaled loss in shards"
            )
        earlier = ["models/llm"]
        dynamic = {f"checkpoints/{name}": name for name, stage in self.curriculum.items() if stage.early_stopping}
        for name, stage in self.curriculum.items():
            if stage.init_from not in earlier:
                faults.append(f"curriculum.{name}.init_from: {stage.init_from} is not one of {', '.join(earlier)}")
            elif parent := dynamic.get(stage.init_from):
                faults.append(
                    f"curriculum.{name}.init_from must be {stage.init_from}/best, since {parent} has early_stopping: "
                    "what follows starts from its best validation (DVC watches it)"
                )
            earlier += [f"checkpoints/{name}", f"checkpoints/{name}/best"]
        if self.model.views_per_sample > self.geometry.num_views:
            faults.append("model.views_per_sample is more than geometry.num_views")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def load(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: all faults at once, each with its key.
    """
    return parse(plain(read_yaml(path)), str(path))


def parse(document: Any, name: str) -> Params:
    """Check a parsed document. Raises as ``load``."""
    return validated(Params, document, name)


def num_workers() -> int:
    """Processes for CPU work: CADMLLM_WORKERS, or one per usable core. It changes no result, so it is no parameter."""
    given = os.environ.get("CADMLLM_WORKERS", "")
    if given and not (given.isdigit() and int(given) > 0):
        raise UserError(f"CADMLLM_WORKERS={given!r} is not a positive number")
    return int(given) if given else len(os.sched_getaffinity(0))
