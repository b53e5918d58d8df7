"""Programs for many requests at once: those that wait are written together, and who has gone is left out.

While a batch is written, requests queue; the next batch takes as many as fit. So one alone begins at once, and many
share the language model's steps.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import StoppingCriteria

from pipeline.decoding.generate import generate_tokens
from pipeline.decoding.options import Decoding
from pipeline.generation.likelihood import score
from pipeline.generation.pretrained import CadMllm
from pipeline.generation.prompt import make_prompt
from pipeline.runtime.seeds import generator
from pipeline.serving.jobs import Job, Written

MAX_ROWS = 32  # programs of a batch


@dataclass(frozen=True, slots=True)
class _Row:
    job: Job
    candidate: int

    @property
    def alike(self) -> tuple[float, int, int]:
        """What rows of one batch have in common."""
        return self.job.temperature_of(self.candidate), self.job.max_new_tokens, len(self.job.given.images)


class _Gone(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows that nobody waits for."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        return torch.tensor([row.job.gone.is_set() for row in self.rows], device=input_ids.device)


class Batcher:
    """Writes programs in a thread of its own, which alone uses the model.

    Args:
        watch: gets the number of rows of each batch.
    """

    def __init__(self, model: CadMllm, watch: Callable[[int], None] = lambda _: None) -> None:
        self.model, self.watch = model, watch
        self._waiting: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Programs that are asked for and not begun."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Have its candidates written."""
        with self._changed:
            if self._closed:
                raise RuntimeError("closed")
            self._waiting.extend(_Row(job, i) for i in range(job.num_candidates))
            self._changed.notify()

    def close(self) -> None:
        """Finish the batch at hand; jobs that wait fail."""
        with self._changed:
            self._closed = True
            left, self._waiting = {row.job for row in self._waiting}, deque()
            self._changed.notify()
        self._thread.join()
        for job in left:
            job.result.cancel()

    def _run(self) -> None:
        while rows := self._next():
            try:
                self._write(rows)
            except Exception as error:
                for job in {row.job for row in rows}:
                    if not job.result.done():
                        job.result.set_exception(error)

    def _next(self) -> list[_Row]:
        """The rows of the next batch, in the order of asking; none when all is over."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return []
                here = [row for row in self._waiting if not row.job.gone.is_set() and not row.job.result.done()]
                batch = list(itertools.islice((row for row in here if row.alike == here[0].alike), MAX_ROWS))
                taken = set(batch)
                self._waiting = deque(row for row in here if row not in taken)
            if batch := [row for row in batch if self._is_prepared(row.job)]:
                return batch

    def _is_prepared(self, job: Job) -> bool:
        """Whether a job's inputs are encoded; one whose inputs cannot be is told so, and costs no other."""
        if job.prompt is None and not job.result.done():
            try:
                job.prompt = make_prompt(self.model.model, self.model.encoders, job.given, job.start)
            except Exception as error:
                job.result.set_exception(error)
        return job.prompt is not None

    def _write(self, rows: list[_Row]) -> None:
        self.watch(len(rows))
        temperature, max_new_tokens, _ = rows[0].alike
        seeds = [generator(row.job.seed, "candidate", row.candidate) for row in rows] if temperature else None
        programs = generate_tokens(
            self.model.model,
            [row.job.prompt for row in rows if row.job.prompt is not None],
            Decoding(max_new_tokens, temperature=temperature),
            seeds,
            [_Gone(rows)],
        )
        for row, (tokens,) in zip(rows, programs, strict=True):
            row.job.found[row.candidate] = tokens
        for job in {row.job for row in rows}:
            if len(job.found) == job.num_candidates and not job.gone.is_set():
                try:
                    self._finish(job)
                except Exception as error:  # costs this one alone
                    job.result.set_exception(error)

    def _finish(self, job: Job) -> None:
        programs = [job.found[i] for i in range(job.num_candidates)]
        if len(programs) == 1:
            job.result.set_result([Written(programs[0], None)])
            return
        assert job.prompt is not None
        scores = score(self.model.model, job.prompt, programs)
        job.result.set_result([Written(tokens, value) for tokens, value in zip(programs, scores, strict=True)])
