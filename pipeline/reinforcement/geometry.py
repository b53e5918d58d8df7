"""Objective ``geometry``: programs that the model writes itself, made likely by how well their solids match.

The gradient is REINFORCE's with the mean of each sample's programs as its baseline: Dr. GRPO (Liu et al. 2025,
2503.20783), which divides neither by a group's spread nor by a program's length. Programs serve the step that they are
written for and no other, so there is no ratio to be clipped. Each token was chosen among those that the grammar
allowed, at a temperature: that is the policy whose gradient is followed. Nothing ties it to where it began; the
validation loss shows how far it goes.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.curriculum.data import TrainingData
from pipeline.curriculum.place import Place
from pipeline.curriculum.plan import Example, Step, share_out
from pipeline.curriculum.settings import Rollouts
from pipeline.decoding.constrained import choices
from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.model.cad_mllm import Batch, CadMllmModel
from pipeline.model.inputs import Inputs, collate
from pipeline.reinforcement.rewards import Reward, reward
from pipeline.runtime import interrupt
from pipeline.runtime.errors import UserError
from pipeline.runtime.seeds import generator
from pipeline.training import session
from pipeline.training.loop import Job, Trainer
from pipeline.training.meters import Outcome
from pipeline.training.parallel import Parallel
from pipeline.training.settings import TrainSections
from pipeline.training.validation import validation_examples

WRITTEN_AT_ONCE = 8  # times `training.tokens_per_batch` positions: keys and values alone are kept of each


@dataclass(frozen=True, slots=True)
class Rollout:
    """A program that the model has written for a sample, and what it is worth."""

    tokens: tuple[int, ...]
    reward: Reward


def run_stage(p: TrainSections, place: Place, parallel: Parallel) -> None:
    """Train a stage with this objective, as ``session.run_stage``: half-done work depends on the code here, too."""
    session.run_stage(p, place, parallel, GeometryTrainer, __name__)


class GeometryTrainer(Trainer):
    """Trains a stage with objective ``geometry``.

    Raises:
        UserError: as ``Trainer``; or the model is sharded.
    """

    counted = "num_programs"

    def __init__(self, model: CadMllmModel, job: Job) -> None:
        if job.parallel.sharded:
            raise UserError("objective geometry writes programs, which needs a whole model: training.distributed: ddp")
        self.rollouts = job.stage.rollouts
        super().__init__(model, job)

    def load(self, steps: Iterator[Step]) -> Iterator[tuple[Step, Any]]:
        """Each step with its prompts."""
        for step in steps:
            yield step, self.job.train.load(step.examples, with_programs=False)

    def learn(self, step: Step, given: Any) -> Outcome:
        """Write programs, judge them, and follow the gradient of their rewards. The loss is 1 less their mean."""
        data, size = self.job.train, self.rollouts.group_size
        names = data.names[[example.row for example in step.examples]].tolist()
        drawn = ("rollout", self.done)
        generators = [generator(self.job.seed, *drawn, name, copy) for name in names for copy in range(size)]
        examples = [example for example in step.examples for _ in range(size)]
        written = self.write(data, examples, [prompt for prompt in given for _ in range(size)], generators)
        groups = [written[start : start + size] for start in range(0, len(written), size)]
        followed = [(prompt, *each) for prompt, group in zip(given, groups) for each in advantages(group).items()]
        followed = followed or [(given[0], written[0].tokens, 0.0)]  # processes are in step, and so are moments
        batches = policy_batches(
            self.model, followed, self.rollouts, self.job.training.tokens_per_batch, self.job.parallel
        )
        outcome = self.optimize(batches, sum(len(rollout.tokens) for rollout in written))
        figures = {**figures_of(groups), "policy_loss": float(outcome.loss)}
        loss = torch.tensor(1 - figures["reward"], device=self.model.device)
        return Outcome(loss, len(written), outcome.grad_norm, figures)

    def validate(self) -> dict[str, dict[str, float]]:
        """Beside the loss, the mean reward of what is written greedily."""
        found, job, data = super().validate(), self.job, self.job.validation
        rewards = {}
        for name, examples in validation_examples(self.model, data, job.stage, job.training, job.seed).items():
            if job.parallel.any(interrupt.requested()):
                interrupt.stop()
            written = self.write(data, examples, data.load(examples, with_programs=False))
            rewards[name] = statistics.fmean(rollout.reward.value for rollout in written)
        return {**found, "reward": rewards}

    def write(
        self,
        data: TrainingData,
        examples: Sequence[Example],
        prompts: Sequence[Inputs],
        generators: Sequence[np.random.Generator] = (),
    ) -> list[Rollout]:
        """A program for each prompt, sampled by its generator, or greedy without; processes share the work.

        Args:
            examples: of ``data``, that the prompts show.
        """
        job, given = self.job, self.rollouts
        decoding = Decoding(given.max_new_tokens, temperature=given.temperature if generators else 0.0)
        mine = job.parallel.dealt(range(len(prompts)))
        found: dict[int, Rollout] = {}
        lengths = [positions(prompts[number], self.num_tokens) + given.max_new_tokens for number in mine]
        for batch in at_once(lengths, WRITTEN_AT_ONCE * job.training.tokens_per_batch):
            numbers = [mine[at] for at in batch]
            chosen = [generators[number] for number in numbers] if generators else None
            programs = generate_tokens(self.model, [prompts[number] for number in numbers], decoding, chosen)
            for number, (tokens,) in zip(numbers, programs, strict=True):
                true = data.program(examples[number].row).tolist()
                found[number] = Rollout(tuple(tokens), reward(tokens, true, data.bits, given.length_cost))
        return job.parallel.gathered([found[number] for number in mine])

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """As of so many programs like the true ones."""
        return super().lengths(examples) * self.rollouts.group_size

    def figures(self) -> dict[str, Any]:
        """Also rewards in validation, at the start and at the end; target tokens are those that were written."""
        first, *_, last = self.log.validations()
        found, lines = super().figures(), [line for line in self.log.lines if line["event"] == "train"]
        return {
            **found,
            "target_tokens": round(sum(line["num_programs"] * line["tokens"] for line in lines)),
            "programs_written": found["samples_shown"] * self.rollouts.group_size,
            "reward_before": first["reward"],
            "reward": last["reward"],
        }


def advantages(group: Sequence[Rollout]) -> dict[tuple[int, ...], float]:
    """By program, how much better than the group's mean it is, as often as it was written.

    Nothing where all are worth the same.
    """
    values = [rollout.reward.value for rollout in group]
    if max(values) == min(values):
        return {}
    mean = statistics.fmean(values)
    found: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for rollout in group:
        found[rollout.tokens] += rollout.reward.value - mean
    return dict(found)


def positions(item: Inputs, num_tokens: dict[str, int]) -> int:
    """That a sequence takes; ``num_tokens`` as for ``collate``."""
    shown = {"point_cloud": item.points, "image": item.image}
    features = sum(num_tokens[modality] for modality, given in shown.items() if given is not None)
    return features + len(item.prompt) + len(item.program)


def at_once(lengths: Sequence[int], most: int) -> list[list[int]]:
    """The numbers of sequences of about the same length, in rectangles of so many positions; one always fits."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > most:
            batches.append([])
        batches[-1].append(number)
    return batches


def policy_batches(
    model: CadMllmModel,
    followed: Sequence[tuple[Inputs, tuple[int, ...], float]],
    rollouts: Rollouts,
    tokens_per_batch: int,
    parallel: Parallel,
) -> list[tuple[Batch, float]]:
    """What this process computes of programs, given as prompts, tokens and advantages: as ``TrainingData.batches``.

    The loss is minus the log-probability of each token among those that were allowed, times the advantage.
    """
    num_tokens = model.num_tokens()
    inputs = [replace(prompt, program=tokens) for prompt, tokens, _ in followed]
    lengths = [positions(item, num_tokens) for item in inputs]
    found = []
    for micro in parallel.dealt(share_out(lengths, tokens_per_batch, parallel.size)):
        chosen = micro or [0]
        programs = [inputs[number].program for number in chosen]
        weights = np.repeat([followed[number][2] for number in chosen], [len(program) for program in programs])
        allowed = np.concatenate([choices(model.grammar, program, rollouts.max_new_tokens) for program in programs])
        batch = replace(
            collate([inputs[number] for number in chosen], num_tokens),
            weights=torch.from_numpy(weights).float(),
            allowed=torch.from_numpy(allowed),
            temperature=rollouts.temperature,
        )
        found.append((batch, 1.0 if micro else 0.0))
    return found


def figures_of(groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    """Means over programs: reward, IoU, share that can be judged, tokens; and the spread of rewards within groups."""
    written = [rollout for group in groups for rollout in group]
    return {
        "reward": statistics.fmean(rollout.reward.value for rollout in written),
        "iou": statistics.fmean(rollout.reward.iou for rollout in written),
        "valid": statistics.fmean(rollout.reward.valid for rollout in written),
        "spread": statistics.fmean(statistics.pstdev(rollout.reward.value for rollout in group) for group in groups),
        "tokens": statistics.fmean(len(rollout.tokens) for rollout in written),
    }
