"""What training says at its end, and the report once more: that a stage hardly learnt what it adds."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.curriculum.schedule import without
from pipeline.curriculum.settings import CurriculumSections, CurriculumStage

FLAT = 0.01  # a validation loss that falls by a smaller share did not fall
Lines = Sequence[Mapping[str, Any]]


def parent_of(stage: CurriculumStage) -> str | None:
    """The stage whose checkpoint a stage goes on from; None for one that starts from the language model."""
    folder, name, *_ = Path(stage.init_from).parts
    return name if folder == "checkpoints" else None


def new_modalities(curriculum: Mapping[str, CurriculumStage], name: str) -> list[str]:
    """Encoded modalities that a stage shows and none of those that it goes on from."""
    stage = curriculum[name]
    new = list(stage.encoded)
    while parent := parent_of(stage):
        stage = curriculum[parent]
        new = [modality for modality in new if modality not in stage.modalities]
    return new


def flat_loss_advice(lines: Lines, params: CurriculumSections, name: str) -> str | None:
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


def _remedies(params: CurriculumSections, name: str, flat: Sequence[str], end: Mapping[str, Any]) -> list[str]:
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
