"""Which samples make up each optimizer step: planned from the index, without opening a shard.

A step is so many samples in random order, of whatever length and modalities.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.curriculum.schedule import draw_combinations, draw_views
from pipeline.curriculum.settings import CurriculumStage, Training
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import shuffled


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as it is shown once.

    Attributes:
        row: its number in the split.
        combination: the modalities shown, such as ``text+image``.
        views: numbers of the views shown; empty without images.
        num_targets: tokens with a loss.
    """

    row: int
    combination: str
    views: tuple[int, ...]
    num_targets: int

    def shows(self, modality: str) -> bool:
        """Whether the modality, or the text, is among what is shown."""
        return modality in self.combination.split("+")


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    Attributes:
        progress: share of the stage's `epochs` or `steps` before it, 0 to 1; 1 where it is extended beyond them.
        ends_epoch: whether it is the last of its epoch.
    """

    epoch: int
    progress: float
    ends_epoch: bool
    examples: list[Example]

    @property
    def num_targets(self) -> int:
        """Tokens with a loss, over all processes."""
        return sum(example.num_targets for example in self.examples)


class StagePlan:
    """All optimizer steps of a stage; the order of one epoch at a time is in memory.

    Args:
        names: (N,) the digests of the samples' keys.
        num_targets: of samples, given their rows: (n,) to (n,).
        views: how many there are, and how many are shown.

    Attributes:
        planned_steps, num_steps: without and with all that the stage may be extended by.

    Raises:
        UserError: there is nothing to train on.
    """

    def __init__(
        self,
        names: np.ndarray,
        num_targets: Callable[[np.ndarray], np.ndarray],
        stage: CurriculumStage,
        training: Training,
        views: tuple[int, int],
        seed: int,
    ) -> None:
        if not len(names):
            raise UserError("the training split has no sample")
        self.names, self.num_targets, self.stage = names, num_targets, stage
        self.training, self.views, self.seed = training, views, seed
        self.steps_per_epoch = math.ceil(len(names) / stage.batch_size(training.batch_size))
        self.planned_steps = stage.steps or (stage.epochs or 1) * self.steps_per_epoch
        self.num_steps = stage.steps or (stage.max_epochs or 1) * self.steps_per_epoch

    def steps(self, first: int = 0) -> Iterator[Step]:
        """The optimizer steps from number ``first`` on. A step never spans two epochs.

        The steps of an epoch are of one size, give or take a sample, so that each sample has the same say.
        """
        per_epoch, count = self.steps_per_epoch, len(self.names)
        for epoch in range(first // per_epoch, math.ceil(self.num_steps / per_epoch)):
            order = shuffled(self.names, self.seed, "order", epoch)
            begins = epoch * per_epoch
            for step in range(max(first, begins), min(begins + per_epoch, self.num_steps)):
                place = step - begins
                rows = order[place * count // per_epoch : (place + 1) * count // per_epoch]
                progress = min(1.0, step / self.planned_steps)
                ends_epoch = place + 1 == per_epoch or step + 1 == self.num_steps
                yield Step(epoch, progress, ends_epoch, self._examples(rows, epoch, progress))

    def _examples(self, rows: np.ndarray, epoch: int, progress: float) -> list[Example]:
        names = self.names[rows]
        combinations = draw_combinations(self.stage, self.seed, epoch, names, progress)
        return shown(rows, combinations, draw_views(*self.views, self.seed, epoch, names), self.num_targets(rows))

    def epochs_done(self, step: int) -> float:
        """Epochs behind after so many steps, with the fraction of the current one."""
        return step / self.steps_per_epoch

    def validates_after(self, step: int) -> bool:
        """Whether the model is validated after so many steps: before the first, every so many epochs, at the end."""
        if step in (0, self.num_steps):
            return True
        every = self.training.validate_every_epochs
        slack = 1e-9  # thirds and fifths of an epoch are not exact
        return int(self.epochs_done(step) / every + slack) > int(self.epochs_done(step - 1) / every + slack)


def shown(
    rows: np.ndarray, combinations: Sequence[str], views: Sequence[tuple[int, ...]], num_targets: np.ndarray
) -> list[Example]:
    """Samples as they are shown; those without images show none of their ``views``."""
    return [
        Example(row, combination, seen if "image" in combination else (), targets)
        for row, combination, seen, targets in zip(
            rows.tolist(), combinations, views, num_targets.tolist(), strict=True
        )
    ]


def share_out(lengths: Sequence[int], tokens_per_batch: int, num_ranks: int = 1) -> list[list[int]]:
    """Cut a step's samples into micro-batches within the budget (one sample always fits), as many for each process.

    Process r computes those at ``[r::num_ranks]``. They are about equally long: the longest sample that is left always
    goes to the shortest micro-batch. Where there are fewer samples than processes, some are empty.

    Args:
        lengths: positions of each sample's sequence.

    Returns:
        The samples' numbers in each micro-batch.
    """
    longest_first = sorted(range(len(lengths)), key=lambda sample: -lengths[sample])
    rounds = math.ceil(sum(min(length, tokens_per_batch) for length in lengths) / tokens_per_batch / num_ranks)
    while True:
        batches: list[list[int]] = [[] for _ in range(rounds * num_ranks)]
        filled = [(0, number) for number in range(len(batches))]
        for sample in longest_first:
            positions, number = filled[0]
            batches[number].append(sample)
            heapq.heapreplace(filled, (positions + lengths[sample], number))
        if all(positions <= tokens_per_batch or len(batches[number]) == 1 for positions, number in filled):
            return batches
        rounds += 1 + rounds // 16
