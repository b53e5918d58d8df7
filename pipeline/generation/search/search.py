"""Search for the program that explains a cloud: several chains in rounds, and the kernel to vouch for what is best.

The starts are the programs that are given, and the part as stacks of slabs along each axis. Chains go on from the best
of them, each round in any process; after it the worst begins again from the best. Budgets count judgements: what is
found depends on them and on the seed, not on the number of processes.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids.clouds import draw_points
from pipeline.execution.pool import Failure, Pool
from pipeline.execution.workers import Workers
from pipeline.generation.search.chain import Chain, Searcher
from pipeline.generation.search.evidence import Evidence
from pipeline.generation.search.form import Form, form_of, tokens_of
from pipeline.generation.search.judge import Judge, Score
from pipeline.generation.search.polish import polished
from pipeline.generation.search.proposals import Proposer
from pipeline.generation.search.state import Found, State, read_state, write_state
from pipeline.generation.search.vouch import VouchTask, vouch
from pipeline.runtime import interrupt
from pipeline.runtime.errors import RejectError
from pipeline.runtime.fingerprint import fingerprint
from pipeline.runtime.seeds import digest, generator

CHAINS = 4
ROUND = 500  # judgements of a chain, after which chains are compared
WARMTH = (0.0, 0.0, 0.001, 0.003)  # of each chain at the beginning of a round
PATIENCE = 6  # rounds in which nothing is found: there is no more to be had
LITTLE = 1e-4  # of the score: what is less is nothing
NUM_VOLUME, NUM_SURFACE = 6000, 4096  # of the evidence that steps are proposed from
JUDGED_VOLUME, JUDGED_SURFACE = 3000, 700  # of what every judgement asks
COMPARED = 2048  # points of the cloud that solids are compared with
MOST_POINTS = 8192  # of a cloud, that are looked at
TIMEOUT_S, MEMORY_MIB = 120.0, 4096  # of a round, and of a solid
ENDLESS = 1 << 62
ACCIDENTS = ("crash", "out_of_memory", "timeout")  # of a worker: another time it may not have one
NOTHING = Found(None, Score(-np.inf, 0.0, 0.0), None, 0, 0)


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after so many judgements, or at a time (``time.monotonic``), whichever comes first.

    Attributes:
        stopped: whether the user wants no more, asked between rounds; None: as ``runtime.interrupt`` says.
    """

    judgements: int = ENDLESS
    deadline: float = float("inf")
    stopped: Callable[[], bool] | None = None

    @classmethod
    def of(cls, seconds: float | None, judgements: int | None) -> "Budget":
        """From now on; None for no limit."""
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        return cls(ENDLESS if judgements is None else judgements, deadline)

    @property
    def is_over(self) -> bool:
        """Whether the time has come, or the user wants to stop."""
        return time.monotonic() >= self.deadline or (self.stopped or interrupt.requested)()


@dataclass(frozen=True, slots=True)
class RoundTask:
    """A chain's round."""

    evidence: Evidence
    bits: int
    chain: Chain
    judgements: int
    seed: int
    warmth: float
    deadline: float


@functools.lru_cache(maxsize=1)
def searcher_of(evidence: Evidence, bits: int) -> Searcher:
    """Judges, proposals and moves for one cloud; kept from round to round with what they remember."""
    codec = Codec(bits)
    judge = Judge(evidence.thinned(JUDGED_VOLUME, JUDGED_SURFACE), codec)
    return Searcher(judge, Judge(evidence, codec), Proposer(evidence, codec))


def work(task: RoundTask | VouchTask) -> Chain | float:
    """What a process does for search: a round, or a solid."""
    if isinstance(task, VouchTask):
        return vouch(task)
    searcher, rng = searcher_of(task.evidence, task.bits), generator(task.seed)
    return searcher.run(task.chain, task.judgements, rng, task.warmth, task.deadline)


def silent(_: Found) -> None:
    """Show nothing."""


def pool_for(workers: Workers) -> Pool[RoundTask | VouchTask, Chain | float]:
    """Workers for ``work``, of which one for each chain has something to do."""
    return workers.at_most(CHAINS).pool(work, TIMEOUT_S, MEMORY_MIB)


def search(
    cloud: np.ndarray,
    bits: int,
    starts: Sequence[Sequence[int]],
    seed: int,
    workers: Workers,
    budget: Budget,
    show: Callable[[Found], None] = silent,
    scratch: Path | None = None,
) -> Found:
    """The program that explains a cloud best, as far as the budget goes; arguments are those of ``Search``.

    A stop that is asked for (``runtime.interrupt``) ends it with what is found so far.
    """
    with pool_for(workers) as pool:
        return Search(cloud, bits, starts, seed, pool, show, scratch).run(budget)


def improved(
    programs: Sequence[tuple[int, ...]],
    clouds: Sequence[np.ndarray | None],
    bits: int,
    builds: int,
    seed: int,
    workers: Workers,
) -> list[tuple[int, ...]]:
    """Each program after a search from it of so many judgements; as it was without a cloud, or where nothing builds.

    Raises:
        Interrupted: a stop was asked for; what is found until then would depend on when.
    """
    found = []
    with pool_for(workers) as pool:
        for tokens, cloud in zip(programs, clouds, strict=True):
            after = None
            if cloud is not None:
                after = Search(cloud, bits, [tokens], seed, pool).run(Budget(builds)).tokens
                interrupt.check()
            found.append(tokens if after is None else after)
    return found


class Search:
    """One search.

    Args:
        cloud: (N, 6) normalised points with normals.
        bits: of the codec's values.
        starts: programs to begin with, as tokens.
        seed: of all that is random.
        pool: for ``work``.
        show: gets what is best so far, each time that it changes.
        scratch: folder in which the state is kept after each round, and a search for the same goes on from it.
    """

    def __init__(
        self,
        cloud: np.ndarray,
        bits: int,
        starts: Sequence[Sequence[int]],
        seed: int,
        pool: Pool[RoundTask | VouchTask, Chain | float],
        show: Callable[[Found], None] = silent,
        scratch: Path | None = None,
    ) -> None:
        self.codec, self.seed, self.pool, self.show = Codec(bits), seed, pool, show
        if len(cloud) > MOST_POINTS:
            cloud = draw_points(cloud, MOST_POINTS, generator(seed, "searched"))
        self.evidence = Evidence.of(cloud, NUM_VOLUME, NUM_SURFACE, seed)
        searcher = searcher_of(self.evidence, bits)
        self.judge, self.thorough = searcher.judge, searcher.thorough
        self.compared = self.evidence.cloud[:COMPARED]
        self.file, self.state, self.had_accident = None, State([], NOTHING), False
        if scratch is not None:
            described = {"bits": bits, "seed": seed, "starts": [list(tokens) for tokens in starts]}
            name = fingerprint(__name__, described, {"evidence": self.evidence.source})
            self.file = scratch / f"{name}.json"
        self.starts = self._judged([*searcher.proposer.stacks(), *self._forms(starts)])

    def _forms(self, programs: Sequence[Sequence[int]]) -> list[Form]:
        """Programs in whole steps; those that are none are left out."""
        found = []
        for tokens in programs:
            try:
                found.append(form_of(self.codec, tokens))
            except RejectError:
                continue
        return found

    def _judged(self, forms: Sequence[Form]) -> list[Chain]:
        """Distinct forms to begin with, the best first."""
        chains = [Chain(form, self.judge(form)) for form in dict.fromkeys(forms)]
        self.state.judged += len(chains)
        return sorted(chains, key=lambda chain: -chain.score.value)

    def run(self, budget: Budget) -> Found:
        """Search until the budget is spent, or nothing more is found.

        Raises:
            UserError: what is in scratch of it cannot be used.
        """
        state = self._begun(budget)
        while state.chains and state.idle < PATIENCE and not budget.is_over and state.judged < budget.judgements:
            before, is_whole = state.best.score.value, budget.judgements - state.judged >= CHAINS * ROUND
            state.chains = self._compared(self._round(budget))
            state.idle = 0 if state.best.score.value > before + LITTLE else state.idle + 1
            state.rounds += 1
            if self.file is not None and is_whole and not self.had_accident and time.monotonic() < budget.deadline:
                write_state(self.file, state)  # as any larger budget has it
        self._polish()
        return replace(state.best, judged=state.judged, built=len(state.built))

    def _begun(self, budget: Budget) -> State:
        """Where the search of before stopped, or the starts."""
        if self.file is not None and (known := read_state(self.file)) is not None:
            if known.judged <= budget.judgements:
                self.state = known
                if known.best.tokens is not None:
                    self.show(known.best)
                return known
            self.file = None  # it has gone further than this one may, and stays
        for start in self.starts:
            if self._vouch(start):
                break
        self.state.chains = [replace(self.starts[i % len(self.starts)]) for i in range(CHAINS)] if self.starts else []
        return self.state

    def _round(self, budget: Budget) -> list[Chain]:
        """Every chain's round."""
        chains = self.state.chains
        each = min(ROUND, -(-(budget.judgements - self.state.judged) // len(chains)))
        seeds = [digest(self.seed, "round", self.state.rounds, i) for i in range(len(chains))]
        tasks = [
            RoundTask(self.evidence, self.codec.bits, chain, each, seed, warmth, budget.deadline)
            for chain, seed, warmth in zip(chains, seeds, WARMTH)
        ]
        found = []
        for chain, result in zip(chains, self.pool.map(tasks)):
            # Where a worker died the chain stays where it was, and what follows from that is not kept.
            self.had_accident |= not isinstance(result, Chain)
            found.append(result if isinstance(result, Chain) else replace(chain, spent=chain.spent + each))
            self.state.judged += found[-1].spent - chain.spent
        return found

    def _compared(self, chains: list[Chain]) -> list[Chain]:
        """After the kernel has vouched for what is better than the best: the worst begins again from that.

        What does not build goes on: the next change may mend it.
        """
        order = sorted(range(len(chains)), key=lambda i: -chains[i].score.value)
        for i in order:
            if chains[i].score.value <= self.state.best.score.value or self._vouch(chains[i]):
                break
        best = self.state.best
        if best.tokens is None:
            return chains
        again = replace(chains[order[-1]], form=form_of(self.codec, best.tokens), score=best.score)
        return [again if i == order[-1] else chain for i, chain in enumerate(chains)]

    def _polish(self) -> None:
        """Put the best one's numbers where the cloud has them, where that explains it no worse and builds."""
        if self.state.best.tokens is None:
            return
        form = form_of(self.codec, self.state.best.tokens)
        try:
            tokens = tokens_of(self.codec, polished(form, self.evidence, self.codec))
            before, after = map(self.thorough, (form, form_of(self.codec, tokens)))
        except RejectError:
            return
        if tokens == self.state.best.tokens or after.volume + after.surface < before.volume + before.surface - LITTLE:
            return
        misfit = self._built(tokens)
        if not isinstance(misfit, Failure):
            score = self.judge(form_of(self.codec, tokens))
            self.state.best = Found(tokens, score, misfit, self.state.judged, len(self.state.built))
            self.show(self.state.best)

    def _built(self, tokens: tuple[int, ...]) -> float | Failure:
        """The misfit of what the kernel builds of a program, which it is asked for once."""
        if tokens not in self.state.built:
            points = self.judge.evidence.telling
            (result,) = self.pool.map([VouchTask(tokens, self.codec.bits, points, self.compared)])
            assert not isinstance(result, Chain)
            self.had_accident |= isinstance(result, Failure) and result.reason in ACCIDENTS
            self.state.built[tokens] = result
        return self.state.built[tokens]

    def _vouch(self, chain: Chain) -> bool:
        """Whether the kernel builds what a chain has; that is the best then, if it is so as it is written."""
        try:
            tokens = tokens_of(self.codec, chain.form)
            score = self.judge(form_of(self.codec, tokens))
        except RejectError:
            return False
        misfit = self._built(tokens)
        if isinstance(misfit, Failure):
            return False
        if score.value > self.state.best.score.value:
            self.state.best = Found(tokens, score, misfit, self.state.judged, len(self.state.built))
            self.show(self.state.best)
        return True
