"""``params.yaml`` as frozen models. Unknown keys and impossible values are errors."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.runtime.errors import UserError
from pipeline.settings.curriculum import CurriculumStage
from pipeline.settings.data import Codec, Data, Features, Geometry, Kernel, Models
from pipeline.settings.recipes import Pretraining
from pipeline.settings.section import Positive, Section, Seed, validated
from pipeline.settings.training import ModelParams, Training
from pipeline.settings.yaml_files import plain, read_yaml

PARAMS_FILE = Path("params.yaml")


class Evaluation(Section):
    """What is measured after each stage."""

    num_test_models: Positive = Field(description="test models that are generated, for each combination")
    max_new_tokens: Annotated[int, Field(ge=16)]
    batch_size: Positive
    num_points: Annotated[int, Field(ge=16)] = Field(description="points of each side of a chamfer distance")
    num_candidates: Positive = Field(description="programs for each prompt, of which the best by its input is kept")
    temperature: Annotated[float, Field(gt=0)] = Field(description="of all candidates but the first, which is greedy")
    search_builds: Annotated[int, Field(ge=0)] = Field(
        description="programs that search judges, at most, to improve each that a cloud is shown for; 0: no search"
    )
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
    seed: Seed
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
            if stage.objective == "geometry" and self.model.vocabulary == "text":
                faults.append(
                    f"curriculum.{name}.objective geometry needs model.vocabulary cad: programs are held to its grammar"
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
