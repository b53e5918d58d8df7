"""From a seed to a schedule of faults, and from one that fails to the shortest that does."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.faults.faults import FAULTS
from tests.faults.project import STAGES

BY_DVC = 10  # one schedule in so many is run by ``dvc repro``
ELSEWHERE = 5  # and one in so many has a fault of machines elsewhere, too, where its stages ask any
NEEDS = ("bucket", "cluster")


@dataclass(frozen=True)
class Planned:
    """One fault of a schedule.

    Attributes:
        stage: number of the stage that it meets, within the schedule.
        kind: key of ``FAULTS``.
        trigger: ``time`` (``at`` is a share of the stage's quiet duration), ``files`` (after so many new names in
            scratch), ``publishing`` (after so many changes at outs or their temporary names).
        where: from 0 to 1: which of the places, files or processes that there are.
    """

    stage: int
    kind: str
    trigger: str
    at: float
    where: float


@dataclass(frozen=True)
class Schedule:
    """Which stages run, over what, and which faults meet them.

    Attributes:
        first, count: numbers of the stages, in ``STAGES``.
        over: whether older outs are there already.
        by_dvc: whether ``dvc repro`` runs them, and not one command after another.
    """

    seed: int
    first: int
    count: int
    over: bool
    by_dvc: bool
    faults: tuple[Planned, ...]

    def only(self, numbers: Sequence[int]) -> "Schedule":
        """With these of its faults."""
        return replace(self, faults=tuple(self.faults[number] for number in numbers))


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    chance = random.Random(seed)
    by_dvc = seed % BY_DVC == BY_DVC - 1
    count = chance.randint(1, 3)
    first = chance.randrange(len(STAGES) - count + 1)
    faults = []
    for _ in range(chance.choice((1, 1, 2, 2, 3, 4))):
        stage = chance.randrange(count)
        here = {name: fault for name, fault in FAULTS.items() if fault.needs not in NEEDS}
        faults.append(_plan(chance, stage, [name for name in here if here[name].meets(STAGES[first + stage], by_dvc)]))
    over = chance.random() < 0.4
    if seed % ELSEWHERE == 0 and not by_dvc:
        stage, elsewhere = chance.randrange(count), [name for name, fault in FAULTS.items() if fault.needs in NEEDS]
        if names := [name for name in elsewhere if FAULTS[name].meets(STAGES[first + stage], by_dvc)]:
            faults.insert(chance.randint(0, len(faults)), _plan(chance, stage, names))
    faults.sort(key=lambda fault: fault.stage)
    return Schedule(seed, first, count, over, by_dvc, tuple(faults))


def _plan(chance: random.Random, stage: int, names: list[str]) -> Planned:
    """One of these faults."""
    kind = chance.choices(names, [FAULTS[name].weight for name in names])[0]
    trigger = chance.choice(("time", "time", "files", "publishing"))
    if FAULTS[kind].needs in NEEDS:
        trigger = "time"  # what is elsewhere is late, as is what it is asked for
    at = {
        "time": chance.uniform(0.02, 1.0),
        "files": float(round(2 ** chance.uniform(0, 5))),
        "publishing": float(chance.randint(1, 6)),
    }[trigger]
    return Planned(stage, kind, trigger, at, chance.random())


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> list[int]:
    """Numbers of the fewest of its faults with which it still fails: one after another is left out."""
    kept = list(range(len(schedule.faults)))
    for number in list(kept):
        fewer = [each for each in kept if each != number]
        if fails(schedule.only(fewer)):
            kept = fewer
    return kept
