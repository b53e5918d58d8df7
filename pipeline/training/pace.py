"""How the loss of a stage went, out of its log: the spike at its start, its slope and variance, or no fall at all.

What the curriculum document expects: the first stage falls steadily and fast; a new modality may make the loss spike,
from which it comes down gradually, later ones more slowly but in a more stable way.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.params import CurriculumStage, Params

FLAT = 0.01  # a validation loss that falls by a smaller share did not fall
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Pace:
    """The training loss of one stage. Its start and end are means over a tenth of the log's lines.

    Attributes:
        before: the end of the stage that it goes on from; None for one that starts from the language model.
        recovered: steps until the mean over a tenth is no longer above that; 0 if it never was, None if it stays above.
        slope: per epoch, of the line through the stage's second half; None where that is less than three lines.
        variance: around this line.
    """

    before: float | None
    start: float
    end: float
    recovered: int | None
    slope: float | None
    variance: float | None

    @property
    def spike(self) -> float | None:
        """The start over the end of the stage that it goes on from."""
        return None if self.before is None else self.start / self.before


def parent_of(stage: CurriculumStage) -> str | None:
    """The stage whose checkpoint a stage goes on from; None for one that starts from the language model."""
    folder, name, *_ = Path(stage.init_from).parts
    return name if folder == "checkpoints" else None


def paces(curriculum: Mapping[str, CurriculumStage], logs: Mapping[str, Lines]) -> dict[str, Pace]:
    """The pace of each stage, given the lines of their logs in the order of training."""
    found: dict[str, Pace] = {}
    for name, lines in logs.items():
        parent = parent_of(curriculum[name])
        found[name] = _pace(lines, found[parent].end if parent else None)
    return found


def _pace(lines: Lines, before: float | None) -> Pace:
    steps, losses = zip(*((line["step"], line["loss"]) for line in lines if line["event"] == "train"), strict=True)
    width = max(1, len(losses) // 10)
    means = [statistics.fmean(losses[at : at + width]) for at in range(len(losses) - width + 1)]
    recovered: int | None = 0
    if before is not None and means[0] > before:
        recovered = next((steps[at + width - 1] for at, mean in enumerate(means) if mean <= before), None)
    slope = variance = None
    half = len(losses) // 2
    if len(losses) - half >= 3:
        last = next(line for line in reversed(lines) if line["event"] == "validation")
        epochs = [step * last["epochs"] / last["step"] for step in steps[half:]]
        slope, height = statistics.linear_regression(epochs, losses[half:])
        variance = statistics.fmean(
            (loss - height - slope * at) ** 2 for at, loss in zip(epochs, losses[half:], strict=True)
        )
    return Pace(before, means[0], means[-1], recovered, slope, variance)


def new_modalities(curriculum: Mapping[str, CurriculumStage], name: str) -> list[str]:
    """Encoded modalities that a stage shows and none of those that it goes on from."""
    stage = curriculum[name]
    new = list(stage.encoded)
    while parent := parent_of(stage):
        stage = curriculum[parent]
        new = [modality for modality in new if modality not in stage.modalities]
    return new


def flat_loss_advice(lines: Lines, params: Params, name: str) -> str | None:
    """A warning with the document's remedies where the loss with a stage's new modalities did not fall; else None.

    Only these are judged: what an earlier stage has taught may well stay where it is.

    Args:
        lines: of the stage's log; its first and last validation are compared, by their mean over all combinations that
            show a new modality.
    """
    stage, new = params.curriculum[name], new_modalities(params.curriculum, name)
    validations = [line["loss"] for line in lines if line["event"] == "validation"]
    shown = [combination for combination in validations[0] if set(new) & set(combination.split("+"))]
    if not shown:
        return None
    first, last = (statistics.fmean(losses[name] for name in shown) for losses in (validations[0], validations[-1]))
    if last <= (1 - FLAT) * first:
        return None
    untrained = [modality for modality in new if modality not in stage.trained_projectors]
    projectors = (
        f"Train the projector of {', '.join(untrained)} (curriculum.{name}.train_projectors)"
        if untrained
        else f"Raise training.projector_lr_multiplier (now {params.training.projector_lr_multiplier:g})"
    )
    length = f"epochs (now {stage.epochs})" if stage.epochs else f"steps (now {stage.steps})"
    return (
        f"validation loss with {' or '.join(new)} went from {first:.3f} to {last:.3f} in {name}, which is no fall by "
        f"{FLAT:.0%}: the stage hardly learns what it adds. {projectors}, lower curriculum.{name}.lr "
        f"(now {stage.lr:g}), or give curriculum.{name} more {length}"
    )
