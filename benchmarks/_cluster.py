"""A cluster that is simulated: workers that take units one at a time, and steps that all ranks wait for each other in.

The first is how corpora, geometry and features are made (``pipeline/execution``), the second how a stage is trained
(``pipeline/training/parallel.py``). Machines may be slow, and fail. All times are in seconds.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Failure = tuple[float, int]  # when, and which machine


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines that are alike, but for the slow ones.

    Attributes:
        machines, workers_per_machine: processes in all are their product.
        slow: share of machines that take ``slowdown`` times as long, rounded down: one machine alone has no other
            beside it to be slower than.
        mtbf_s: mean time between failures of one machine, exponential.
        start_s: until workers are up, also those of a machine that comes back.
        restart_s: until there is another machine in the place of a lost one.
    """

    machines: int
    workers_per_machine: int
    slow: float = 0.0
    slowdown: float = 1.0
    mtbf_s: float = math.inf
    start_s: float = 0.0
    restart_s: float = 0.0

    @property
    def workers(self) -> int:
        """Processes in all."""
        return self.machines * self.workers_per_machine

    def pace(self) -> list[float]:
        """By how much longer each worker takes; those of one machine are neighbours."""
        slow = int(self.slow * self.machines) * self.workers_per_machine
        return [self.slowdown] * slow + [1.0] * (self.workers - slow)

    def failures(self, rng: np.random.Generator) -> Iterator[Failure]:
        """When which machine fails, without end, in order of time; none where they do not fail."""
        clock = 0.0
        while math.isfinite(self.mtbf_s):
            clock += rng.exponential(self.mtbf_s / self.machines)
            yield clock, int(rng.integers(self.machines))


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a simulation.

    Attributes:
        seconds: until the last result.
        busy: share of the workers' time that results were made in.
        lost_s: seconds of work that came to nothing, over all workers or, of steps, of the whole cluster.
        failures: of machines.
    """

    seconds: float
    busy: float
    lost_s: float
    failures: int


@dataclass(slots=True)
class _Pool:
    """Who is at what. A unit is known by its position; a worker at none waits, or comes up."""

    times: Sequence[float]
    pace: list[float]
    ahead: int | None
    at: list[int | None] = field(init=False)
    since: list[float] = field(init=False)
    life: list[int] = field(init=False)
    events: list[tuple[float, int, int]] = field(init=False)  # when, which worker, in which of its lives
    finished: bytearray = field(init=False)
    idle: deque[int] = field(default_factory=deque)
    again: deque[int] = field(default_factory=deque)
    taken: int = 0
    due: int = 0
    made_s: float = 0.0
    lost_s: float = 0.0

    def __post_init__(self) -> None:
        workers = len(self.pace)
        self.at, self.since, self.life = [None] * workers, [0.0] * workers, [0] * workers
        self.finished, self.events = bytearray(len(self.times)), []

    def come_up(self, worker: int, when: float) -> None:
        """A worker will be there, for the first time or again."""
        heapq.heappush(self.events, (when, worker, self.life[worker]))

    def give(self, worker: int, now: float) -> bool:
        """The next unit to a worker, or None: lost ones first. Whether there was one that may begin."""
        if self.again:
            unit = self.again.popleft()
        elif self.taken < len(self.times) and (
            self.ahead is None or self.taken < self.due + self.ahead * len(self.pace)
        ):
            unit = self.taken
            self.taken += 1
        else:
            return False
        self.at[worker], self.since[worker] = unit, now
        heapq.heappush(self.events, (now + self.times[unit] * self.pace[worker], worker, self.life[worker]))
        return True

    def give_idle(self, now: float) -> None:
        """Units to those that wait, while there are some."""
        while self.idle and self.give(self.idle[0], now):
            self.idle.popleft()

    def finish(self, worker: int, unit: int, when: float) -> None:
        """A worker's result has come."""
        self.made_s += when - self.since[worker]
        self.at[worker] = None
        self.finished[unit] = 1
        while self.due < len(self.finished) and self.finished[self.due]:
            self.due += 1

    def lose(self, workers: range, when: float, back: float) -> None:
        """A machine is lost: its workers' units start again elsewhere, and they come up later."""
        for worker in workers:
            unit = self.at[worker]
            if unit is not None:
                self.again.append(unit)
                self.lost_s += max(0.0, when - self.since[worker])
            self.at[worker] = None
            self.life[worker] += 1
            self.come_up(worker, back)
        self.idle = deque(worker for worker in self.idle if worker not in workers)
        self.give_idle(when)


def simulate_pool(
    times: Sequence[float],
    cluster: Cluster,
    failures: Iterable[Failure] = (),
    hand_s: float = 0.0,
    ahead: int | None = None,
) -> Run:
    """Units that are taken one at a time by workers that are up, until all are done.

    As the pools of ``pipeline/execution`` do it: what a lost worker was at goes to another one; the process that deals
    them out takes its time for each result, and the next unit of that worker waits for it.

    Args:
        times: of each unit, in the order in which they begin; plain floats, which are faster to read than an array.
        failures: in order of time.
        hand_s: what the dealing process takes for a unit: to read its result, write it, and give the next one.
        ahead: units for each worker that may begin beyond the one whose result is due (``Pool.map``); None: all.
    """
    pool = _Pool(times, cluster.pace(), ahead)
    for worker in range(cluster.workers):
        pool.come_up(worker, cluster.start_s)
    coming = iter(failures)
    failure, failed = next(coming, None), 0
    left, clock = len(times), 0.0  # clock: when the dealing process has dealt with what came
    while left:
        if failure is not None and failure[0] <= pool.events[0][0]:
            when, machine = failure
            first = machine * cluster.workers_per_machine
            back = when + cluster.restart_s + cluster.start_s
            pool.lose(range(first, first + cluster.workers_per_machine), when, back)
            failure, failed = next(coming, None), failed + 1
            continue
        when, worker, life = heapq.heappop(pool.events)
        if life != pool.life[worker]:
            continue  # it was lost meanwhile
        unit = pool.at[worker]
        clock = max(clock, when) if unit is None else max(clock, when) + hand_s
        if unit is not None:
            pool.finish(worker, unit, when)
            left -= 1
        if not pool.give(worker, clock):
            pool.idle.append(worker)
        if pool.idle:
            pool.give_idle(clock)
    return Run(clock, pool.made_s / (clock * cluster.workers) if clock else 0.0, pool.lost_s, failed)


def simulate_steps(
    num_steps: int,
    step_s: float,
    cluster: Cluster,
    rng: np.random.Generator,
    jitter: float = 0.0,
    exchange_s: float = 0.0,
    save_every: int = 500,
    save_s: float = 0.0,
) -> Run:
    """Optimizer steps that end when the slowest rank has; a lost machine costs all since the last saved state.

    Args:
        step_s: of one rank, the mean.
        jitter: standard deviation of its logarithm.
        exchange_s: of gradients, after each step.
        save_every, save_s: steps between saved states, and what one takes.
    """
    pace = np.array(cluster.pace()) * step_s
    failures = cluster.failures(rng)
    failure, failed = next(failures, (math.inf, 0))[0], 0
    clock, lost, done = cluster.start_s, 0.0, 0
    while done < num_steps:
        steps = min(save_every, num_steps - done)
        if jitter:
            each = pace * rng.lognormal(-(jitter**2) / 2, jitter, (steps, cluster.workers))
            block = float(each.max(axis=1).sum())
        else:
            block = steps * float(pace.max())
        end = clock + block + steps * exchange_s + save_s
        if failure < end:  # one that comes while nobody works costs the same wait again
            lost += max(0.0, failure - clock)
            clock = max(clock, failure) + cluster.restart_s + cluster.start_s
            failure, failed = next(failures)[0], failed + 1
        else:
            clock, done = end, done + steps
    busy = num_steps * float(pace.mean()) / clock if clock else 0.0
    return Run(clock, busy, lost, failed)
