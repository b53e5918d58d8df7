"""What a sample shows in an epoch, how fast parts learn, and when a stage ends: pure functions of seed and position.

Nothing here depends on workers, ranks or restarts: the position in training is (stage, optimizer step).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.curriculum.settings import COMBINATIONS, MODALITIES, CurriculumStage, EarlyStopping
from pipeline.runtime.seeds import draws


def probabilities(stage: CurriculumStage, progress: float) -> dict[str, float]:
    """How likely each combination is drawn at ``progress`` of a stage, 0 to 1, before modality dropout.

    Curriculum scheduling: they shift linearly from ``modality_sample_probs`` to ``final_modality_sample_probs``.
    """
    first = stage.modality_sample_probs
    last = stage.final_modality_sample_probs or first
    mixed = {c: (1 - progress) * first.get(c, 0.0) + progress * last.get(c, 0.0) for c in COMBINATIONS}
    return {combination: share for combination, share in mixed.items() if share > 0}


def draw_combinations(
    stage: CurriculumStage, seed: int, epoch: int, names: np.ndarray, progress: float = 0.0
) -> list[str]:
    """Which modalities each sample shows in this epoch, after modality dropout.

    Args:
        names: (N,) the digests of the samples' keys.
    """
    given = probabilities(stage, progress)
    ends = np.cumsum(list(given.values()))[:-1]  # what rounding leaves below 1 is the last one's
    combinations = list(given)
    drawn = [combinations[at] for at in np.searchsorted(ends, draws(names, seed, "modality", epoch), "right").tolist()]
    drops = {m: draws(names, seed, "drop", epoch, m) < share for m, share in stage.modality_dropout.items()}
    for at in np.flatnonzero(np.any(list(drops.values()), axis=0)) if drops else ():
        drawn[at] = without(drawn[at], {modality for modality, dropped in drops.items() if dropped[at]})
    return drawn


def without(combination: str, dropped: Collection[str]) -> str:
    """A combination less the modalities dropped; the last that is left stays, text rather than another."""
    shown = combination.split("+")
    for modality in reversed(MODALITIES):
        if modality in dropped and modality in shown and len(shown) > 1:
            shown.remove(modality)
    return "+".join(shown)


def expected_shares(stage: CurriculumStage, progress: float) -> dict[str, float]:
    """How often each combination is meant to be shown at ``progress``: the probabilities, after modality dropout."""
    shares = dict.fromkeys(COMBINATIONS, 0.0)
    dropout = list(stage.modality_dropout.items())
    for combination, probability in probabilities(stage, progress).items():
        for chosen in range(2 ** len(dropout)):  # every set of modalities that may be dropped
            dropped = {modality for i, (modality, _) in enumerate(dropout) if chosen >> i & 1}
            likely = math.prod(share if modality in dropped else 1 - share for modality, share in dropout)
            shares[without(combination, dropped)] += probability * likely
    return {combination: share for combination, share in shares.items() if share > 0}


def draw_views(num_views: int, shown: int, seed: int, epoch: int, names: np.ndarray) -> list[tuple[int, ...]]:
    """Which views each sample shows in this epoch, in ascending order.

    Args:
        names: (N,) the digests of the samples' keys.
    """
    if not num_views:
        return [()] * len(names)
    drawn = np.stack([draws(names, seed, "view", epoch, view) for view in range(num_views)], axis=1)
    chosen = np.sort(np.argsort(drawn, axis=1)[:, :shown], axis=1)
    return list(map(tuple, chosen.tolist()))


def learning_rate_factor(step: int, num_steps: int, schedule: str, warmup: int, decays_from: int = 0) -> float:
    """The factor on the stage's learning rate at a step counted from 0: linear warm-up, then decay towards 0.

    Args:
        warmup: its steps.
        decays_from: the step before which it does not decay (warm-up, stable, decay: Hu et al. 2024, 2404.06395).
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, decays_from)
    progress = max(0, step - start) / max(1, num_steps - start)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


def objective(stage: CurriculumStage, losses: Mapping[str, float]) -> float:
    """One validation loss for the stage: of each combination, weighted as the stage shows it in the end."""
    shares = {name: share for name, share in probabilities(stage, 1.0).items() if name in losses}
    return sum(share * losses[name] for name, share in shares.items()) / sum(shares.values())


def validation_objective(stage: CurriculumStage, line: Mapping[str, Any]) -> float:
    """The objective as a line of the log has it: what is less is better, for rewards too."""
    if stage.objective == "geometry":
        return objective(stage, {name: 1 - reward for name, reward in line["reward"].items()})
    return objective(stage, line["loss"])


@dataclass(frozen=True, slots=True)
class Course:
    """How many optimizer steps a stage has, and from which of them on its learning rate decays."""

    decays_from: int
    num_steps: int


def course(
    stage: CurriculumStage, schedule: str, most_steps: int, history: Sequence[tuple[int, float, float]]
) -> Course:
    """The course of a stage after its validations so far (dynamic curriculum).

    The longest that the stage may take, until a validation says otherwise; those that follow it change nothing, so
    the course is in the log whenever training is gone on with.

    Args:
        most_steps: optimizer steps that the stage may take.
        history: of each validation, the steps and epochs done and the objective; the first is from before training.
    """
    rule = stage.early_stopping
    if rule is None:
        return Course(0, most_steps)
    share = 0.0 if schedule == "constant" else rule.decay_fraction
    latest = int(most_steps / (1 + share))
    losses = [(epochs, value) for _, epochs, value in history]
    for number, (step, _, _) in enumerate(history, start=1):
        if step < latest and has_stopped_improving(rule, losses[:number], stage.epochs or math.inf):
            return Course(step, min(most_steps, step + math.ceil(share * step)))
    return Course(latest, most_steps)


def has_stopped_improving(
    rule: EarlyStopping, history: Sequence[tuple[float, float]], epochs: float = math.inf
) -> bool:
    """Whether the loss gives no reason to go on at the last of these validations.

    Args:
        history: of each validation, the epochs done and the objective; the first is from before training.
        epochs: after which one validation without improvement is enough.
    """
    if not history or history[-1][0] < rule.min_epochs:
        return False
    best, waited = history[0][1], 0
    for _, value in history[1:]:
        waited = 0 if value < best * (1 - rule.min_delta) else waited + 1
        best = min(best, value) if waited == 0 else best
    return waited >= (rule.patience if history[-1][0] < epochs else 1)
