"""The section `tracking` of params.yaml, and what training reads besides."""

from typing import Literal

from pydantic import Field

from pipeline.cad.language.settings import Codec
from pipeline.curriculum.settings import CurriculumSections
from pipeline.model.settings import ModelParams
from pipeline.settings.section import Section


class Tracking(Section):
    """Weights & Biases; the truth is in the stages' JSONL."""

    wandb_mode: Literal["offline", "online", "disabled"]
    wandb_project: str
    wandb_entity: str | None


class TrackedSections(CurriculumSections):
    """What runs in Weights & Biases are told by."""

    preset: str = Field(description="the preset this file was made from")
    tracking: Tracking


class TrainSections(TrackedSections):
    """What training reads. `preset` and `tracking` are told to Weights & Biases, and change no result."""

    codec: Codec
    model: ModelParams
