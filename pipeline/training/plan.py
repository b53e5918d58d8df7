"""Which samples make up each optimizer step: planned from the index, without opening a shard.

Samples are shuffled, then grouped by length within windows, so that padding stays small and the order random.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UserError
from pipeline.params import CurriculumStage, Training
from pipeline.training.curriculum import combination_for, uniform, views_for

WINDOW = 64  # micro-batches that are grouped by length together
BATCH_COST = 0.04  # of a micro-batch, as a share of the budget
SCHEDULE_WINDOWS = 8  # at least, in an epoch whose probabilities shift: a window has one set of probabilities


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
        progress: share of the stage's samples shown before it, 0 to 1.
        ends_epoch: whether it is the last of its epoch.
    """

    epoch: int
    progress: float
    ends_epoch: bool
    micro_batches: list[MicroBatch]

    @property
    def examples(self) -> list[Example]:
        return list(itertools.chain.from_iterable(self.micro_batches))

    @property
    def num_targets(self) -> int:
        return sum(example.num_targets for example in self.examples)

    @property
    def largest(self) -> tuple[int, int]:
        """Samples and positions, padding included, of its largest micro-batch."""
        sizes = ((len(micro), len(micro) * max(e.length for e in micro)) for micro in self.micro_batches)
        return max(sizes, key=lambda size: size[1])


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
    """All optimizer steps of a stage; one epoch of them at a time is in memory.

    Args:
        views: how many there are, and how many are shown.

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
        self.num_epochs: float = stage.epochs or 1.0
        self.steps_in_epoch: list[int] = []
        if stage.steps is None:
            self.steps_in_epoch = [self._count(epoch) for epoch in range(int(self.num_epochs))]
        else:
            # So many steps are about so many epochs; the shift of probabilities is spread over them.
            self.num_epochs = stage.steps / self._count(0)
            while sum(self.steps_in_epoch) < stage.steps:
                left = stage.steps - sum(self.steps_in_epoch)
                self.steps_in_epoch.append(min(left, self._count(len(self.steps_in_epoch))))
        self.num_steps = sum(self.steps_in_epoch)

    def _count(self, epoch: int) -> int:
        return math.ceil(len(self._epoch(epoch)) / self.training.gradient_accumulation_steps)

    def _epoch(self, epoch: int) -> list[tuple[float, MicroBatch]]:
        """The micro-batches of one epoch in order, views not drawn yet, with the progress at which each comes."""
        order = sorted(range(len(self.keys)), key=lambda row: uniform(self.seed, "order", epoch, self.keys[row]))
        window = WINDOW * self.training.max_batch_size
        if self.stage.final_modality_sample_probs is not None:
            window = min(window, math.ceil(len(order) / SCHEDULE_WINDOWS))
        batches: list[tuple[float, MicroBatch]] = []
        for start in range(0, len(order), window):
            progress = min(1.0, (epoch + start / len(order)) / self.num_epochs)
            examples = [self._example(row, epoch, progress) for row in order[start : start + window]]
            examples.sort(key=lambda e: (e.length, e.row))
            packed = pack(examples, self.training.tokens_per_batch, self.training.max_batch_size)
            random.Random(f"{self.seed}/batches/{epoch}/{start}").shuffle(packed)
            batches += [(progress, batch) for batch in packed]
        return batches

    def _example(self, row: int, epoch: int, progress: float) -> Example:
        combination = combination_for(self.stage, self.seed, epoch, self.keys[row], progress)
        return Example(row, combination, (), self.lengths.of(row, combination), self.lengths.programs[row])

    def steps(self, first: int = 0) -> Iterator[Step]:
        """The optimizer steps from number ``first`` on. A step never spans two epochs."""
        begins = 0
        for epoch, count in enumerate(self.steps_in_epoch):
            if begins + count > first:
                yield from itertools.islice(self._steps_of(epoch, count), max(0, first - begins), None)
            begins += count

    def _steps_of(self, epoch: int, count: int) -> Iterator[Step]:
        batches = self._epoch(epoch)
        accumulate = self.training.gradient_accumulation_steps
        for number in range(count):
            chosen = batches[number * accumulate : (number + 1) * accumulate]
            micro_batches = [[self._with_views(example, epoch) for example in batch] for _, batch in chosen]
            yield Step(epoch, chosen[0][0], number + 1 == count, micro_batches)

    def _with_views(self, example: Example, epoch: int) -> Example:
        if "image" not in example.combination:
            return example
        return replace(example, views=views_for(*self.views, self.seed, epoch, self.keys[example.row]))

    def epochs_done(self, step: int) -> float:
        """Epochs behind after so many steps, with the fraction of the current one."""
        done = 0.0
        for count in self.steps_in_epoch:
            done += min(1.0, step / count)
            step -= count
            if step <= 0:
                break
        return done

    def validates_after(self, step: int) -> bool:
        """Whether the model is validated after so many steps: before the first, every so many epochs, at the end."""
        if step in (0, self.num_steps):
            return True
        every = self.training.validate_every_epochs
        slack = 1e-9  # thirds and fifths of an epoch are not exact
        return int(self.epochs_done(step) / every + slack) > int(self.epochs_done(step - 1) / every + slack)


def pack(examples: Sequence[Example], tokens_per_batch: int, max_batch_size: int) -> list[MicroBatch]:
    """Cut a list sorted by length into batches whose rectangle stays within the budget (one sample always fits).

    Of all cuts the one that costs least: positions, padding included, and for each batch as much as BATCH_COST of the
    budget, which is what its weights cost to read.
    """
    cost, begins = [0.0], [0]
    for end, example in enumerate(examples, start=1):
        most = min(max_batch_size, max(1, tokens_per_batch // example.length), end)
        best = min(range(end - most, end), key=lambda start: cost[start] + (end - start) * example.length)
        cost.append(cost[best] + (end - best) * example.length + BATCH_COST * tokens_per_batch)
        begins.append(best)
    batches: list[MicroBatch] = []
    end = len(examples)
    while end > 0:
        batches.append(list(examples[begins[end] : end]))
        end = begins[end]
    return batches[::-1]


def share(micro_batches: Sequence[MicroBatch], rank: int, num_ranks: int) -> list[MicroBatch]:
    """What one of several processes computes of a step: as many micro-batches as every other.

    Whole micro-batches are dealt as long as there is one for each; the samples of those that are left are dealt one by
    one. A process for which none is left gets an empty one.
    """
    whole = len(micro_batches) // num_ranks * num_ranks
    mine = list(micro_batches[:whole][rank::num_ranks])
    if whole < len(micro_batches):
        rest = sorted(itertools.chain.from_iterable(micro_batches[whole:]), key=lambda e: (e.length, e.row))
        mine.append(rest[rank::num_ranks])
    return mine
