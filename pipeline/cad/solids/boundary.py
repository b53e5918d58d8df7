"""Points with normals on the surface of a program's solid in plain numpy, without the kernel.

Every face of the solid is part of a prism's face. So points are drawn on the faces of all prisms, and those are kept
that have the solid on one side alone.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.cad.language.program import CadProgram, Operation
from pipeline.cad.solids.prisms import Prisms, combine, operations_of
from pipeline.runtime.errors import RejectError

BESIDE = 1e-6  # of the size: how far from a face its two sides are looked at; what is thinner is nothing
ADDING = (Operation.NEW, Operation.JOIN)
TINY = 1e-300  # instead of 0 as a divisor
FEW = 1 << 17  # candidates: a solid that has none of them has no surface
MOST = 1 << 21  # candidates: too little is left of the faces


@dataclass(frozen=True, slots=True)
class _Faces:
    """The faces of prisms; caps as rectangles around the profiles.

    Attributes:
        prisms: (F,) whose.
        areas: (F,).
        corners: (F, 3) a corner; of a round side its axis' lower end.
        across, along: (F, 3) the edges at the corner; of a round side the radius to where it starts, and the height.
        normals: (F, 3) to either side; of a round side ``across`` turned by a quarter in the direction of the sweep.
        sweeps: (F,) signed radians, 0 for a plane.
    """

    prisms: np.ndarray
    areas: np.ndarray
    corners: np.ndarray
    across: np.ndarray
    along: np.ndarray
    normals: np.ndarray
    sweeps: np.ndarray

    @classmethod
    def of(cls, prisms: Prisms) -> "_Faces":
        """Two caps of each prism, and a side of each curve."""
        u, v, normals = (prisms.axes[:, i] for i in range(3))
        width, depth, height = (prisms.sizes[:, i, None] * prisms.axes[:, i] for i in range(3))
        low = prisms.centres - height / 2
        corners = low - (width + depth) / 2
        curves = prisms.regions.curves
        owners = curves.regions
        x, y = u.take(owners, axis=0), v.take(owners, axis=0)

        def in_space(points: np.ndarray) -> np.ndarray:
            placed: np.ndarray = points.real[:, None] * x + points.imag[:, None] * y
            return placed

        flat = curves.sweeps == 0
        across = np.where(flat, curves.ends - curves.starts, curves.starts - curves.centres)
        lengths = np.abs(across)
        sides = lengths * np.where(flat, 1.0, np.abs(curves.sweeps)) * prisms.sizes[:, 2].take(owners)
        caps, numbers = prisms.sizes[:, 0] * prisms.sizes[:, 1], np.arange(len(low))
        quarter = across * (1j / np.maximum(lengths, TINY))
        return cls(
            np.concatenate([numbers, numbers, owners]),
            np.concatenate([caps, caps, sides]),
            np.concatenate([corners, corners + height, low.take(owners, axis=0) + in_space(curves.centres)]),
            np.concatenate([width, width, in_space(across)]),
            np.concatenate([depth, depth, height.take(owners, axis=0)]),
            np.concatenate([normals, normals, in_space(quarter)]),
            np.concatenate([np.zeros(2 * len(low)), curves.sweeps]),
        )

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(M, 3) points uniform by area, (M, 3) their unit normals to either side, and (M,) whose faces they are of."""
        totals = np.cumsum(self.areas)
        # Stratified in cumulative area, as in ``sampling``: where in its part a draw falls is how far across it is.
        at = (np.arange(count) + rng.random(count)) * (totals[-1] / count)
        face = np.minimum(np.searchsorted(totals, at, side="right"), len(totals) - 1)
        share = (at - (totals - self.areas).take(face)) / np.maximum(self.areas, TINY).take(face)
        across, normals = self.across.take(face, axis=0), self.normals.take(face, axis=0)
        points = self.corners.take(face, axis=0)
        points += rng.random(count)[:, None] * self.along.take(face, axis=0)
        sweeps = self.sweeps.take(face)
        if len(curved := np.flatnonzero(sweeps)):
            angles = (share.take(curved) * sweeps.take(curved))[:, None]
            radii, turned = across.take(curved, axis=0), normals.take(curved, axis=0)
            lengths = np.sqrt((radii**2).sum(axis=1, keepdims=True))
            outward = np.cos(angles) / lengths * radii + np.sin(angles) * turned
            normals[curved], across[curved], share[curved] = outward, lengths * outward, 1.0
        points += share[:, None] * across
        return points, normals, self.prisms.take(face)


def sample_boundary(program: CadProgram, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points uniformly by area on the surface of the solid that the program describes.

    Returns:
        (num_points, 6) float32: xyz and outward unit normal, in random order.

    Raises:
        RejectError: ``degenerate_extrusion``, or ``empty_solid`` where the operations leave nothing.
    """
    prisms = Prisms.of(program.extrudes)
    operations = operations_of(program)
    faces = _Faces.of(prisms)
    kept: list[np.ndarray] = []
    found = drawn = 0
    while found < num_points:
        if drawn > (MOST if found else FEW):
            raise RejectError("empty_solid", "the operations leave nothing, or next to nothing of the faces")
        missing = num_points - found
        wanted = 1.5 * missing if not found else 1.2 * missing * drawn / found + 16
        points, normals, owners = faces.draw(math.ceil(min(wanted, max(8 * num_points, 1 << 13))), rng)
        kept.append(_on_surface(prisms, operations, points, normals, owners))
        found, drawn = found + len(kept[-1]), drawn + len(points)
    cloud = np.concatenate(kept)
    return cloud.take(rng.permutation(len(cloud))[:num_points], axis=0).astype(np.float32)


def _on_surface(
    prisms: Prisms,
    operations: list[Operation],
    points: np.ndarray,
    normals: np.ndarray,
    owners: np.ndarray,
) -> np.ndarray:
    """Those of the candidates that are on the surface, (M', 6), with outward normals."""
    sizes = np.maximum.reduceat(prisms.sizes.max(axis=1), prisms.steps).tolist()
    added = (size for size, operation in zip(sizes, operations, strict=True) if operation in ADDING)
    offsets = BESIDE * max(added, default=0.0) * normals
    contained = prisms.contain(np.concatenate([points + offsets, points - offsets]))
    inside = combine(operations, prisms.of_steps(contained))
    above, below = np.split(contained, 2, axis=1)
    # Where several prisms have a face the first of them has the point, so that none is counted twice.
    first = (above ^ below).argmax(axis=0)
    above, below = np.split(inside, 2)
    at = np.flatnonzero((above ^ below) & (first == owners))
    outward = normals.take(at, axis=0)
    outward[above.take(at)] *= -1
    return np.concatenate([points.take(at, axis=0), outward], axis=1)
