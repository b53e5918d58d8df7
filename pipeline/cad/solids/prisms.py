"""Inside and outside of programs in plain numpy, without the kernel: thousands of judgements a second.

A profile swept along its plane's normal is a prism: a point is inside where its height is in an interval and its foot
in the profile. The foot is there where a ray along u crosses the loops an odd number of times. Arcs are crossed as
their chords; between an arc and its chord, on one side of a line within a circle, the answer is then turned round. That
is exact, and a product of matrices for all curves of a prism.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.cad.language.program import Arc, CadProgram, Circle, Extrude, Operation, Profile
from pipeline.runtime.errors import RejectError

SHORT = 1e-9  # an arc whose ends are closer is none, as for the kernel
AT_ONCE = 1 << 15  # prisms times points in one go: what a processor's cache holds
QUARTERS = np.arange(4)[:, None] * (math.pi / 2)


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of all prisms, prism by prism; points are complex numbers, u + iv, from the centre of the prism's box.

    Attributes:
        prisms: (C,) whose it is.
        starts: (C,).
        ends: (C,) the start of the loop's next curve; of a circle its own.
        centres: (C,) of arcs and circles; of a line its start.
        sweeps: (C,) signed radians: 0 for a line, 2 pi for a circle.
    """

    prisms: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    centres: np.ndarray
    sweeps: np.ndarray


@dataclass(frozen=True, slots=True)
class _Chords:
    """Weights of (u, v, 1) for lines and arcs, in the order of the curves; those of circles are not looked at.

    Attributes:
        sides: (C, 3) positive left of a chord that runs upwards, and right of one that runs downwards.
        heights: (C, 1) v where it starts.
        following: (C,) the loop's next curve, counted from the prism's first.
    """

    sides: np.ndarray
    heights: np.ndarray
    following: np.ndarray


@dataclass(frozen=True, slots=True)
class _Discs:
    """Weights of (u, v, 1) for arcs and circles.

    Attributes:
        discs: (A, 3) more than u² + v² within the circle.
        chords: (A,) the arc's chord, counted from the prism's first curve.
        flips: (A, 1) whether the arc is where its chord's weights are not positive.
    """

    discs: np.ndarray
    chords: np.ndarray
    flips: np.ndarray


@dataclass(slots=True)
class _Gathered:
    """Programs read into lists: a row for each curve, loop, prism and extrusion."""

    starts: list[complex] = field(default_factory=list)
    centres: list[complex] = field(default_factory=list)
    sweeps: list[float] = field(default_factory=list)
    following: list[int] = field(default_factory=list)  # counted from the prism's first curve
    prisms: list[int] = field(default_factory=list)  # of curves
    loops: list[int] = field(default_factory=list)  # first curves
    outer: list[int] = field(default_factory=list)  # loops of prisms
    has_holes: list[bool] = field(default_factory=list)  # prisms
    spans: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    planes: list[tuple[float, ...]] = field(default_factory=list)  # of prisms: u, v, normal, origin, interval
    steps: list[int] = field(default_factory=list)  # first prisms

    def add(self, extrude: Extrude) -> None:
        """Gather one more extrusion."""
        self.steps.append(len(self.planes))
        interval = extrude.extent.interval
        for sketch in extrude.sketches:
            plane = sketch.plane
            frame = (*plane.x_axis, *plane.y_axis, *plane.normal, *plane.origin, *interval)
            for profile in sketch.profiles:
                self._add_profile(profile)
                self.planes.append(frame)
        if self.steps[-1] == len(self.planes):
            raise RejectError("degenerate_extrusion", f"extrusion {len(self.steps)} has no profile")

    def _add_profile(self, profile: Profile) -> None:
        circles = [loop.curves[0] for loop in profile.loops if isinstance(loop.curves[0], Circle)]
        chains = [loop for loop in profile.loops if not isinstance(loop.curves[0], Circle)]
        self.outer.append(len(self.loops) + (len(chains) if isinstance(profile.outer.curves[0], Circle) else 0))
        self.has_holes.append(bool(profile.holes))
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
        self.prisms += [len(self.planes)] * (len(self.starts) - first)
        disc = self.spans[-1][-1] if self.spans else 0
        self.spans.append((first, middle, disc, disc + num_arcs, disc + num_arcs + len(circles)))


@dataclass(frozen=True, slots=True)
class Prisms:
    """Extrusions as prisms, one for each profile.

    Attributes:
        steps: (S,) the first prism of each extrusion.
        axes: (P, 3, 3): u and v in the sketch's plane, and its normal.
        centres: (P, 3) of the prism's box, in space.
        sizes: (P, 3) of that box, along the axes.
        curves: of all profiles.
    """

    steps: np.ndarray
    axes: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    curves: Curves
    _frames: np.ndarray  # (3 P, 4): from (x, y, z, 1) to the prism's axes, from the centre
    _chords: _Chords
    _discs: _Discs
    # For each prism its first curve, where its circles begin, its first disc, where those of circles begin, and end;
    # None where the profile is its box.
    _spans: tuple[tuple[int, int, int, int, int] | None, ...]

    @classmethod
    def of(cls, extrudes: Sequence[Extrude]) -> "Prisms":
        """The prisms of some extrusions.

        Raises:
            RejectError: ``degenerate_extrusion`` where one has no height, or a profile no area.
        """
        read = _Gathered()
        for extrude in extrudes:
            read.add(extrude)
        planes, prisms, spans = np.array(read.planes), np.array(read.prisms), np.array(read.spans)
        starts, centres, sweeps = np.array(read.starts), np.array(read.centres), np.array(read.sweeps)
        box = np.maximum.reduceat(_reaches(starts, centres, sweeps), spans[:, 0], axis=1)
        low, high = np.array([-box[2], -box[3], planes[:, 12]]), np.array([box[0], box[1], planes[:, 13]])
        sizes, middles = (high - low).T, (high + low).T / 2
        shift = (middles[:, 0] + 1j * middles[:, 1])[prisms]
        starts -= shift
        centres -= shift
        following = np.array(read.following)
        curves = Curves(prisms, starts, starts[following + spans[prisms, 0]], centres, sweeps)
        areas = np.abs(np.add.reduceat(_areas(curves), read.loops))[read.outer]
        flat = ~((areas > 1e-9 * sizes[:, :2].max(axis=1) ** 2) & (sizes[:, 2] > 0))
        if flat.any():
            step = np.searchsorted(read.steps, flat.argmax(), side="right")
            raise RejectError("degenerate_extrusion", f"extrusion {step} encloses no volume")
        # A profile without holes that has the area of its box is its box.
        boxes = (np.abs(areas / (sizes[:, 0] * sizes[:, 1]) - 1) < 1e-12) & ~np.array(read.has_holes)
        axes = planes[:, :9].reshape(-1, 3, 3)
        places = planes[:, 9:12] + (axes * middles[:, :, None]).sum(axis=1)
        frames = np.empty((len(planes), 3, 4))
        frames[:, :, :3] = axes
        frames[:, :, 3] = -(axes * places[:, None]).sum(axis=2)
        chords, discs = _weights(curves, following, spans[:, 0])
        tests = tuple(None if box else span for box, span in zip(boxes.tolist(), read.spans, strict=True))
        return cls(np.array(read.steps), axes, places, sizes, curves, frames.reshape(-1, 4), chords, discs, tests)

    def memberships(self, points: np.ndarray) -> np.ndarray:
        """(S, N) bool: for each extrusion by itself, whether points are inside.

        Args:
            points: (N, 3).
        """
        return self.by_step(self.contain(points))

    def by_step(self, contained: np.ndarray) -> np.ndarray:
        """(S, N) bool from ``contain``'s (P, N): an extrusion is the union of its prisms."""
        if len(self.steps) == len(contained):
            return contained
        joined: np.ndarray = np.logical_or.reduceat(contained, self.steps, axis=0)
        return joined

    def contain(self, points: np.ndarray) -> np.ndarray:
        """(P, N) bool: whether points, (N, 3), are inside each prism."""
        contained = np.empty((len(self.sizes), len(points)), bool)
        block = max(256, AT_ONCE // len(self.sizes))
        for begin in range(0, len(points), block):
            self._contain(points[begin : begin + block], contained[:, begin : begin + block])
        return contained

    def _contain(self, points: np.ndarray, contained: np.ndarray) -> None:
        places = np.ones((4, len(points)))
        places[:3] = points.T
        local = (self._frames @ places).reshape(len(self.sizes), 3, -1)
        near = np.abs(local) < self.sizes[:, :, None] / 2
        np.logical_and.reduce(near, axis=1, out=contained)
        for prism, span in enumerate(self._spans):
            if span is not None and len(at := np.flatnonzero(contained[prism])):
                feet = local[prism].take(at, axis=1)
                feet[2] = 1
                contained[prism, at] = self._inside(feet, *span)

    def _inside(self, feet: np.ndarray, first: int, middle: int, disc: int, circle: int, end: int) -> np.ndarray:
        """(N,) bool: whether (3, N) points (u, v, 1) are in a profile."""
        odd = np.zeros(feet.shape[1], bool)
        if middle > first:
            sides = self._chords.sides[first:middle] @ feet > 0
            above = feet[1] >= self._chords.heights[first:middle]
            crossed = above ^ above[self._chords.following[first:middle]]
            crossed &= sides
            np.bitwise_xor.reduce(crossed, axis=0, out=odd)
        if end > disc:
            within = self._discs.discs[disc:end] @ feet > feet[0] ** 2 + feet[1] ** 2
            if circle > disc:
                beyond = sides[self._discs.chords[disc:circle]] ^ self._discs.flips[disc:circle]
                within[: circle - disc] &= beyond
            odd ^= np.bitwise_xor.reduce(within, axis=0)
        return odd


def combine(operations: Sequence[Operation], memberships: np.ndarray) -> np.ndarray:
    """(N,) bool: inside the solid, from (S, N) of the single extrusions, combined in order as the kernel does."""
    inside = np.zeros(memberships.shape[1], bool)
    for operation, membership in zip(operations, memberships, strict=True):
        match operation:
            case Operation.NEW | Operation.JOIN:
                inside |= membership
            case Operation.CUT:
                inside &= ~membership
            case Operation.INTERSECT:
                inside &= membership
    return inside


def operations_of(program: CadProgram) -> list[Operation]:
    """What each extrusion does."""
    return [extrude.operation for extrude in program.extrudes]


def inside(program: CadProgram, points: np.ndarray) -> np.ndarray:
    """(N,) bool: whether points, (N, 3), are inside the solid that the program describes.

    Raises:
        RejectError: ``degenerate_extrusion``.
    """
    return combine(operations_of(program), Prisms.of(program.extrudes).memberships(points))


def _reaches(starts: np.ndarray, centres: np.ndarray, sweeps: np.ndarray) -> np.ndarray:
    """(4, C) how far each curve reaches along u, v, -u and -v."""
    reach = np.array([starts.real, starts.imag, -starts.real, -starts.imag])
    if sweeps.any():
        spokes = starts - centres
        hubs = np.array([centres.real, centres.imag, -centres.real, -centres.imag])
        turned = (QUARTERS - np.arctan2(spokes.imag, spokes.real)) * np.sign(sweeps) % math.tau
        np.copyto(reach, hubs + np.abs(spokes), where=turned <= np.abs(sweeps))
    return reach


def _areas(curves: Curves) -> np.ndarray:
    """(C,) what each curve adds to its loop's signed area."""
    twice = (curves.starts.conj() * curves.ends).imag
    if curves.sweeps.any():
        twice += np.abs(curves.starts - curves.centres) ** 2 * (curves.sweeps - np.sin(curves.sweeps))
    halved: np.ndarray = twice / 2
    return halved


def _weights(curves: Curves, following: np.ndarray, firsts: np.ndarray) -> tuple[_Chords, _Discs]:
    steps = curves.ends - curves.starts
    up = np.where(steps.imag < 0, -1.0, 1.0)
    sides = np.array([-steps.imag, steps.real, (steps.conj() * -curves.starts).imag]) * up
    chords = _Chords(sides.T, curves.starts.imag[:, None], following)
    arcs = np.flatnonzero(curves.sweeps)
    hubs = curves.centres[arcs]
    squares = np.abs(curves.starts[arcs] - hubs) ** 2 - np.abs(hubs) ** 2
    flips = (up[arcs] > 0) == (curves.sweeps[arcs] > 0)
    discs = np.array([2 * hubs.real, 2 * hubs.imag, squares]).T
    return chords, _Discs(discs, arcs - firsts[curves.prisms[arcs]], flips[:, None])
