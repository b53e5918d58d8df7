"""Whether a step changes a solid, told without the kernel: prisms are a section and an interval, bodies are points.

A part is to be the same on every processor. So arcs are a few chords and nothing is a product of matrices, whose last
digits differ: ``solids.prisms``, which is exact and fast for thousands of points, is for programs that are finished.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.cad.language.program import Extrude, Loop, Operation, Plane, Point2, Profile, Vec3
from pipeline.cad.parts.draft import CUT, INTERSECT, JOIN, NEW

CHORDS = 4  # of an arc; a circle has four times as many
# Points that fill a unit cube evenly and lie on no plane that parts have: the R3 sequence.
UNIT = np.arange(1, 97)[:, None] * np.array([0.8191725134, 0.6710436067, 0.5497004779]) % 1.0
PROBES = 32  # of a prism
CHANGED = 0.08  # share of a prism that has to change something
LEFT = 0.25  # share of the body that a cut or an intersection leaves
LEAST = 0.005  # of the body's size, squared: the area of a loop
NEAR = 1e-3  # of the body's size: what is in contact


@dataclass(frozen=True, slots=True)
class Chords:
    """Loops as chords, (S, 4) of x0, y0, x1, y1; inside is what an odd number of loops encloses."""

    segments: np.ndarray

    @classmethod
    def of(cls, loops: Sequence[Loop]) -> "Chords":
        """Those of some loops."""
        rows = []
        for loop in loops:
            points = loop.outline(CHORDS)
            rows += [(*points[i - 1], *point) for i, point in enumerate(points)]
        return cls(np.array(rows))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        (left, bottom), (right, top) = self.segments[:, :2].min(axis=0), self.segments[:, :2].max(axis=0)
        return float(left), float(bottom), float(right), float(top)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool for points (N, 2)."""
        x0, y0, x1, y1 = self.segments.T
        x, y = points[:, :1], points[:, 1:]
        passed = (y0 > y) != (y1 > y)
        steps = np.where(y1 == y0, 1.0, y1 - y0)
        odd: np.ndarray = (passed & (x < x0 + (y - y0) * ((x1 - x0) / steps))).sum(axis=1) % 2 == 1
        return odd

    def clearance(self, points: Sequence[Point2]) -> list[float]:
        """The distance of each point from the nearest chord, 0 for points outside."""
        at = np.array(points)
        start, along = self.segments[:, :2], self.segments[:, 2:] - self.segments[:, :2]
        away = at[:, None] - start
        share = np.clip((away * along).sum(axis=2) / np.maximum((along * along).sum(axis=1), 1e-12), 0.0, 1.0)
        off = away - share[:, :, None] * along
        nearest = np.sqrt((off * off).sum(axis=2).min(axis=1))
        return [float(value) for value in np.where(self.contains(at), nearest, 0.0)]


def box_of(loops: Sequence[Loop]) -> tuple[Point2, tuple[float, float]]:
    """Centre and size of the box around some loops."""
    xs, ys = zip(*(point for loop in loops for point in loop.outline(CHORDS)), strict=True)
    return ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2), (max(xs) - min(xs), max(ys) - min(ys))


@dataclass(frozen=True, slots=True)
class Prism:
    """A profile swept from ``low`` to ``high`` along its plane's normal."""

    plane: Plane
    section: Chords
    low: float
    high: float

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool for points (N, 3)."""
        away = points - np.array(self.plane.origin)
        height = _along(away, self.plane.normal)
        within: np.ndarray = (height > self.low) & (height < self.high)
        at = np.flatnonzero(within)
        if len(at):
            feet = np.stack([_along(away[at], axis) for axis in (self.plane.x_axis, self.plane.y_axis)], axis=1)
            within[at] = self.section.contains(feet)
        return within

    def feet(self) -> np.ndarray:
        """Some points of the profile, (up to ``PROBES``, 2)."""
        left, bottom, right, top = self.section.box
        points = UNIT[:, :2] * (right - left, top - bottom) + (left, bottom)
        inside: np.ndarray = points[self.section.contains(points)]
        return inside[:PROBES]

    def corners(self) -> np.ndarray:
        """(8, 3) of its box."""
        left, bottom, right, top = self.section.box
        feet = np.array([(x, y) for x in (left, right) for y in (bottom, top)])
        return np.concatenate([self.at(feet, self.low), self.at(feet, self.high)])

    def at(self, feet: np.ndarray, heights: np.ndarray | float) -> np.ndarray:
        """Points of space, (N, 3), above some of the plane."""
        plane, up = self.plane, np.broadcast_to(heights, len(feet))[:, None]
        at: np.ndarray = plane.origin + feet[:, :1] * plane.x_axis + feet[:, 1:] * plane.y_axis + up * plane.normal
        return at


def _along(vectors: np.ndarray, axis: Vec3) -> np.ndarray:
    # No matrix product: its last digits differ between processors.
    total: np.ndarray = vectors[:, 0] * axis[0] + vectors[:, 1] * axis[1] + vectors[:, 2] * axis[2]
    return total


@dataclass
class Body:
    """What has been built so far.

    Attributes:
        steps: operations with what they add, take or leave.
        points: (N, 3) that are inside, each standing for the volume in ``shares``, (N,).
        corners: (C, 3) of boxes around what was added.
    """

    steps: list[tuple[Operation, Prism]] = field(default_factory=list)
    points: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    shares: np.ndarray = field(default_factory=lambda: np.empty(0))
    corners: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N,) bool for points (N, 3)."""
        inside = np.zeros(len(points), bool)
        for operation, prism in self.steps:
            hit = prism.contains(points)
            if operation in (NEW, JOIN):
                inside |= hit
            else:
                inside &= ~hit if operation is CUT else hit
        return inside

    def box(self) -> tuple[Vec3, Vec3]:
        """The lowest and the highest corner of all that was added."""
        (x0, y0, z0), (x1, y1, z1) = self.corners.min(axis=0).tolist(), self.corners.max(axis=0).tolist()
        return (x0, y0, z0), (x1, y1, z1)

    def add(self, extrude: Extrude) -> bool:
        """Take a step, if it is one that changes the solid, all its profiles do, and enough is left."""
        (sketch,) = extrude.sketches
        low, high = extrude.extent.interval
        sections = [Chords.of(profile.loops) for profile in sketch.profiles]
        whole = Prism(sketch.plane, Chords(np.concatenate([section.segments for section in sections])), low, high)
        size = float(np.ptp(self.corners if self.steps else whole.corners(), axis=0).max())
        if any(abs(loop.signed_area) < (LEAST * size) ** 2 for profile in sketch.profiles for loop in profile.loops):
            return False
        probes = []
        for section, profile in zip(sections, sketch.profiles, strict=True):
            prism = Prism(sketch.plane, section, low, high)
            feet = prism.feet()
            if len(feet) < PROBES // 5:
                return False
            points = prism.at(feet, low + UNIT[: len(feet), 2] * (high - low))
            inside = self.contains(points)
            if self.steps and not self._changes(extrude.operation, prism, feet, inside, NEAR * size):
                return False
            volume = _area(profile) * (high - low)
            probes.append((points[~inside], np.full(int((~inside).sum()), volume / len(feet))))
        if extrude.operation in (NEW, JOIN):
            self.corners = np.concatenate([self.corners, whole.corners()])
            self.points = np.concatenate([self.points, *(points for points, _ in probes)])
            self.shares = np.concatenate([self.shares, *(shares for _, shares in probes)])
        else:
            kept = whole.contains(self.points)
            kept = ~kept if extrude.operation is CUT else kept
            left = self.shares[kept].sum() / self.shares.sum()
            if left < LEFT or (extrude.operation is INTERSECT and left > 1 - CHANGED / 2):
                return False
            self.points, self.shares = self.points[kept], self.shares[kept]
        self.steps.append((extrude.operation, whole))
        return True

    def _changes(self, operation: Operation, prism: Prism, feet: np.ndarray, inside: np.ndarray, near: float) -> bool:
        """Whether one prism, of whose points some are ``inside`` the body, changes it; ``near`` is in contact."""
        share = inside.mean()
        if operation is CUT or operation is INTERSECT:
            return bool(share >= CHANGED)
        if share > 1 - CHANGED:
            return False
        if operation is NEW or share >= CHANGED / 2:
            return True
        # Beside it: some of a cap lies on the body.
        ends = prism.low - near, prism.high + near
        return any(self.contains(prism.at(feet, end)).mean() >= CHANGED for end in ends)


def _area(profile: Profile) -> float:
    return abs(profile.outer.signed_area) - sum(abs(hole.signed_area) for hole in profile.holes)
