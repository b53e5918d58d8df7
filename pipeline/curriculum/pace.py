"""How the loss of a stage went, out of its log: the spike at its start, its slope and variance, or no fall at all.

What the curriculum document expects: the first stage falls steadily and fast; a new modality may make the loss spike,
from which it comes down gradually, later ones more slowly but in a more stable way.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.curriculum.schedule import without
from pipeline.settings.curriculum import CurriculumStage
from pipeline.settings.params import Params

FLAT = 0.01  # a validation loss that falls by a smaller share did not fall
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Pace:
    """The training loss of one stage. Its start and end are means over a tenth of the log's lines, None if it has none.

    Attributes:
        before: the end of the stage that it goes on from; None where none is ``comparable``.
        recovered: steps until the mean over a tenth is no longer above that; 0 if it never was, None if it stays above.
        slope: per epoch, of the line through the stage's second half; None where that is less than three lines.
        variance: around this line.
    """

    before: float | None
    start: float | None
    end: float | None
    recovered: int | None
    slope: float | None
    variance: float | None

    @property
    def spike(self) -> float | None:
        """The start over the end of the stage that it goes on from."""
        return None if self.before is None or self.start is None else self.start / self.before


def parent_of(stage: CurriculumStage) -> str | None:
    """The stage whose checkpoint a stage goes on from; None for one that starts from the language model."""
    folder, name, *_ = Path(stage.init_from).parts
    return name if folder == "checkpoints" else None


def paces(curriculum: Mapping[str, CurriculumStage], logs: Mapping[str, Lines]) -> dict[str, Pace]:
    """The pace of each stage, given the lines of their logs in the order of training."""
    found: dict[str, Pace] = {}
    for name, lines in logs.items():
        before = comparable(curriculum, name)
        found[name] = _pace(lines, found[before].end if before else None)
    return found


def comparable(curriculum: Mapping[str, CurriculumStage], name: str) -> str | None:
    """The stage that a stage goes on from, where it has the same objective: other losses are in other units."""
    parent = parent_of(curriculum[name])
    return parent if parent and curriculum[parent].objective == curriculum[name].objective else None


def _pace(lines: Lines, before: float | None) -> Pace:
    train = [line for line in lines if line["event"] == "train"]
    if not train:
        return Pace(before, None, None, None, None, None)
    steps, losses = [line["step"] for line in train], [line["loss"] for line in train]
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
    """A warning with the document's remedies where a stage hardly learns its new modalities; else None.

    Only these are judged: what an earlier stage has taught may well stay where it is. Their loss, the mean over all
    combinations that show one, is to fall from the first validation to the last; and in the end each is to lower the
    loss in some combination. A fall alone says little: with random projectors at the start, the loss falls as well
    where the model learns to look away.

    Args:
        lines: of the stage's log.
    """
    new = new_modalities(params.curriculum, name)
    validations = [line for line in lines if line["event"] == "validation"]
    first, last = validations[0]["loss"], validations[-1]["loss"]
    shown = [combination for combination in last if set(new) & set(combination.split("+"))]
    if not shown or params.curriculum[name].objective == "geometry":  # which may well raise the loss
        return None
    start, end = (statistics.fmean(losses[combination] for combination in shown) for losses in (first, last))
    unused = {
        modality: pair
        for modality in new
        if (pair := best_use(last, modality)) and last[pair[0]] > (1 - FLAT) * last[pair[1]]
    }
    if end > (1 - FLAT) * start:
        flat, found = new, f"with {' or '.join(new)} went from {start:.3f} to {end:.3f} in {name}, which is no fall by"
    elif unused:
        pairs = "; ".join(f"{last[a]:.3f} with {a} and {last[b]:.3f} with {b}" for a, b in unused.values())
        flat, found = list(unused), f"is {pairs} at the end of {name}, which is no gain of"
    else:
        return None
    *others, final = _remedies(params, name, flat, validations[-1])
    return f"validation loss {found} {FLAT:.0%}: the stage hardly learns what it adds. {', '.join(others)}, or {final}"


def best_use(losses: Mapping[str, float], modality: str) -> tuple[str, str] | None:
    """The combination whose loss a modality lowers most, and the same without it; None where no two can be compared.

    The best, not the mean: beside another modality that tells the whole shape, a new one has nothing left to lower.
    """
    pairs = [(combination, without(combination, {modality})) for combination in losses]
    known = [pair for pair in pairs if pair[0] != pair[1] and pair[1] in losses]
    return min(known, key=lambda pair: losses[pair[0]] / losses[pair[1]], default=None)


def _remedies(params: Params, name: str, flat: Sequence[str], end: Mapping[str, Any]) -> list[str]:
    stage = params.curriculum[name]
    untrained = [modality for modality in flat if modality not in stage.trained_projectors]
    found = [
        f"Train the projector of {', '.join(untrained)} (curriculum.{name}.train_projectors)"
        if untrained
        else f"Raise training.projector_lr_multiplier (now {params.training.projector_lr_multiplier:g})",
        f"lower curriculum.{name}.lr (now {stage.lr:g})",
    ]
    done, most = (end["epochs"], stage.max_epochs) if stage.max_epochs else (end["step"], stage.steps)
    if stage.early_stopping is None or done >= most:  # else it had more, and made no use of it
        found.append(f"give curriculum.{name} more {'epochs' if stage.max_epochs else 'steps'} (now {most})")
    return found
