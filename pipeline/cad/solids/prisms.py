"""Inside and outside of programs in plain numpy, without the kernel: thousands of judgements a second.

A profile swept along its plane's normal is a prism: a point is inside where its height is in an interval and its foot
in the profile. The foot is where an even number of the loops' curves lies to its right, or not: chords by crossings,
and an arc adds the segment between itself and its chord, which is a disc on one side of a line. That is exact, and for
all curves of a prism one product of matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.program import Arc, CadProgram, Circle, Extrude, Operation
from pipeline.runtime.errors import RejectError

SHORT = 1e-9  # edges shorter than this are none, as for the kernel
AT_ONCE = 1 << 16  # prisms times points in one go: what the processor's cache holds


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of all prisms, each in its sketch's plane, in order of prisms; a circle ends where it began.

    Attributes:
        prisms: (C,) which prism it belongs to.
        loops: (C,) which loop, counted through.
        starts: (C, 2).
        ends: (C, 2): the start of the next curve of the loop.
        centres: (C, 2) of arcs and circles.
        sweeps: (C,) signed radians: 0 for a line, 2 pi for a circle.
    """

    prisms: np.ndarray
    loops: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    centres: np.ndarray
    sweeps: np.ndarray

    @property
    def radii(self) -> np.ndarray:
        """(C,) of arcs and circles."""
        spokes = self.starts - self.centres
        return np.hypot(spokes[:, 0], spokes[:, 1])


@dataclass(frozen=True, slots=True)
class _Region:
    """The inside test of one prism's profile, in coordinates around its box's centre.

    Attributes:
        weights: (K + A, 4): by (u, v, u² + v², 1) positive left of the K chords that run upwards, right of those that run
            downwards, and within the A circles.
        heights: (K, 1) v where each chord starts.
        following: (K,) the chord that starts where this one ends.
        chords: (A',) those of the arcs, which are the first of the A.
        flips: (A', 1) whether the arc is where its chord's weights are not positive.
    """

    weights: np.ndarray
    heights: np.ndarray
    following: np.ndarray
    chords: np.ndarray
    flips: np.ndarray

    def contains(self, feet: np.ndarray) -> np.ndarray:
        """(N,) bool for (2, N) points."""
        terms = np.empty((4, feet.shape[1]))
        terms[:2] = feet
        np.einsum("in,in->n", feet, feet, out=terms[2])
        terms[3] = 1
        positive = self.weights @ terms > 0
        sides, discs = positive[: len(self.heights)], positive[len(self.heights) :]
        above = terms[1] >= self.heights
        odd: np.ndarray = np.bitwise_xor.reduce((above ^ above[self.following]) & sides, axis=0)
        if len(self.chords):
            discs[: len(self.chords)] &= sides[self.chords] ^ self.flips
        return odd ^ np.bitwise_xor.reduce(discs, axis=0) if len(discs) else odd


@dataclass(frozen=True, slots=True)
class Prisms:
    """Extrusions as prisms, one for each profile.

    Attributes:
        steps: (P,) the extrusion that each belongs to, ascending.
        frames: (P, 3, 4) from (x, y, z, 1) to u and v in the plane and the height along its normal, from the centre
            of the prism's box.
        sizes: (P, 3) of that box.
        centres: (P, 2) of that box in the sketch's own u and v.
        curves: of all profiles.
    """

    steps: np.ndarray
    frames: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray
    curves: Curves
    _regions: tuple[_Region | None, ...]  # None where the profile is its box

    @classmethod
    def of(cls, extrudes: Sequence[Extrude]) -> "Prisms":
        """The prisms of some extrusions.

        Raises:
            RejectError: ``degenerate_extrusion`` where one has no height, or a profile no area.
        """
        steps, planes, curves = _read(extrudes)
        low, high = _boxes(curves, len(steps))
        areas, single = _areas(curves, (low + high) / 2)
        x_axes, normals, origins, intervals = np.split(planes, [3, 6, 9], axis=1)
        sizes = np.column_stack([high - low, intervals[:, 1] - intervals[:, 0]])
        flat = ~((areas > 1e-9 * (sizes[:, :2].max(axis=1)) ** 2) & (sizes[:, 2] > 0))
        if flat.any():
            raise RejectError("degenerate_extrusion", f"extrusion {steps[flat.argmax()] + 1} encloses no volume")
        axes = np.stack([x_axes, np.cross(normals, x_axes), normals], axis=1)
        middles = np.column_stack([(low + high) / 2, intervals.mean(axis=1)])
        frames = np.concatenate([axes, -(axes @ origins[:, :, None]) - middles[:, :, None]], axis=2)
        boxes = single & (np.abs(areas - sizes[:, 0] * sizes[:, 1]) < 1e-12 * areas)
        centres = middles[:, :2]
        return cls(steps, frames, sizes, centres, curves, _regions(curves, centres, boxes))

    def memberships(self, points: np.ndarray) -> np.ndarray:
        """(S, N) bool: for each extrusion by itself, whether points are inside.

        Args:
            points: (N, 3).
        """
        return self.by_step(self.contain(points))

    def by_step(self, contained: np.ndarray) -> np.ndarray:
        """(S, N) bool from ``contain``'s (P, N): an extrusion is the union of its prisms."""
        starts = np.flatnonzero(np.diff(self.steps, prepend=-1))
        if len(starts) == len(self.steps):
            return contained
        joined: np.ndarray = np.logical_or.reduceat(contained, starts, axis=0)
        return joined

    def contain(self, points: np.ndarray) -> np.ndarray:
        """(P, N) bool: whether points, (N, 3), are inside each prism."""
        contained = np.empty((len(self.steps), len(points)), bool)
        block = max(256, AT_ONCE // len(self.steps))
        for begin in range(0, len(points), block):
            self._contain(points[begin : begin + block], contained[:, begin : begin + block])
        return contained

    def _contain(self, points: np.ndarray, contained: np.ndarray) -> None:
        places = np.ones((4, len(points)))
        places[:3] = points.T
        local = (self.frames.reshape(-1, 4) @ places).reshape(len(self.steps), 3, -1)
        near = np.abs(local) < self.sizes[:, :, None] / 2
        np.logical_and.reduce(near, axis=1, out=contained)
        for prism, region in enumerate(self._regions):
            if region is not None:
                at = np.flatnonzero(contained[prism])
                if len(at):
                    contained[prism, at] = region.contains(local[prism, :2, at].T)


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


def _read(extrudes: Sequence[Extrude]) -> tuple[np.ndarray, np.ndarray, Curves]:
    """(P,) steps; (P, 11) x axis, normal, origin, lowest and highest position; all curves."""
    steps: list[int] = []
    planes: list[tuple[float, ...]] = []
    curves: list[tuple[float, ...]] = []
    following: list[int] = []
    loops: list[int] = []
    num_loops = 0
    for step, extrude in enumerate(extrudes):
        interval = extrude.extent.interval
        for sketch in extrude.sketches:
            plane = (*sketch.plane.x_axis, *sketch.plane.normal, *sketch.plane.origin, *interval)
            for profile in sketch.profiles:
                number = len(steps)
                steps.append(step)
                planes.append(plane)
                for loop in profile.loops:
                    begin = len(curves)
                    for curve in loop.curves:
                        if isinstance(curve, Circle):
                            x, y = curve.centre
                            curves.append((number, x + curve.radius, y, x, y, math.tau))
                        elif isinstance(curve, Arc):
                            curves.append((number, *curve.start, *curve.centre, curve.sweep))
                        else:
                            curves.append((number, *curve.start, 0.0, 0.0, 0.0))
                    following += [*range(begin + 1, len(curves)), begin]
                    loops += [num_loops] * (len(curves) - begin)
                    num_loops += 1
    table = np.array(curves).reshape(-1, 6)
    starts, centres, sweeps = table[:, 1:3], table[:, 3:5], table[:, 5]
    ends = starts[following]
    sweeps = np.where((np.abs(starts - ends).max(axis=1) < SHORT) & (sweeps != math.tau), 0.0, sweeps)
    curved = Curves(table[:, 0].astype(int), np.array(loops, int), starts, ends, centres, sweeps)
    return np.array(steps), np.array(planes).reshape(-1, 11), curved


def _boxes(curves: Curves, num_prisms: int) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) lowest and (P, 2) highest u and v of each profile."""
    low, high = np.full((num_prisms, 2), np.inf), np.full((num_prisms, 2), -np.inf)
    np.minimum.at(low, curves.prisms, curves.starts)
    np.maximum.at(high, curves.prisms, curves.starts)
    if len(arcs := np.flatnonzero(curves.sweeps)):
        spokes, sweeps = (curves.starts - curves.centres)[arcs], curves.sweeps[arcs]
        angles = np.arctan2(spokes[:, 1], spokes[:, 0])
        quarters = np.arange(4) * (math.pi / 2)
        passed = (quarters - angles[:, None]) * np.sign(sweeps)[:, None] % math.tau <= np.abs(sweeps)[:, None]
        which, quarter = np.nonzero(passed)
        directions = np.array([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)])[quarter]
        extremes = curves.centres[arcs[which]] + np.hypot(*spokes[which].T)[:, None] * directions
        np.minimum.at(low, curves.prisms[arcs[which]], extremes)
        np.maximum.at(high, curves.prisms[arcs[which]], extremes)
    return low, high


def _areas(curves: Curves, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) area of each profile, and (P,) whether it has no holes."""
    (x0, y0), (x1, y1) = (curves.starts - centres[curves.prisms]).T, (curves.ends - centres[curves.prisms]).T
    parts = (x0 * y1 - x1 * y0 + curves.radii**2 * (curves.sweeps - np.sin(curves.sweeps))) / 2
    areas = np.abs(np.bincount(curves.loops, parts))
    owners = curves.prisms[np.flatnonzero(np.diff(curves.loops, prepend=-1))]
    outer = np.diff(owners, prepend=-1) > 0
    return np.bincount(owners, np.where(outer, areas, -areas)), np.bincount(owners) == 1


def _regions(curves: Curves, centres: np.ndarray, boxes: np.ndarray) -> tuple[_Region | None, ...]:
    """The inside test of each profile that is not its box."""
    shifts = centres[curves.prisms]
    chords = np.flatnonzero(curves.sweeps != math.tau)
    (x, y), (dx, dy) = (curves.starts - shifts)[chords].T, (curves.ends - curves.starts)[chords].T
    up = np.where(dy < 0, -1.0, 1.0)
    sides = np.column_stack([-up * dy, up * dx, np.zeros(len(up)), up * (dy * x - dx * y)])
    # Arcs before circles, within each prism.
    arcs = np.flatnonzero(curves.sweeps)
    arcs = arcs[np.lexsort([curves.sweeps[arcs] == math.tau, curves.prisms[arcs]])]
    (x, y), radii = (curves.centres - shifts)[arcs].T, curves.radii[arcs]
    discs = np.column_stack([2 * x, 2 * y, np.full(len(x), -1.0), radii**2 - x**2 - y**2])
    has_chord = curves.sweeps[arcs] != math.tau
    chord_of = np.searchsorted(chords, arcs)
    flips = np.zeros(len(arcs), bool)
    flips[has_chord] = (up[chord_of[has_chord]] > 0) == (curves.sweeps[arcs[has_chord]] > 0)
    numbers = np.arange(len(boxes) + 1)
    chord_at, arc_at = (np.searchsorted(curves.prisms[index], numbers).tolist() for index in (chords, arcs))
    with_chord = np.concatenate([[0], np.cumsum(has_chord)])
    loops, heights = curves.loops[chords], (curves.starts - shifts)[chords, 1:]
    last = np.diff(loops, append=-1) != 0
    first = np.flatnonzero(np.diff(loops, prepend=-1))
    following = np.arange(1, len(chords) + 1)
    following[last] = first
    made: list[_Region | None] = []
    for prism, box in enumerate(boxes.tolist()):
        if box:
            made.append(None)
            continue
        (k, end), (a, stop) = chord_at[prism : prism + 2], arc_at[prism : prism + 2]
        middle = a + int(with_chord[stop] - with_chord[a])
        weights = np.concatenate([sides[k:end], discs[a:stop]])
        made.append(
            _Region(weights, heights[k:end], following[k:end] - k, chord_of[a:middle] - k, flips[a:middle, None])
        )
    return tuple(made)
