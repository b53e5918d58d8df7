"""Search for the program that explains a cloud: several chains in rounds, and the kernel to vouch for what is best.

The starts are the programs that are given and the part as stacks of slabs along each axis. Chains go on from the best
of them, each in a process of its own; between rounds the worst begins again from the best. Budgets count judgements:
what is found depends on them and on the seed, not on the number of processes.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids.sandbox import Failure, Sandbox
from pipeline.generation.search.chain import Chain, Searcher
from pipeline.generation.search.evidence import Evidence
from pipeline.generation.search.form import Form, form_of, length, tokens_of
from pipeline.generation.search.judge import Judge, Score
from pipeline.generation.search.proposals import Proposer
from pipeline.generation.select import BuildTask, build_candidate
from pipeline.runtime import interrupt
from pipeline.runtime.errors import RejectError

CHAINS = 4
ROUND = 500  # judgements of a chain, between which chains are compared
WARMTH = (0.0, 0.0, 0.001, 0.003)  # of each chain at the beginning of a round
PATIENCE = 6  # rounds in which nothing is found: there is no more to be had
LITTLE = 1e-4  # of the score: what is less is nothing
NUM_VOLUME, NUM_SURFACE = 6000, 4096  # of the evidence that steps are proposed from
JUDGED_VOLUME, JUDGED_SURFACE = 3000, 700  # of what every judgement asks
TIMEOUT_S, MEMORY_MIB = 60.0, 4096
ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after so many judgements, or at a time (``time.monotonic``), whichever comes first."""

    judgements: int = ENDLESS
    deadline: float = float("inf")

    @property
    def is_over(self) -> bool:
        """Whether the time has come, or the user wants to stop."""
        return time.monotonic() >= self.deadline or interrupt.requested()


@dataclass(frozen=True, slots=True)
class Found:
    """What search has found so far.

    Attributes:
        tokens: of a program that the kernel builds; None while there is none.
        score: of it by the evidence.
        misfit: of the solid to the cloud.
        judged: judgements so far.
        built: solids built so far.
    """

    tokens: tuple[int, ...] | None
    score: Score
    misfit: float | None
    judged: int
    built: int


@dataclass(frozen=True, slots=True)
class RoundTask:
    """A chain's round."""

    evidence: Evidence
    key: int
    bits: int
    chain: Chain
    judgements: int
    seed: tuple[int, ...]
    warmth: float
    deadline: float


@functools.lru_cache(maxsize=1)
def _searcher(key: int, bits: int, holder: "Held") -> Searcher:
    """A searcher, kept from round to round with what it remembers; ``key`` tells clouds apart."""
    return make_searcher(holder.evidence, bits)


@dataclass(frozen=True, slots=True)
class Held:
    """Evidence as an argument that is not compared."""

    evidence: Evidence = field(compare=False)

    def __hash__(self) -> int:
        return 0


def make_searcher(evidence: Evidence, bits: int) -> Searcher:
    """Judges, proposals and moves for one cloud."""
    codec = Codec(bits)
    judge = Judge(evidence.thinned(JUDGED_VOLUME, JUDGED_SURFACE), codec)
    return Searcher(judge, Judge(evidence, codec), Proposer(evidence, codec))


def run_round(task: RoundTask) -> Chain:
    """One round of one chain."""
    searcher = _searcher(task.key, task.bits, Held(task.evidence))
    return searcher.run(task.chain, task.judgements, np.random.default_rng(task.seed), task.warmth, task.deadline)


def silent(_: Found) -> None:
    """Show nothing."""


class Search:
    """One search.

    Args:
        cloud: (N, 6) normalised points with normals.
        bits: of the codec's values.
        starts: programs to begin with, as tokens.
        seed: of all that is random.
        rounds: a sandbox for ``run_round``.
        kernel: a sandbox for ``build_candidate``.
        show: gets what is best so far, each time that it changes.
    """

    def __init__(
        self,
        cloud: np.ndarray,
        bits: int,
        starts: Sequence[Sequence[int]],
        seed: int,
        rounds: Sandbox[RoundTask, Chain],
        kernel: Sandbox[BuildTask, float | None],
        show: Callable[[Found], None] = silent,
    ) -> None:
        self.cloud, self.codec, self.seed = cloud, Codec(bits), seed
        self.rounds, self.kernel, self.show = rounds, kernel, show
        self.evidence = Evidence.of(cloud, NUM_VOLUME, NUM_SURFACE, seed)
        searcher = make_searcher(self.evidence, bits)
        self.judge, self.proposer = searcher.judge, searcher.proposer
        self.judged = 0
        self.built: dict[tuple[int, ...], float | Failure] = {}
        self.best = Found(None, Score(-np.inf, 0.0, 0.0), None, 0, 0)
        self.starts = self._starts(starts)

    def _starts(self, given: Sequence[Sequence[int]]) -> list[Chain]:
        """Distinct forms to begin with, judged, the best first."""
        forms: dict[Form, None] = dict.fromkeys(self.proposer.stacks())
        for tokens in given:
            try:
                forms[form_of(self.codec, tokens)] = None
            except RejectError:
                continue
        self.judged += len(forms)
        chains = [Chain(form, self.judge(form)) for form in forms]
        return sorted(chains, key=lambda chain: -chain.score.value)

    def run(self, budget: Budget) -> Found:
        """Search until the budget is spent, or nothing more is found."""
        for chain in self.starts:
            if self._vouch(chain):
                break
        waiting = self.starts[:CHAINS]
        chains = [replace(waiting[i % len(waiting)]) for i in range(CHAINS)] if waiting else []
        idle = number = 0
        while chains and idle < PATIENCE and not budget.is_over and self.judged < budget.judgements:
            before = self.best.score.value
            chains = self._round(chains, number, budget)
            chains = self._compare(chains)
            idle = 0 if self.best.score.value > before + LITTLE else idle + 1
            number += 1
        return replace(self.best, judged=self.judged, built=len(self.built))

    def _round(self, chains: list[Chain], number: int, budget: Budget) -> list[Chain]:
        """Every chain's round."""
        each = min(ROUND, -(-(budget.judgements - self.judged) // len(chains)))
        tasks = [
            RoundTask(
                self.evidence, id(self), self.codec.bits, chain, each, (self.seed, number, i), WARMTH[i], budget.deadline
            )
            for i, chain in enumerate(chains)
        ]
        found = []
        for chain, result in zip(chains, self.rounds.map(tasks)):
            if isinstance(result, Failure):  # a worker that died: its chain stays where it was
                result = replace(chain, spent=chain.spent + each)
            self.judged += result.spent - chain.spent
            found.append(result)
        return found

    def _compare(self, chains: list[Chain]) -> list[Chain]:
        """Vouch for what is better than the best, and let those begin again that are far behind or do not build."""
        order = sorted(range(len(chains)), key=lambda i: -chains[i].score.value)
        refused = set()
        for i in order:
            if chains[i].score.value <= self.best.score.value:
                break
            if self._vouch(chains[i]):
                break
            refused.add(i)
        if self.best.tokens is None:
            return chains
        again = Chain(form_of(self.codec, self.best.tokens), self.best.score)
        return [
            replace(again, spent=chain.spent, tallies=chain.tallies) if i in refused or i == order[-1] else chain
            for i, chain in enumerate(chains)
        ]

    def _vouch(self, chain: Chain) -> bool:
        """Whether the kernel builds what a chain has; it is the best then, if it is better as it is written."""
        try:
            tokens = tokens_of(self.codec, chain.form)
            form = form_of(self.codec, tokens)
        except RejectError:
            return False
        score = self.judge(form)
        if tokens not in self.built:
            result = next(self.kernel.map([BuildTask(tokens, self.codec.bits, self.cloud)]))
            self.built[tokens] = result if isinstance(result, Failure) else float(result or 0)
        misfit = self.built[tokens]
        if isinstance(misfit, Failure):
            return False
        if score.value > self.best.score.value:
            self.best = Found(tokens, score, misfit, self.judged, len(self.built))
            self.show(self.best)
        return True
