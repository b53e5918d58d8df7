"""Search for the program that looks like pictures.

Several programs are changed at once, a few changes of each at a time, which the kernel builds in sandboxes and which
are compared with the pictures; each goes on with its best. Budgets count what is built: what is found depends on them
and on the seed, not on the number of processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids.rendering import Pictures
from pipeline.execution.pool import Failure, Pool
from pipeline.execution.workers import Workers
from pipeline.generation.search.chain import Chain, Moves
from pipeline.generation.search.form import Form, form_of, length, tokens_of
from pipeline.generation.search.judge import PRICE, Score
from pipeline.generation.search.search import CHAINS, LITTLE, NOTHING, Budget, search, silent
from pipeline.generation.search.state import Found, State, read_state, write_state
from pipeline.generation.select import BuildTask, build_candidate
from pipeline.runtime.errors import RejectError
from pipeline.runtime.fingerprint import fingerprint
from pipeline.runtime.seeds import generator

CHANGES = 4  # of each chain, at a time
TRIES = 40  # to find so many that are new
STEP = CHAINS * CHANGES  # programs that are built at a time, at most
ROUND = 8  # steps, after which the worst chain begins again from the best, and all is kept
PATIENCE = 80  # steps in which nothing is found: there is no more to be had
TIMEOUT_S, MEMORY_MIB = 10.0, 4096  # of a solid: most take a fiftieth of a second


def search_for(
    shown: np.ndarray | Pictures,
    bits: int,
    starts: Sequence[Sequence[int]],
    seed: int,
    workers: Workers,
    budget: Budget,
    show: Callable[[Found], None] = silent,
    scratch: Path | None = None,
) -> Found:
    """The program that explains a cloud or pictures best, as far as the budget goes.

    A stop that is asked for (``runtime.interrupt``) ends it with what is found so far. Arguments are those of
    ``Search`` or ``LooksSearch``.
    """
    if not isinstance(shown, Pictures):
        return search(shown, bits, starts, seed, workers, budget, show, scratch)
    with workers.pool(build_candidate, TIMEOUT_S, MEMORY_MIB) as pool:
        return LooksSearch(shown, bits, starts, seed, pool, show, scratch).run(budget)


class LooksSearch:
    """One search.

    Args:
        bits: of the codec's values.
        starts: programs to begin with, as tokens; one that builds is needed.
        seed: of all that is random.
        pool: for ``build_candidate``.
        show: gets what is best so far, each time that it changes. Of a score, volume and surface are the likeness: what
            pictures and program have in common of their grey values.
        scratch: folder in which the state is kept, and a search for the same goes on from it.
    """

    def __init__(
        self,
        pictures: Pictures,
        bits: int,
        starts: Sequence[Sequence[int]],
        seed: int,
        pool: Pool[BuildTask, float | None],
        show: Callable[[Found], None] = silent,
        scratch: Path | None = None,
    ) -> None:
        self.pictures, self.codec, self.seed, self.pool, self.show = pictures, Codec(bits), seed, pool, show
        self.moves, self.state, self.file = Moves(self.codec), State([], NOTHING), None
        self.starts = list(dict.fromkeys(map(tuple, starts)))
        if scratch is not None:
            described = {"bits": bits, "seed": seed, "starts": [list(tokens) for tokens in self.starts]}
            self.file = scratch / f"{fingerprint(__name__, described, {'pictures': pictures.source})}.json"

    def run(self, budget: Budget) -> Found:
        """Search until the budget is spent, or nothing more is found.

        Raises:
            UserError: what is in scratch of it cannot be used.
        """
        self._begin(budget)
        state = self.state
        while state.chains and state.idle < PATIENCE and not budget.is_over:
            if len(state.built) + STEP > budget.judgements:
                break  # a step is whole: any larger budget goes on as this one would have
            before = state.best.score.value
            self._step()
            state.rounds += 1
            state.idle = 0 if state.best.score.value > before + LITTLE else state.idle + 1
            if state.rounds % ROUND == 0:
                self._compare()
                if self.file is not None:
                    write_state(self.file, state)
        return replace(state.best, judged=len(state.built), built=len(state.built))

    def _begin(self, budget: Budget) -> None:
        """Where the search of before stopped, or the starts."""
        known = None if self.file is None else read_state(self.file)
        if known is not None and len(known.built) <= budget.judgements:
            self.state = known
            self.show(known.best)
            return
        if known is not None:
            self.file = None  # it has gone further than this one may, and stays
        chains = []
        for tokens, misfit in zip(self.starts, self._built(self.starts), strict=True):
            try:
                form = form_of(self.codec, tokens)
            except RejectError:
                continue
            if not isinstance(misfit, Failure):
                chains.append(self._chain(tokens, form, misfit))
        chains.sort(key=lambda chain: -chain.score.value)
        self.state.chains = [replace(chains[i % len(chains)], tallies={}) for i in range(CHAINS)] if chains else []

    def _chain(self, tokens: tuple[int, ...], form: Form, misfit: float) -> Chain:
        """A form that is built; the best, where it is."""
        alike = 1 - misfit
        score = Score(alike - PRICE * length(form), alike, alike)
        if score.value > self.state.best.score.value:
            built = len(self.state.built)
            self.state.best = Found(tokens, score, misfit, built, built)
            self.show(self.state.best)
        return Chain(form, score)

    def _step(self) -> None:
        """Some changes of each chain's form, of which it takes the best where that is better."""
        rng = generator(self.seed, "step", self.state.rounds)
        proposed = [self._changes(chain, rng) for chain in self.state.chains]
        misfits = iter(self._built([tokens for changes in proposed for tokens in changes]))
        for i, (chain, changes) in enumerate(zip(self.state.chains, proposed, strict=True)):
            best = chain
            for tokens, (name, form) in changes.items():
                misfit = next(misfits)
                if isinstance(misfit, Failure):
                    continue
                found = self._chain(tokens, form, misfit)
                if found.score.value > chain.score.value:
                    chain.tallies[name].helped += 1
                if found.score.value > best.score.value:
                    best = found
            self.state.chains[i] = replace(best, tallies=chain.tallies)

    def _changes(self, chain: Chain, rng: np.random.Generator) -> dict[tuple[int, ...], tuple[str, Form]]:
        """Programs next to a chain's that have not been built, with the move that makes each, and their forms."""
        found: dict[tuple[int, ...], tuple[str, Form]] = {}
        for name in self.moves.draw(chain, TRIES, rng):
            if len(found) == CHANGES:
                break
            chain.tallies[name].tried += 1
            form = self.moves.movers[name](chain.form, rng)
            if form is None or form == chain.form or self.moves.crosses(chain.form, form):
                continue
            try:
                tokens = tokens_of(self.codec, form)
            except RejectError:
                continue
            if tokens not in self.state.built:
                found[tokens] = name, form_of(self.codec, tokens)
        return found

    def _built(self, programs: Sequence[tuple[int, ...]]) -> list[float | Failure]:
        """How unlike the pictures each program's solid is, or why there is none; each is built once."""
        due = [tokens for tokens in dict.fromkeys(programs) if tokens not in self.state.built]
        results = self.pool.map(BuildTask(tokens, self.codec.bits, self.pictures) for tokens in due)
        for tokens, result in zip(due, results, strict=True):
            assert result is not None, "there are pictures"
            self.state.built[tokens] = result
        return [self.state.built[tokens] for tokens in programs]

    def _compare(self) -> None:
        """The worst chain begins again from the best."""
        chains = self.state.chains
        order = sorted(range(len(chains)), key=lambda i: -chains[i].score.value)
        chains[order[-1]] = replace(chains[order[0]], tallies=chains[order[-1]].tallies)
