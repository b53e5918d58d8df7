"""One chain of search: a form that is changed, judged, and kept or not."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.layout import Prism
from pipeline.generation.search.form import Form
from pipeline.generation.search.judge import Judge, Score
from pipeline.generation.search.moves import Numbers
from pipeline.generation.search.proposals import Proposer, crosses
from pipeline.generation.search.structure import Redrawing, Structure

Mover = Callable[[Form, np.random.Generator], Form | None]
READING = 40  # judgements that a proposal from the cloud costs
SHARES = {  # how often each kind of move is tried, before it is known how often it helps
    "one": 4.0,
    "equal": 4.0,
    "snap": 4.0,
    "coarsen": 2.0,
    "shift": 2.0,
    "scale": 2.0,
    "drop": 4.0,
    "simplify": 4.0,
    "operate": 0.5,
    "merge": 1.0,
    "copy": 0.5,
    "alike": 1.0,
    "redraw": 0.15,
    "residual": 0.15,
}
EXPENSIVE = ("redraw", "residual")


@dataclass(slots=True)
class Tally:
    """How often a kind of move was tried and helped."""

    tried: int = 0
    helped: int = 0
    gained: float = 0.0


@dataclass(slots=True)
class Chain:
    """Where a chain stands.

    Attributes:
        form: now.
        score: of it.
        spent: judgements so far.
    """

    form: Form
    score: Score
    spent: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)


class Moves:
    """All kinds of moves, of which those are tried more often that help.

    Args:
        redrawing: those that draw what a cloud has, where there is one.
    """

    def __init__(self, codec: Codec, proposer: Proposer | None = None, redrawing: Redrawing | None = None) -> None:
        kinds: list[object] = [Numbers(codec, proposer), Structure(codec), *([redrawing] if redrawing else [])]
        names = [name for name in SHARES if redrawing or name not in EXPENSIVE]
        self.movers: dict[str, Mover] = {
            name: next(getattr(moves, name) for moves in kinds if hasattr(moves, name)) for name in names
        }
        self._crosses = lru_cache(4096)(lambda region: crosses(region, codec))

    def draw(self, chain: Chain, count: int, rng: np.random.Generator) -> list[str]:
        """The kinds of the next moves."""
        names = list(self.movers)
        weights = np.array([self._weight(name, chain) for name in names])
        return [str(name) for name in rng.choice(names, count, p=weights / weights.sum())]

    def _weight(self, name: str, chain: Chain) -> float:
        tally = chain.tallies.setdefault(name, Tally())
        return SHARES[name] * (0.2 + (tally.helped + 1) / (tally.tried + 5))

    def crosses(self, before: Form, after: Form) -> bool:
        """Whether loops of what is new meet themselves or each other."""
        return any(self._crosses(region) for prism in changed(before, after) for region in prism.profiles)


class Searcher:
    """Moves and judges for one cloud."""

    def __init__(self, judge: Judge, thorough: Judge, proposer: Proposer) -> None:
        self.judge, self.thorough, self.proposer = judge, thorough, proposer
        self.moves = Moves(judge.codec, proposer, Redrawing(proposer, thorough))

    def run(
        self,
        chain: Chain,
        budget: int,
        rng: np.random.Generator,
        warmth: float = 0.0,
        deadline: float = float("inf"),
    ) -> Chain:
        """Go on for so many judgements, or until a time (``time.monotonic``), and give the best that was seen.

        Args:
            warmth: temperature at the start of this run; at its end it is 0.
        """
        chain = replace(chain, tallies={name: replace(tally) for name, tally in chain.tallies.items()})
        best = Chain(chain.form, chain.score)
        end = chain.spent + budget
        begin = chain.spent
        while chain.spent < end and time.monotonic() < deadline:
            for name in self.moves.draw(chain, 32, rng):
                if chain.spent >= end or time.monotonic() >= deadline:
                    break
                temperature = warmth * (1 - (chain.spent - begin) / budget)
                self._try(name, chain, temperature, rng)
                if chain.score.value > best.score.value:
                    best.form, best.score = chain.form, chain.score
        return Chain(best.form, best.score, chain.spent, chain.tallies)

    def _try(self, name: str, chain: Chain, temperature: float, rng: np.random.Generator) -> None:
        tally = chain.tallies.setdefault(name, Tally())
        tally.tried += 1
        chain.spent += READING if name in EXPENSIVE else 1
        form = self.moves.movers[name](chain.form, rng)
        if form is None or form == chain.form:
            return
        score = self.judge(form)
        gain = score.value - chain.score.value
        if gain <= 0 and (temperature <= 0 or rng.random() >= math.exp(gain / temperature)):
            return
        if self.moves.crosses(chain.form, form):
            return
        tally.helped += gain > 0
        tally.gained += max(gain, 0.0)
        chain.form, chain.score = form, score


def changed(before: Form, after: Form) -> list[Prism]:
    """The steps that are new."""
    known = set(before)
    return [prism for prism in after if prism not in known]
