"""Numbers to levels, and finer where a level's error would cost volume.

A level is coarse so that the vocabulary stays small. Most numbers need no more: what a rounded place costs is
its error times the area that moves with it. The lattice adds these up over a whole program and refines, from
the costliest down, until what is left is within a tolerance. Numbers that are one in the model (the same place
along an axis, the same radius) are refined together, so faces that touch still touch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.cad.language.tokens import FAR_FACTOR, FINE, Vocabulary
from pipeline.runtime.errors import RejectError

EXACT = 1e-4  # fine steps: a number this close to the lattice is on it
Group = tuple[str | int, ...]


@dataclass
class Cost:
    """What rounding a group's numbers to levels costs.

    Attributes:
        volume: in the normalised frame.
        tokens: that refining it takes.
    """

    volume: float = 0.0
    tokens: int = 0


@dataclass
class Lattice:
    """Rounds the numbers of one program, in fine steps of ``vocabulary``.

    Attributes:
        refined: groups whose numbers keep their fine steps.
        costs: of the groups that do not, as far as seen since ``forget``.
        exact: every number seen was on the lattice already.
        used: groups seen since ``watch``.
    """

    vocabulary: Vocabulary
    refined: set[Group] = field(default_factory=set)
    costs: dict[Group, Cost] = field(default_factory=dict)
    exact: bool = True
    used: set[Group] = field(default_factory=set)

    @property
    def step(self) -> float:
        """Distance of neighbouring levels; -1, 0 and 1 are levels."""
        return 2 / (self.vocabulary.levels - 2)

    @property
    def fine_step(self) -> float:
        """Distance of neighbouring refined numbers: a ``FINE``-th of ``step``."""
        return self.step / FINE

    def forget(self) -> None:
        """Begin another pass over the program."""
        self.costs.clear()

    def watch(self) -> None:
        """Begin to list the groups in use."""
        self.used = set()

    def refine(self, groups: Iterable[Group]) -> None:
        """Keep the fine steps of these groups."""
        self.refined |= set(groups)

    def refine_to(self, volume: float) -> None:
        """Refine the costliest groups for their tokens, until the others cost at most ``volume``."""
        left = sum(cost.volume for cost in self.costs.values())
        order = sorted(self.costs.items(), key=lambda item: (-_digits(item[1].volume / item[1].tokens), item[0]))
        for group, cost in order:
            if left <= volume:
                break
            self.refined.add(group)
            left -= cost.volume

    def place(self, axis: Group, value: float, area: float) -> int:
        """A position in fine steps.

        Args:
            axis: along which it lies.
            value: in the normalised frame.
            area: that moves with it, for its cost.
        """
        fine, half = value / self.fine_step, self.vocabulary.half
        level = _nearest(fine / FINE)
        if abs(level) >= half:
            coarse = _nearest(fine / (FINE * FAR_FACTOR))
            if abs(coarse) >= half:
                raise RejectError("out_of_range", f"a position {abs(value):.1f} half-sizes away")
            self.exact &= abs(fine - coarse * FINE * FAR_FACTOR) < EXACT
            return coarse * FINE * FAR_FACTOR
        rim = (half - 1) * FINE
        return max(-rim, min(rim, self._snap(("place", *axis, abs(level)), fine, area * self.fine_step)))

    def above(self, number: int) -> int:
        """The next position above one, in fine steps."""
        rim, far = (self.vocabulary.half - 1) * FINE, FINE * FAR_FACTOR
        return number + 1 if -rim <= number < rim else (number // far + 1) * far

    def radius(self, value: float, area: float) -> int:
        """A radius in fine steps of half a level, at least one; ``area`` is what a unit of it moves."""
        fine, top = value / self.fine_step * 2, self.vocabulary.levels - 1
        if fine / FINE >= top + 0.5:
            coarse = _nearest(fine / (FINE * FAR_FACTOR))
            if coarse > top:
                raise RejectError("out_of_range", f"a radius of {value:.1f} half-sizes")
            self.exact &= abs(fine - coarse * FINE * FAR_FACTOR) < EXACT
            return coarse * FINE * FAR_FACTOR
        group: Group = ("radius", _nearest(fine))
        if fine < FINE / 2:  # a level would make it nothing
            self.refined.add(group)
        return max(1, min(top * FINE, self._snap(group, fine, area * self.fine_step / 2)))

    def angle(self, value: float, area: float) -> int:
        """A turn of ``value`` radians in fine steps; ``area`` is what a radian of it moves."""
        unit = 2 * math.pi / (self.vocabulary.turn * FINE)
        fine = value / unit
        return self._snap(("angle", abs(_nearest(fine))), fine, area * unit)

    def _snap(self, group: Group, fine: float, cost: float) -> int:
        """The number rounded to a level, or to a fine step where its group is refined.

        Args:
            fine: the number in fine steps.
            cost: of an error of one fine step.
        """
        fine = round(fine, 4)  # halves are halves, whatever the last digit says
        nearest, coarse = _nearest(fine), _nearest(fine / FINE) * FINE
        self.exact &= abs(fine - nearest) < EXACT
        self.used.add(group)
        if group in self.refined:
            return nearest
        if nearest != coarse:
            total = self.costs.setdefault(group, Cost())
            total.volume += abs(fine - coarse) * cost
            total.tokens += 1
        return coarse


def _nearest(value: float) -> int:
    """The nearest whole number; halves away from zero, so that mirrored numbers stay mirrored."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _digits(value: float) -> float:
    """Without the digits in which equal geometry, written differently, may differ."""
    return float(f"{value:.6g}")
