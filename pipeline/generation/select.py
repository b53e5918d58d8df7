"""Several candidates for one prompt, and which of them to keep: by what the user gave, never by the truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids.distances import misfit
from pipeline.cad.solids.mesh import watertight
from pipeline.cad.solids.rendering import Pictures
from pipeline.execution.pool import Failure, Pool

Shown = np.ndarray | Pictures | None  # a cloud in the normalised frame, (N, 3) or (N, 6), or pictures, or neither


@dataclass(frozen=True, slots=True)
class BuildTask:
    """A candidate, and what it is to explain."""

    tokens: tuple[int, ...]
    bits: int
    shown: Shown


@dataclass(frozen=True, slots=True)
class Candidate:
    """One program written for a prompt.

    Attributes:
        log_likelihood: of the whole program, in nats.
        misfit: to the input cloud or pictures, next to 0 for the solid that they show; None without these or a solid.
        failure: why it makes no watertight solid; None where it does.
    """

    tokens: tuple[int, ...]
    log_likelihood: float
    misfit: float | None
    failure: Failure | None

    @property
    def rank(self) -> tuple[bool, float, float]:
        """What candidates are sorted by: solids first, then nearness to the input, then likelihood."""
        return self.failure is not None, 0.0 if self.misfit is None else self.misfit, -self.log_likelihood


def build_candidate(task: BuildTask) -> float | None:
    """Build a candidate, in a sandbox; its ``misfit`` to the input cloud or pictures, where there are some.

    Raises:
        RejectError: it makes no watertight solid.
    """
    from pipeline.cad.solids import kernel
    from pipeline.geometry.draw import DEFLECTION

    mesh = kernel.tessellate(kernel.build(Codec(task.bits).decode(task.tokens)), DEFLECTION)
    watertight(mesh)
    if isinstance(task.shown, Pictures):
        return task.shown.misfit(mesh)
    return None if task.shown is None else misfit(task.shown, mesh)


def select(
    programs: Sequence[Sequence[Sequence[int]]],
    likelihoods: Sequence[Sequence[float]],
    shown: Sequence[Shown],
    bits: int,
    pool: Pool[BuildTask, float | None],
) -> Iterator[list[Candidate]]:
    """The candidates of each prompt, the best one first.

    Args:
        programs: for each prompt its candidates' tokens; equal ones are built and listed once.
        likelihoods: of each candidate.
        shown: by each prompt, that its candidates are to explain.
    """
    distinct = [{tuple(tokens): value for tokens, value in zip(p, v)} for p, v in zip(programs, likelihoods)]
    tasks = (BuildTask(tokens, bits, given) for own, given in zip(distinct, shown) for tokens in own)
    answers = pool.map(tasks)
    for own in distinct:
        found = []
        for tokens, likelihood in own.items():
            answer = next(answers)
            if isinstance(answer, Failure):
                found.append(Candidate(tokens, likelihood, None, answer))
            else:
                found.append(Candidate(tokens, likelihood, answer, None))
        yield sorted(found, key=lambda candidate: candidate.rank)
