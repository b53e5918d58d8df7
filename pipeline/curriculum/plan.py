"""Which samples make up each optimizer step: planned from the index, without opening a shard.

A step is so many samples in random order, of whatever length and modalities.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.curriculum.schedule import combination_for, views_for
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import uniform
from pipeline.settings.curriculum import CurriculumStage
from pipeline.settings.training import Training


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


MicroBatch = list[Example]


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
        return sum(example.num_targets for example in self.examples)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Positions that the parts of a sequence take.

    Attributes:
        prompts, programs: tokens of each row; a prompt's without its caption is ``instruction``.
        modalities: tokens of each modality that is not text.
    """

    prompts: Sequence[int]
    programs: Sequence[int]
    modalities: dict[str, int]
    instruction: int

    def of(self, row: int, combination: str) -> int:
        shown = combination.split("+")
        prompt = self.prompts[row] if "text" in shown else self.instruction
        return prompt + self.programs[row] + sum(self.modalities[m] for m in shown if m != "text")


class StagePlan:
    """All optimizer steps of a stage; the order of one epoch at a time is in memory.

    Args:
        views: how many there are, and how many are shown.

    Attributes:
        planned_steps, num_steps: without and with all that the stage may be extended by.

    Raises:
        UserError: there is nothing to train on.
    """

    def __init__(
        self,
        keys: Sequence[str],
        lengths: Lengths,
        stage: CurriculumStage,
        training: Training,
        views: tuple[int, int],
        seed: int,
    ) -> None:
        if not keys:
            raise UserError("the training split has no sample")
        self.keys, self.lengths, self.stage = keys, lengths, stage
        self.training, self.views, self.seed = training, views, seed
        self.steps_per_epoch = math.ceil(len(keys) / training.batch_size)
        self.planned_steps = stage.steps or (stage.epochs or 1) * self.steps_per_epoch
        self.num_steps = stage.steps or (stage.max_epochs or 1) * self.steps_per_epoch

    def steps(self, first: int = 0) -> Iterator[Step]:
        """The optimizer steps from number ``first`` on. A step never spans two epochs.

        The steps of an epoch are of one size, give or take a sample, so that each sample has the same say.
        """
        per_epoch, count = self.steps_per_epoch, len(self.keys)
        for epoch in range(first // per_epoch, math.ceil(self.num_steps / per_epoch)):
            order = sorted(range(count), key=lambda row: uniform(self.seed, "order", epoch, self.keys[row]))
            begins = epoch * per_epoch
            for step in range(max(first, begins), min(begins + per_epoch, self.num_steps)):
                place = step - begins
                rows = order[place * count // per_epoch : (place + 1) * count // per_epoch]
                progress = min(1.0, step / self.planned_steps)
                examples = [self._example(row, epoch, progress) for row in rows]
                yield Step(epoch, progress, place + 1 == per_epoch or step + 1 == self.num_steps, examples)

    def _example(self, row: int, epoch: int, progress: float) -> Example:
        key = self.keys[row]
        combination = combination_for(self.stage, self.seed, epoch, key, progress)
        views = views_for(*self.views, self.seed, epoch, key) if "image" in combination else ()
        return Example(row, combination, views, self.lengths.of(row, combination), self.lengths.programs[row])

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


def cut(examples: Sequence[Example], tokens_per_batch: int, num_ranks: int = 1) -> list[MicroBatch]:
    """Cut samples into micro-batches within the budget (one sample always fits), as many for each process.

    Process r computes those at ``[r::num_ranks]``. They are about equally long: the longest sample that is left always
    goes to the shortest micro-batch. Where there are fewer samples than processes, some are empty.
    """
    longest_first = sorted(examples, key=lambda e: (-e.length, e.row))
    rounds = math.ceil(sum(min(e.length, tokens_per_batch) for e in examples) / tokens_per_batch / num_ranks)
    while True:
        batches: list[MicroBatch] = [[] for _ in range(rounds * num_ranks)]
        filled = [(0, number) for number in range(len(batches))]
        for example in longest_first:
            positions, number = filled[0]
            batches[number].append(example)
            heapq.heapreplace(filled, (positions + example.length, number))
        if all(positions <= tokens_per_batch or len(batches[number]) == 1 for positions, number in filled):
            return batches
        rounds += 1 + rounds // 16
