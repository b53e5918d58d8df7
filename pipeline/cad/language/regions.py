"""Which points of the plane are in profiles: many points and many profiles at once, exactly.

A point is in a profile where a ray along u crosses its loops an odd number of times. Arcs are crossed as their chords;
between an arc and its chord, on one side of a line within a circle, the answer is then turned round. So each line, arc
or circle is a row of weights for (u, v, 1), and all that a profile asks of its points is a product of matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.cad.language.program import Arc, Circle, Profile

SHORT = 1e-9  # an arc whose ends are closer is none, as for the kernel
SAME_AREA = 1e-12  # relative: a profile that fills its box so well is its box
TO_THE_SIDES = np.array([[1], [1j], [-1], [-1j]])


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of all regions; points are complex numbers, u + iv.

    Attributes:
        regions: (C,) whose it is, ascending.
        starts: (C,).
        ends: (C,) the start of the loop's next curve; of a circle its own.
        centres: (C,) of arcs and circles; of a line its start.
        sweeps: (C,) signed radians: 0 for a line, 2 pi for a circle.
    """

    regions: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    centres: np.ndarray
    sweeps: np.ndarray

    def reaches(self, directions: np.ndarray) -> np.ndarray:
        """(D, C) how far curves reach along directions, (D, 1) or (D, C) complex numbers."""
        towards = directions.conj()
        reach: np.ndarray = (self.starts * towards).real
        if self.sweeps.any():
            spokes = self.starts - self.centres
            turned = (np.angle(directions) - np.angle(spokes)) * np.sign(self.sweeps) % math.tau
            tips = (self.centres * towards).real + np.abs(spokes) * np.abs(directions)
            np.copyto(reach, tips, where=turned <= np.abs(self.sweeps))
        return reach

    def areas(self) -> np.ndarray:
        """(C,) what each adds to its loop's signed area."""
        twice: np.ndarray = (self.starts.conj() * self.ends).imag
        if self.sweeps.any():
            twice += np.abs(self.starts - self.centres) ** 2 * (self.sweeps - np.sin(self.sweeps))
        return twice / 2


@dataclass(frozen=True, slots=True)
class _Chords:
    """All curves as chords; those of circles have no length, and are not asked.

    Attributes:
        weights: (C, 3) of (u, v, 1): positive left of a chord that runs upwards, right of one that runs downwards.
        heights: (C, 1) v where it starts.
        following: (C,) the loop's next, counted from the region's first.
    """

    weights: np.ndarray
    heights: np.ndarray
    following: np.ndarray

    @classmethod
    def of(cls, curves: Curves, following: np.ndarray) -> "_Chords":
        steps = curves.ends - curves.starts
        up = np.where(steps.imag < 0, -1.0, 1.0)
        weights = np.array([-steps.imag, steps.real, -(steps.conj() * curves.starts).imag]) * up
        return cls(weights.T, curves.starts.imag[:, None], following)


@dataclass(frozen=True, slots=True)
class _Discs:
    """Within the circles of arcs and circles.

    Attributes:
        weights: (A, 3) of (u, v, 1): more than u² + v² within.
        chords: (A,) their curve, counted from the region's first.
        flips: (A, 1) whether an arc is where its chord's weights are not positive.
    """

    weights: np.ndarray
    chords: np.ndarray
    flips: np.ndarray

    @classmethod
    def of(cls, curves: Curves, firsts: np.ndarray) -> "_Discs":
        arcs = np.flatnonzero(curves.sweeps)
        starts, ends, centres = (points.take(arcs) for points in (curves.starts, curves.ends, curves.centres))
        squares = np.abs(starts - centres) ** 2 - np.abs(centres) ** 2
        chords = arcs - firsts.take(curves.regions.take(arcs))
        flips = (ends.imag >= starts.imag) == (curves.sweeps.take(arcs) > 0)  # a counter-clockwise arc is on the right
        return cls(np.array([2 * centres.real, 2 * centres.imag, squares]).T, chords, flips[:, None])


@dataclass(frozen=True, slots=True)
class Regions:
    """Profiles, each in coordinates from the centre of its box.

    Where loops cross, or a hole is not within its outer loop, a point is inside where it is in an odd number of loops.

    Attributes:
        curves: of all profiles; circles come last in each.
        firsts: (R,) first curves.
        centres: (R,) complex, of the boxes in the sketch.
        sizes: (R, 2) of the boxes.
        areas: (R,) within the outer loops.
        are_boxes: whether a profile is its box, and ``contains`` need not be asked.
    """

    curves: Curves
    firsts: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    are_boxes: list[bool]
    _chords: _Chords
    _discs: _Discs
    _spans: list[tuple[int, int, int, int, int]]  # first curve, first circle; first disc, first circle's disc, last

    @classmethod
    def of(cls, profiles: Sequence[Profile]) -> "Regions":
        """The regions of at least one profile."""
        read = _Gathered()
        for profile in profiles:
            read.add(profile)
        regions, following = np.array(read.regions), np.array(read.following)
        firsts = np.array([span[0] for span in read.spans])
        starts, centres, sweeps = np.array(read.starts), np.array(read.centres), np.array(read.sweeps)
        ends = starts.take(following + firsts.take(regions))
        reaches = Curves(regions, starts, ends, centres, sweeps).reaches(TO_THE_SIDES)
        right, top, left, bottom = np.maximum.reduceat(reaches, firsts, axis=1)
        middles = (right - left) / 2 + (top - bottom) * 0.5j
        shifts = middles.take(regions)
        curves = Curves(regions, starts - shifts, ends - shifts, centres - shifts, sweeps)
        sizes = np.array([right + left, top + bottom]).T
        areas = np.abs(np.add.reduceat(curves.areas(), read.loops)).take(read.outer)
        filled = np.abs(areas - sizes[:, 0] * sizes[:, 1]) <= SAME_AREA * areas
        are_boxes = (filled & np.array(read.without_holes)).tolist()
        chords, discs = _Chords.of(curves, following), _Discs.of(curves, firsts)
        return cls(curves, firsts, middles, sizes, areas, are_boxes, chords, discs, read.spans)

    def contains(self, region: int, feet: np.ndarray) -> np.ndarray:
        """(N,) bool: whether points are in a region.

        Args:
            region: which.
            feet: (3, N): u, v, from the centre of the region's box, and 1.
        """
        first, circle, disc, circle_disc, last = self._spans[region]
        chords, discs = self._chords, self._discs
        odd = np.zeros(feet.shape[1], bool)
        if circle > first:
            sides = chords.weights[first:circle] @ feet > 0
            above = feet[1] >= chords.heights[first:circle]
            crossed = above ^ above.take(chords.following[first:circle], axis=0)
            crossed &= sides
            np.bitwise_xor.reduce(crossed, axis=0, out=odd)
        if last > disc:
            within = discs.weights[disc:last] @ feet > feet[0] ** 2 + feet[1] ** 2
            if circle_disc > disc:
                beyond = sides.take(discs.chords[disc:circle_disc], axis=0)
                beyond ^= discs.flips[disc:circle_disc]
                within[: circle_disc - disc] &= beyond
            odd ^= np.bitwise_xor.reduce(within, axis=0)
        return odd


@dataclass(slots=True)
class _Gathered:
    """Profiles as lists: what is read of each curve, then of each loop, then of each profile."""

    starts: list[complex] = field(default_factory=list)
    centres: list[complex] = field(default_factory=list)
    sweeps: list[float] = field(default_factory=list)
    following: list[int] = field(default_factory=list)
    regions: list[int] = field(default_factory=list)
    loops: list[int] = field(default_factory=list)  # first curves
    outer: list[int] = field(default_factory=list)  # which loop
    without_holes: list[bool] = field(default_factory=list)
    spans: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    def add(self, profile: Profile) -> None:
        """Gather one more."""
        circles = [loop.curves[0] for loop in profile.loops if isinstance(loop.curves[0], Circle)]
        chains = [loop for loop in profile.loops if not isinstance(loop.curves[0], Circle)]
        self.outer.append(len(self.loops) + (len(chains) if isinstance(profile.outer.curves[0], Circle) else 0))
        self.without_holes.append(not profile.holes)
        first, num_arcs = len(self.starts), 0
        for loop in chains:
            begin = len(self.starts)
            self.loops.append(begin)
            for edge in loop.edges:
                start = complex(*edge.start)
                self.starts.append(start)
                if isinstance(edge, Arc) and math.dist(edge.start, edge.end) > SHORT:
                    num_arcs += 1
                    self.centres.append(complex(*edge.centre))
                    self.sweeps.append(edge.sweep)
                else:
                    self.centres.append(start)
                    self.sweeps.append(0.0)
            self.following += range(begin - first + 1, len(self.starts) - first)
            self.following.append(begin - first)
        middle = len(self.starts)
        for circle in circles:
            centre = complex(*circle.centre)
            self.loops.append(len(self.starts))
            self.following.append(len(self.starts) - first)
            self.starts.append(centre + circle.radius)
            self.centres.append(centre)
            self.sweeps.append(math.tau)
        self.regions += [len(self.spans)] * (len(self.starts) - first)
        disc = self.spans[-1][-1] if self.spans else 0
        self.spans.append((first, middle, disc, disc + num_arcs, disc + num_arcs + len(circles)))
