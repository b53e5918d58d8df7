"""How the loss of a stage went, out of its log: the spike at its start, its slope and variance, or no fall at all.

What the curriculum document expects: the first stage falls steadily and fast; a new modality may make the loss spike,
from which it comes down gradually, later ones more slowly but in a more stable way.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.curriculum.advice import Lines, parent_of
from pipeline.curriculum.settings import CurriculumStage


@dataclass(frozen=True, slots=True)
class Pace:
    """The training loss of one stage. Its start and end are means over a tenth of the log's lines, None if it has none.

    Attributes:
        before: the end of the stage that it goes on from; None where none is ``comparable``.
        recovered: steps until the mean over a tenth is no longer above that; 0 if it never was, None if it stays above.
        slope: per epoch, of the line through the stage's second half; None where that is less than three lines.
        variance: around this line.
    """

    before: float | None
    start: float | None
    end: float | None
    recovered: int | None
    slope: float | None
    variance: float | None

    @property
    def spike(self) -> float | None:
        """The start over the end of the stage that it goes on from."""
        return None if self.before is None or self.start is None else self.start / self.before


def paces(curriculum: Mapping[str, CurriculumStage], logs: Mapping[str, Lines]) -> dict[str, Pace]:
    """The pace of each stage, given the lines of their logs in the order of training."""
    found: dict[str, Pace] = {}
    for name, lines in logs.items():
        before = comparable(curriculum, name)
        found[name] = _pace(lines, found[before].end if before else None)
    return found


def comparable(curriculum: Mapping[str, CurriculumStage], name: str) -> str | None:
    """The stage that a stage goes on from, where it has the same objective: other losses are in other units."""
    parent = parent_of(curriculum[name])
    return parent if parent and curriculum[parent].objective == curriculum[name].objective else None


def _pace(lines: Lines, before: float | None) -> Pace:
    train = [line for line in lines if line["event"] == "train"]
    if not train:
        return Pace(before, None, None, None, None, None)
    steps, losses = [line["step"] for line in train], [line["loss"] for line in train]
    width = max(1, len(losses) // 10)
    means = [statistics.fmean(losses[at : at + width]) for at in range(len(losses) - width + 1)]
    recovered: int | None = 0
    if before is not None and means[0] > before:
        recovered = next((steps[at + width - 1] for at, mean in enumerate(means) if mean <= before), None)
    slope = variance = None
    half = len(losses) // 2
    if len(losses) - half >= 3:
        last = next(line for line in reversed(lines) if line["event"] == "validation")
        epochs = [step * last["epochs"] / last["step"] for step in steps[half:]]
        slope, height = statistics.linear_regression(epochs, losses[half:])
        variance = statistics.fmean(
            (loss - height - slope * at) ** 2 for at, loss in zip(epochs, losses[half:], strict=True)
        )
    return Pace(before, means[0], means[-1], recovered, slope, variance)
