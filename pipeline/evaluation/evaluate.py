"""The evaluate stage: validation loss, and test models generated, built and measured, for every combination."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.settings import MODALITIES
from pipeline.evaluation.evaluator import Evaluator, Measurement
from pipeline.metrics.geometry import chamfer_bounds
from pipeline.metrics.statistics import COMPLETION, summarise

CONDITIONING_METRIC = "chamfer_l1_mean"


def evaluate(
    evaluator: Evaluator, validation: TrainingData, progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Measure a model; generated programs and pictures are written to the evaluator's folder ``whole``.

    Returns:
        Figures for each combination; those of completing programs; how far off a program is with another model's
        input; what share is well-formed without the grammar, of the first combination; and between which bounds
        chamfer distances lie.
    """
    limits, losses = evaluator.setting.evaluation, evaluator.losses(validation)
    shown, swapped, completed, free = planned(evaluator)
    total = len(shown) + len(swapped) + len(completed) + 1
    evaluator.ahead([*shown, *swapped, *completed, free], progress)
    figures: dict[str, Any] = {}
    lines = {}
    for number, each in enumerate(shown):
        progress(number, total, f"generating from {each.combination}")
        lines[each.name] = evaluator.results(each)
        figures[each.name] = {"validation_loss": losses[each.name], **summarise(lines[each.name])}
    found: dict[str, Any] = {"combinations": figures}
    if swapped:
        found["conditioning"] = {}
    for number, each in enumerate(swapped, len(shown)):
        progress(number, total, f"generating from {each.combination} with another model's {each.modality}")
        right = figures[each.combination]["metrics"][CONDITIONING_METRIC]["median"]
        other = statistics.median(result["metrics"][CONDITIONING_METRIC] for result in evaluator.results(each))
        ratio = right / other if other > 0 else None
        told = {"combination": each.combination, "right": right, "other": other, "ratio": ratio}
        found["conditioning"][each.modality] = told
    for each in completed:
        progress(total - 2, total, f"completing from {each.combination}")
        lines[COMPLETION] = evaluator.results(each)
        if lines[COMPLETION]:
            found[COMPLETION] = {"combination": each.combination, **summarise(lines[COMPLETION])}
    progress(total - 1, total, f"generating from {free.combination} without the grammar")
    well_formed = evaluator.results(free)
    found["syntax"] = {"combination": free.combination, "well_formed_rate": sum(well_formed) / len(well_formed)}
    evaluator.finish(lines)
    progress(total, total, "solids built and measured")
    return {**found, "chamfer_l1_mean_bounds": chamfer_bounds(list(evaluator.cases.clouds.values()), limits.num_points)}


Planned = tuple[list[Measurement], list[Measurement], list[Measurement], Measurement]


def planned(evaluator: Evaluator) -> Planned:
    """What is measured: each combination, each with another model's input, completions, and without the grammar."""
    limits, rows = evaluator.setting.evaluation, tuple(evaluator.rows)
    names = list(evaluator.setting.stage.combinations)
    conditions = conditioning_cases(names) if limits.conditioning and len(rows) > 1 else {}
    shown = [Measurement(name, rows, name) for name in names]
    swapped = [
        Measurement(f"{combination}-other-{modality}", rows, combination, "swapped", modality)
        for modality, combination in conditions.items()
    ]
    completed = []
    if limits.completion:
        completed = [Measurement(COMPLETION, tuple(evaluator.cases.completable()), names[-1], "completed")]
    return shown, swapped, completed, Measurement("syntax", rows, names[0], "free")


def conditioning_cases(combinations: Sequence[str]) -> dict[str, str]:
    """For each modality that is shown the combination in which it is exchanged."""
    found = {modality: shown_by(combinations, modality) for modality in MODALITIES}
    return {modality: combination for modality, combination in found.items() if combination is not None}


def shown_by(combinations: Sequence[str], modality: str) -> str | None:
    """The combination by which a modality is tried: with the caption, or alone."""
    return next((c for c in combinations if c in (f"text+{modality}", modality)), None)
