"""All of params.yaml. ``cadmllm`` looks at it before each pipeline stage; no result depends on it."""

from typing import Self

from pydantic import Field, model_validator

from pipeline.cad.language.settings import Codec
from pipeline.cad.solids.settings import Kernel
from pipeline.corpus.settings import Data
from pipeline.curriculum.settings import CurriculumStage, Training
from pipeline.evaluation.real_models import TransferSections
from pipeline.evaluation.settings import Evaluation, Robustness, Transfer
from pipeline.evaluation.setup import RobustnessSections
from pipeline.execution.settings import LOCAL, Execution
from pipeline.features.settings import Features
from pipeline.geometry.settings import Geometry
from pipeline.model.settings import ModelParams
from pipeline.pretraining.settings import Pretraining
from pipeline.settings.section import Seed
from pipeline.shards.storage.settings import Storage
from pipeline.training.settings import Tracking, TrainSections
from pipeline.weights.settings import Models


class Params(TrainSections, RobustnessSections, TransferSections, extra="forbid"):
    """All sections, and what they must have in common. Unknown keys and impossible values are errors."""

    preset: str = Field(description="the preset this file was made from")
    seed: Seed
    models: Models
    execution: Execution = LOCAL
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
    storage: Storage = Storage()
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
