"""Prompts that wait for their programs. Knows no tensors: what is here is loaded before the model is."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.cad.solids.rendering import Pictures
from pipeline.generation.candidates import WARM
from pipeline.generation.inputs import UserInputs

if TYPE_CHECKING:
    from pipeline.model.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Written:
    """A program, as tokens, and its log-likelihood in nats, where there are others to compare it with."""

    tokens: list[int]
    log_likelihood: float | None


@dataclass(eq=False)
class Job:
    """Candidates for one prompt.

    Attributes:
        given: the user's inputs.
        start: tokens of a program that is to be gone on from.
        num_candidates: the first is greedy, the others are sampled, each by a seed of its own.
        result: programs, in the order of the candidates.
        gone: set when nobody waits any more.
        pictures: that programs are compared with.
        prompt: the inputs, encoded; found: tokens, by candidate: both are the batcher's own.
    """

    given: UserInputs
    start: Sequence[int]
    num_candidates: int
    seed: int
    temperature: float | None
    max_new_tokens: int
    result: Future[list[Written]] = field(default_factory=Future)
    gone: threading.Event = field(default_factory=threading.Event)
    pictures: Pictures | None = None
    prompt: "Inputs | None" = None
    found: dict[int, list[int]] = field(default_factory=dict)  # by candidate

    def temperature_of(self, candidate: int) -> float:
        """Of sampling; 0 is greedy."""
        if self.temperature is not None:
            return self.temperature
        return WARM if candidate else 0.0
