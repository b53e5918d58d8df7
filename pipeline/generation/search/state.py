"""Where a search stands after a round, as JSON: one that was stopped goes on from there, as if it had not been."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.cad.language.layout import Outline, Prism, Ring, Shape
from pipeline.cad.language.program import Operation
from pipeline.execution.pool import Failure
from pipeline.generation.search.chain import Chain, Tally
from pipeline.generation.search.form import Form
from pipeline.generation.search.judge import Score
from pipeline.runtime.atomic import write_text
from pipeline.runtime.errors import UserError


@dataclass(frozen=True, slots=True)
class Found:
    """What search has found so far.

    Attributes:
        tokens: of a program that the kernel builds; None while there is none.
        score: of it by the evidence.
        misfit: of the solid to the cloud, or to the pictures; None while there is none.
        judged: judgements so far.
        built: solids that the kernel was asked for so far.
    """

    tokens: tuple[int, ...] | None
    score: Score
    misfit: float | None
    judged: int
    built: int


@dataclass(slots=True)
class State:
    """A search between two rounds.

    Attributes:
        chains: where each stands; none before the first round.
        rounds: how many are over.
        idle: how many of the last have found nothing.
        judged: judgements so far.
        best: of what the kernel builds.
        built: the misfit of each program's solid, or why there is none.
    """

    chains: list[Chain]
    best: Found
    rounds: int = 0
    idle: int = 0
    judged: int = 0
    built: dict[tuple[int, ...], float | Failure] = field(default_factory=dict)

    def dumps(self) -> str:
        """As JSON; numbers come back to the last bit."""
        built = [
            [list(tokens), asdict(found) if isinstance(found, Failure) else found]
            for tokens, found in self.built.items()
        ]
        return json.dumps(
            {
                "chains": [_chain(chain) for chain in self.chains],
                "best": asdict(self.best),
                "rounds": self.rounds,
                "idle": self.idle,
                "judged": self.judged,
                "built": built,
            }
        )

    @classmethod
    def loads(cls, text: str) -> "State":
        """From ``dumps``."""
        known = json.loads(text)
        best = Found(**{**known["best"], "score": Score(**known["best"]["score"])})
        if best.tokens is not None:
            best = replace(best, tokens=tuple(best.tokens))
        built = {
            tuple(tokens): Failure(**found) if isinstance(found, dict) else found for tokens, found in known["built"]
        }
        chains = [_read_chain(chain) for chain in known["chains"]]
        return cls(chains, best, known["rounds"], known["idle"], known["judged"], built)


def read_state(path: Path) -> State | None:
    """The state in a file, where there is one.

    Raises:
        UserError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return State.loads(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and the search begins anew") from error


def write_state(path: Path, state: State) -> None:
    """Put a state into a file; of several processes that do so at once the last has it."""
    own = path.with_suffix(f".{os.getpid()}")
    write_text(own, state.dumps())
    own.replace(path)


def _chain(chain: Chain) -> dict[str, Any]:
    return {**asdict(chain), "form": [_prism(prism) for prism in chain.form]}


def _read_chain(known: dict[str, Any]) -> Chain:
    tallies = {name: Tally(**tally) for name, tally in known["tallies"].items()}
    return Chain(_read_form(known["form"]), Score(**known["score"]), known["spent"], tallies)


def _prism(prism: Prism) -> list[Any]:
    profiles = [[_shape(outer), [_shape(hole) for hole in holes]] for outer, holes in prism.profiles]
    return [prism.operation, list(prism.plane), prism.low, prism.high, profiles]


def _read_form(known: list[list[Any]]) -> Form:
    return tuple(
        Prism(
            Operation(operation),
            tuple(plane),
            low,
            high,
            tuple((_read_shape(outer), tuple(map(_read_shape, holes))) for outer, holes in profiles),
        )
        for operation, plane, low, high, profiles in known
    )


def _shape(shape: Shape) -> list[Any]:
    """A circle's three numbers, or a list of corners."""
    return [shape.radius, shape.x, shape.y] if isinstance(shape, Ring) else [list(corner) for corner in shape.corners]


def _read_shape(known: list[Any]) -> Shape:
    return Outline(tuple(map(tuple, known))) if isinstance(known[0], list) else Ring(*known)
