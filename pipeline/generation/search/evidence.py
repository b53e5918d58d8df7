"""What a cloud with normals says of the solid that it was taken from: points known to be inside or outside.

All that search knows of the part comes from here. Beside each point of the cloud its normal tells the inside from the
outside, as far as no other wall is nearer. Elsewhere the winding number of the cloud does (Barill et al. 2018, "Fast
winding numbers for soups and clouds"): it needs no closed surface, and says where it is not sure.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.cad.exchange.smoothing import noise_of
from pipeline.runtime.seeds import generator

DELTAS = (0.001, 0.004, 0.016, 0.064)  # from the surface, where points beside it are looked at
OF_ROOM = (0.03, 0.1, 0.25, 0.5)  # of the wall's thickness, or the gap's width, at most
BLURRED = 2.5  # of the noise: a smaller distance tells nothing
NEIGHBOURS = 32  # among which the wall behind and the wall in front of a point are looked for
AWAY = slice(16, NEIGHBOURS)  # that noise is measured by: what smoothing has left of it is alike for the nearest
ALIKE = 0.5  # cosine between the normals of points of one face
OPPOSITE = -0.5  # cosine between the normals of walls that face each other
DOUBTFUL = 0.2  # winding numbers that far from 1/2 tell nothing
NEARER = 0.98  # of a distance: a wall that is nearer counts
HALVINGS = 6
SIDEWAYS = 4.0  # of the spacing: how far beside a point the wall behind it is looked for
UNEVEN = 0.15  # of what is seen of the surface: points outside with a larger winding number may be inside, at a hole
OPEN = 0.05  # of the surface: a closed one's normals, by area, add up to less
UNSEEN = 0.25  # of the longest half-side: what a hole in the cloud may hide beyond its box
FAINT = 0.1  # winding number
MARGIN = 0.05  # around the cloud's box, where points are drawn
DEEP = 2.0  # of the spacing: below the surface the winding number is smooth
FEW_LEVELLED, LEVELLED = 16, 128  # points known to be inside, that say what the winding number is there
DRAWN = 8192  # points whose winding number is computed
NEAREST = 0.7  # of the spacing: points anywhere are no nearer to the cloud
BLOCK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Points and what is known of them. Two that were made from the same are equal.

    Attributes:
        source: sha256 of all that it was made from.
        cloud: (C, 6) float64.
        spacing: of the cloud's points: median distance to the nearest other one.
        noise: standard deviation of the cloud's points along their normals.
        points: (N, 3): ``num_volume`` points anywhere, then those behind the surface, then those before it.
        labels: (N,) bool, inside.
        weights: (N,) volume that a point stands for; 0 beside the surface.
        num_volume: how many points are anywhere.
        volume: of the solid.
        limits: (6,) how far it may reach along x, y and z and against them.
    """

    source: str
    cloud: np.ndarray
    spacing: float
    noise: float
    points: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    num_volume: int
    volume: float
    limits: np.ndarray

    @classmethod
    def of(cls, cloud: np.ndarray, num_volume: int, num_surface: int, seed: int) -> "Evidence":
        """What a cloud in the normalised frame says.

        Args:
            cloud: (C, 6) points and unit normals.
            num_volume: most points anywhere, half of them inside where there are as many.
            num_surface: points of the cloud of which both sides are looked at.
        """
        from scipy.spatial import cKDTree

        rng = generator(seed, "evidence")
        cloud = cloud.astype(np.float64)
        xyz, normals = cloud[:, :3], cloud[:, 3:]
        tree = cKDTree(xyz)
        count = min(NEIGHBOURS, len(cloud))
        distances, near = tree.query(xyz, k=count)
        spacing = float(np.median(distances[:, 1]))
        cosines = (normals[near] * normals[:, None]).sum(axis=2)
        noise, areas = noise_of(cloud, near[:, AWAY]), _areas(distances, cosines)
        walls = _room(distances, ((xyz[near] - xyz[:, None]) * normals[:, None]).sum(axis=2), cosines, spacing)
        behind, before = _beside(tree, normals, walls, noise, rng.permutation(len(cloud))[:num_surface])
        deep = behind[tree.query(behind)[0] > DEEP * spacing]
        areas /= _level(xyz, normals, areas, rng.permutation(deep)[:LEVELLED])
        is_closed = float(np.linalg.norm(areas @ normals)) < OPEN * areas.sum()
        anywhere, inside, weights = _anywhere(tree, xyz, normals, areas, spacing, is_closed, num_volume, rng)
        volume = float((areas * (xyz * normals).sum(axis=1)).sum()) / 3  # by the divergence theorem
        source = hashlib.sha256(f"{num_volume}/{num_surface}/{seed}/".encode() + cloud.tobytes()).hexdigest()
        return cls(
            source,
            cloud,
            spacing,
            noise,
            np.concatenate([anywhere, behind, before]),
            np.concatenate([inside, np.ones(len(behind), bool), np.zeros(len(before), bool)]),
            np.concatenate([weights, np.zeros(2 * len(behind))]),
            len(anywhere),
            volume,
            np.concatenate([xyz, -xyz], axis=1).max(axis=0) + (spacing if is_closed else UNSEEN),
        )

    @property
    def telling(self) -> np.ndarray:
        """(M, 3) the points anywhere, and those furthest from the surface: what any tessellation says the same of."""
        beside = (len(self.points) - self.num_volume) // (2 * len(DELTAS))
        behind = self.num_volume + (len(DELTAS) - 1) * beside
        furthest = (self.points[behind : behind + beside], self.points[-beside:])
        return np.concatenate([self.points[: self.num_volume], *furthest])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Evidence) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def thinned(self, num_volume: int, num_surface: int) -> "Evidence":
        """Less of it, for quicker judgements: at most so many points anywhere, and of the cloud."""
        count, beside = self.num_volume, (len(self.points) - self.num_volume) // (2 * len(DELTAS))
        kept, weights = [], []
        for label in (True, False):
            at = np.flatnonzero(self.labels[:count] == label)
            kept.append(at[: num_volume // 2])
            weights.append(self.weights[at[: num_volume // 2]] * (len(at) / max(1, len(kept[-1]))))
        rows = np.arange(2 * len(DELTAS))[:, None] * beside + count + np.arange(min(num_surface, beside))
        at = np.concatenate([*kept, rows.ravel()])
        zeros = np.zeros(rows.size)
        return replace(
            self,
            source=f"{self.source}/{num_volume}/{num_surface}",
            points=self.points[at],
            labels=self.labels[at],
            weights=np.concatenate([*weights, zeros]),
            num_volume=len(at) - rows.size,
        )


def _room(
    distances: np.ndarray, heights: np.ndarray, cosines: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """How far behind, and before, each point the next wall is that faces the other way; infinity for far away."""
    sideways = np.sqrt(np.maximum(distances**2 - heights**2, 0))
    facing = (cosines < OPPOSITE) & (sideways < SIDEWAYS * spacing)
    behind = np.where(facing & (heights < 0), -heights, np.inf).min(axis=1)
    before = np.where(facing & (heights > 0), heights, np.inf).min(axis=1)
    return behind, before


def _beside(
    tree: Any, normals: np.ndarray, walls: tuple[np.ndarray, np.ndarray], noise: float, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points behind the surface and before it, (M, 3) each: of the chosen ones by all ``DELTAS``, the smallest first.

    Args:
        walls: how far the next is behind each point, and before it.
    """
    behind, before = (distances[chosen] for distances in walls)
    deltas, shares = np.maximum(DELTAS, BLURRED * noise)[:, None], np.array(OF_ROOM)[:, None]
    # A thin wall is to be found to a share of its thickness, on both sides.
    inward = np.minimum(deltas, shares * behind).ravel()
    outward = np.minimum(deltas, np.minimum(shares * behind, before / 2)).ravel()
    feet, along = np.tile(tree.data[chosen], (len(DELTAS), 1)), np.tile(normals[chosen], (len(DELTAS), 1))
    inward = _not_beyond(tree, normals, feet, -inward[:, None] * along, -1)
    outward = _not_beyond(tree, normals, feet, outward[:, None] * along, 1)
    return feet - inward[:, None] * along, feet + outward[:, None] * along


def _areas(distances: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Of the surface, what each point stands for: its share of the disc that reaches to its fourth neighbour.

    Neighbours on the same face count. On a narrow one, where they are far along it, those on any face tell; beside a
    thin wall these are twice as many.
    """
    fourth = min(4, distances.shape[1] - 1)
    alike = np.sort(np.where(cosines > ALIKE, distances, distances[:, -1:]), axis=1)[:, fourth]
    return np.asarray(np.pi / 4 * np.minimum(alike**2, 2 * distances[:, fourth] ** 2))


def _level(xyz: np.ndarray, normals: np.ndarray, areas: np.ndarray, deep: np.ndarray) -> float:
    """The winding number of points that are well inside: it should be 1; where there are few of them, 1."""
    if len(deep) < FEW_LEVELLED:
        return 1.0
    return max(float(np.median(winding_numbers(xyz, normals, areas, deep)[0])), 0.25)


def _not_beyond(tree: Any, normals: np.ndarray, feet: np.ndarray, offsets: np.ndarray, sign: int) -> np.ndarray:
    """Distances from points of the surface, halved until no other wall is nearer by that they are beyond.

    Args:
        offsets: (M, 3) of points from the surface, inwards (``sign`` -1) or outwards (1).
    """
    far: np.ndarray = np.linalg.norm(offsets, axis=1)
    along = offsets / far[:, None]
    left = np.arange(len(far))
    for _ in range(HALVINGS):
        at = feet[left] + far[left, None] * along[left]
        distances, near = tree.query(at)
        side = ((at - tree.data[near]) * normals[near]).sum(axis=1)
        left = left[(distances < NEARER * far[left]) & (side * sign < 0)]
        far[left] /= 2
    return far


def _anywhere(
    tree: Any,
    xyz: np.ndarray,
    normals: np.ndarray,
    areas: np.ndarray,
    spacing: float,
    is_closed: bool,
    num_volume: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in the cloud's box, whether they are inside, and the volume that each stands for.

    Nearer to the cloud than its own spacing its single points count too much for the winding number.
    """
    lowest, highest = xyz.min(axis=0), xyz.max(axis=0)
    margin = np.minimum(MARGIN, (highest - lowest) / 4 + spacing)
    low, high = lowest - margin, highest + margin
    points = rng.uniform(low, high, (DRAWN, 3))
    points = points[tree.query(points)[0] > NEAREST * spacing]
    winding, seen = winding_numbers(xyz, normals, areas, points)
    # Outside a surface that is all there, what faces a point and what looks away are even.
    even = np.abs(winding) < UNEVEN * seen
    beyond = ((points < lowest) | (points > highest)).any(axis=1)
    if not is_closed:  # the part may go on where its box does not
        beyond &= np.abs(winding) < FAINT
    outside = beyond | ((winding < 0.5 - DOUBTFUL) & even)
    sure = outside | (winding > 0.5 + DOUBTFUL)
    points, inside = points[sure], ~outside[sure]
    volume = float(np.prod(high - low)) / DRAWN
    kept, weights = [], []
    for label in (True, False):
        at = np.flatnonzero(inside == label)
        few = at[: num_volume // 2]
        kept.append(few)
        weights.append(np.full(len(few), volume * len(at) / max(len(few), 1)))
    order = np.concatenate(kept)
    return points[order], inside[order], np.concatenate(weights)


def winding_numbers(
    xyz: np.ndarray, normals: np.ndarray, areas: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) how often the surface goes round each point: near 1 inside, near 0 outside; and how much of it there is.

    The second is the same with all parts of the surface counted as positive, whether they face the point or look away.

    Args:
        areas: (C,) of the surface that each point of the cloud stands for.
    """
    dipoles = (normals * areas[:, None]).astype(np.float32)
    xyz32, found = xyz.astype(np.float32), np.empty((2, len(points)), np.float32)
    for begin in range(0, len(points), BLOCK):
        offsets = xyz32 - points[begin : begin + BLOCK, None].astype(np.float32)
        squares = np.maximum(np.einsum("nci,nci->nc", offsets, offsets), 1e-8)
        along = np.einsum("nci,ci->nc", offsets, dipoles)
        angles = along * squares**-1.5 / (4 * np.pi)
        found[:, begin : begin + BLOCK] = angles.sum(axis=1), np.abs(angles).sum(axis=1)
    return found[0], found[1]
