"""What a sample shows in an epoch, and in which order samples come: pure functions of the seed.

Nothing here depends on workers, ranks or restarts: the position in training is (stage, optimizer step).
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.params import COMBINATIONS, CurriculumStage, Training


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as it is shown once.

    Attributes:
        row: its number in the index.
        combination: the modalities shown, such as ``text+image``.
        views: numbers of the views shown; empty without images.
        length: positions in the sequence.
        num_targets: tokens with a loss.
    """

    row: int
    combination: str
    views: tuple[int, ...]
    length: int
    num_targets: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Positions that the parts of a sequence take.

    Attributes:
        prompts, programs: tokens of each row.
        modalities: tokens of each modality that is not text.
    """

    prompts: Sequence[int]
    programs: Sequence[int]
    modalities: dict[str, int]

    def of(self, row: int, combination: str) -> int:
        extra = sum(self.modalities[modality] for modality in combination.split("+") if modality != "text")
        return self.prompts[row] + self.programs[row] + extra


def uniform(*parts: object) -> float:
    """A number in [0, 1) that the parts alone decide."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def combination_for(stage: CurriculumStage, seed: int, epoch: int, key: str) -> str:
    """Which modalities the sample ``key`` shows in this epoch."""
    at = uniform(seed, "modality", epoch, key)
    given = [c for c in COMBINATIONS if stage.modality_sample_probs.get(c, 0) > 0]
    for combination in given:
        at -= stage.modality_sample_probs[combination]
        if at < 0:
            return combination
    return given[-1]


def views_for(num_views: int, shown: int, seed: int, epoch: int, key: str) -> tuple[int, ...]:
    """Which views the sample shows in this epoch, in ascending order."""
    ranked = sorted(range(num_views), key=lambda view: uniform(seed, "view", epoch, key, view))
    return tuple(sorted(ranked[:shown]))


def plan_epoch(
    keys: Sequence[str],
    lengths: Lengths,
    stage: CurriculumStage,
    training: Training,
    views: tuple[int, int],
    seed: int,
    epoch: int,
) -> list[list[Example]]:
    """The micro-batches of one epoch, in order; every sample once.

    Samples are shuffled, then grouped by length within windows, so that padding stays small and the order
    stays random.

    Args:
        views: how many there are, and how many are shown.
    """
    order = sorted(range(len(keys)), key=lambda row: uniform(seed, "order", epoch, keys[row]))
    examples = []
    for row in order:
        combination = combination_for(stage, seed, epoch, keys[row])
        shown = views_for(*views, seed, epoch, keys[row]) if "image" in combination else ()
        examples.append(Example(row, combination, shown, lengths.of(row, combination), lengths.programs[row]))
    window = 64 * training.max_batch_size
    batches: list[list[Example]] = []
    for start in range(0, len(examples), window):
        by_length = sorted(examples[start : start + window], key=lambda e: (e.length, e.row))
        batches += pack(by_length, training.tokens_per_batch, training.max_batch_size)
    random.Random(f"{seed}/batches/{epoch}").shuffle(batches)
    return batches


def pack(examples: Sequence[Example], tokens_per_batch: int, max_batch_size: int) -> list[list[Example]]:
    """Cut a list sorted by length into batches whose rectangle stays within the budget (one sample always fits)."""
    batches: list[list[Example]] = []
    for example in examples:
        full = batches and (
            len(batches[-1]) >= max_batch_size or (len(batches[-1]) + 1) * example.length > tokens_per_batch
        )
        if not batches or full:
            batches.append([])
        batches[-1].append(example)
    return batches


def plan_stage(
    keys: Sequence[str],
    lengths: Lengths,
    stage: CurriculumStage,
    training: Training,
    views: tuple[int, int],
    seed: int,
) -> list[tuple[int, list[list[Example]]]]:
    """All optimizer steps of a stage: (epoch, micro-batches). A step never spans two epochs.

    Raises:
        UserError: there is nothing to train on.
    """
    if not keys:
        raise UserError("the training split has no sample")
    steps = []
    for epoch in range(stage.epochs):
        batches = plan_epoch(keys, lengths, stage, training, views, seed, epoch)
        accumulate = training.gradient_accumulation_steps
        steps += [(epoch, batches[i : i + accumulate]) for i in range(0, len(batches), accumulate)]
    return steps


def padding_share(batches: Sequence[Sequence[Example]]) -> float:
    """The part of all positions that is padding."""
    filled = sum(example.length for batch in batches for example in batch)
    total = sum(len(batch) * max(example.length for example in batch) for batch in batches)
    return 1 - filled / total if total else 0.0


def learning_rate_factor(step: int, num_steps: int, schedule: str, warmup_fraction: float) -> float:
    """The factor on the stage's learning rate at a step counted from 0: linear warm-up, then decay towards 0."""
    warmup = math.ceil(warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0
