"""Inside and outside of programs in plain numpy, without the kernel: thousands of judgements a second.

A profile swept along its plane's normal is a prism: a point is inside where its height is in an interval and its foot
in the profile (``regions``). An extrusion is the union of its prisms, and a program combines extrusions in order, as
``kernel`` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.program import CadProgram, Extrude, Operation, Profile, Vec3
from pipeline.cad.language.regions import Regions
from pipeline.runtime.errors import RejectError

AT_ONCE = 1 << 14  # prisms times points whose boxes are asked at once: what the cache holds
FLAT = 1e-9  # area over that of the longest side's square: what is less encloses nothing


@dataclass(frozen=True, slots=True)
class Prisms:
    """Extrusions as prisms, one for each profile.

    Attributes:
        steps: (S,) the first prism of each extrusion.
        axes: (P, 3, 3): u and v in the sketch's plane, and its normal.
        centres: (P, 3) of the prism's box, in space.
        sizes: (P, 3) of that box, along the axes.
        regions: the profiles.
    """

    steps: np.ndarray
    axes: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    regions: Regions
    _frames: np.ndarray  # (3 P, 4): from (x, y, z, 1) to coordinates along the axes, from the centre

    @classmethod
    def of(cls, extrudes: Sequence[Extrude]) -> "Prisms":
        """The prisms of some extrusions.

        Raises:
            RejectError: ``degenerate_extrusion`` where one has no profile or no height, or a profile no area;
                ``empty_solid`` where there are none.
        """
        steps: list[int] = []
        planes: list[tuple[float, ...]] = []
        profiles: list[Profile] = []
        for extrude in extrudes:
            steps.append(len(profiles))
            for sketch in extrude.sketches:
                plane = sketch.plane
                placed = (*plane.x_axis, *plane.y_axis, *plane.normal, *plane.origin, *extrude.extent.interval)
                planes += [placed] * len(sketch.profiles)
                profiles += sketch.profiles
            if steps[-1] == len(profiles):
                raise RejectError("degenerate_extrusion", f"extrusion {len(steps)} has no profile")
        if not steps:
            raise RejectError("empty_solid", "there is no extrusion")
        regions, table = Regions.of(profiles), np.array(planes)
        low, high = table[:, 12], table[:, 13]
        sizes = np.concatenate([regions.sizes.T, [high - low]]).T
        solid = (regions.areas > FLAT * regions.sizes.max(axis=1) ** 2) & (high > low)
        if not solid.all():
            step = np.searchsorted(steps, solid.argmin(), side="right")
            raise RejectError("degenerate_extrusion", f"extrusion {step} encloses no volume")
        axes = table[:, :9].reshape(-1, 3, 3)
        middles = np.array([regions.centres.real, regions.centres.imag, (low + high) / 2]).T
        centres = table[:, 9:12] + (axes * middles[:, :, None]).sum(axis=1)
        frames = np.concatenate([axes, -(axes * centres[:, None]).sum(axis=2, keepdims=True)], axis=2)
        return cls(np.array(steps), axes, centres, sizes, regions, frames.reshape(-1, 4))

    def contain(self, points: np.ndarray) -> np.ndarray:
        """(P, N) bool: whether points, (N, 3), are inside each prism."""
        places = np.ones((4, len(points)))
        places[:3] = points.T
        contained = np.empty((len(self.sizes), len(points)), bool)
        half = self.sizes[:, :, None] / 2
        block = max(256, AT_ONCE // len(self.sizes))
        for begin in range(0, len(points), block):
            local = self._frames @ places[:, begin : begin + block]
            near = np.abs(local, out=local).reshape(len(half), 3, -1) < half
            np.logical_and.reduce(near, axis=1, out=contained[:, begin : begin + block])
        for prism, is_box in enumerate(self.regions.are_boxes):
            if not is_box and len(at := contained[prism].nonzero()[0]):
                feet = self._frames[3 * prism : 3 * prism + 3] @ places.take(at, axis=1)
                feet[2] = 1
                contained[prism, at] = self.regions.contains(prism, feet)
        return contained

    def of_steps(self, contained: np.ndarray) -> np.ndarray:
        """(S, N) bool for extrusions, from (P, N) for their prisms."""
        if len(self.steps) == len(contained):
            return contained
        joined: np.ndarray = np.logical_or.reduceat(contained, self.steps, axis=0)
        return joined

    def memberships(self, points: np.ndarray) -> np.ndarray:
        """(S, N) bool: whether points, (N, 3), are inside each extrusion by itself."""
        return self.of_steps(self.contain(points))

    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, 3) lowest and (P, 3) highest corners of boxes along x, y and z that just hold the prisms."""
        u, v, normal = (self.axes[:, i].T for i in range(3))  # (3, P)
        curves = self.regions.curves
        directions = (u + 1j * v).take(curves.regions, axis=1)
        reach = np.maximum.reduceat(
            curves.reaches(np.concatenate([directions, -directions])), self.regions.firsts, axis=1
        )
        half = np.abs(normal) * self.sizes[:, 2] / 2
        return self.centres - (reach[3:] + half).T, self.centres + (reach[:3] + half).T


def operations_of(program: CadProgram) -> list[Operation]:
    """What each extrusion does."""
    return [extrude.operation for extrude in program.extrudes]


def combine(operations: Sequence[Operation], memberships: np.ndarray) -> np.ndarray:
    """(N,) bool: whether points are inside the solid, from (S, N) ``memberships`` in its extrusions.

    Of a program that changes at one extrusion, the rows of the others hold.
    """
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


def inside(program: CadProgram, points: np.ndarray) -> np.ndarray:
    """(N,) bool: whether points, (N, 3), are inside the solid that the program describes.

    Raises:
        RejectError: ``degenerate_extrusion`` or ``empty_solid``, as ``Prisms.of``.
    """
    return combine(operations_of(program), Prisms.of(program.extrudes).memberships(points))


def bounds(program: CadProgram) -> tuple[Vec3, Vec3]:
    """Lowest and highest corner of a box that holds the solid: its own, but where what reaches furthest is cut off.

    Raises:
        RejectError: ``degenerate_extrusion`` or ``empty_solid``, as ``Prisms.of``.
    """
    prisms = Prisms.of(program.extrudes)
    lows, highs = prisms.boxes()
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    lows, highs = np.minimum.reduceat(lows, prisms.steps), np.maximum.reduceat(highs, prisms.steps)
    for operation, lowest, highest in zip(operations_of(program), lows, highs, strict=True):
        match operation:
            case Operation.NEW | Operation.JOIN:
                low, high = np.minimum(low, lowest), np.maximum(high, highest)
            case Operation.INTERSECT:
                low, high = np.maximum(low, lowest), np.minimum(high, highest)
            case Operation.CUT:
                pass
    if not (low < high).all():
        raise RejectError("empty_solid", "the operations leave nothing")
    return tuple(low.tolist()), tuple(high.tolist())
