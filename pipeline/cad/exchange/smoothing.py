"""A scan without most of its noise: points are moved along their normals to where their neighbours have the surface.

Two points of a circle, or of a sphere, are level along the mean of their normals. So neighbours are compared along it:
round walls stay where they are, as local planes would not leave them.
"""

from collections.abc import Callable

import numpy as np

from pipeline.cad.solids.clouds import draw_points

Change = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
NEIGHBOURS = 48
BESIDE = slice(1, 9)  # the nearest, that noise is measured by
ALIKE, NOISES_ALIKE = 0.7, 0.95  # cosine between the normals of neighbours on one face: to move by, to measure by
PEAK = 8  # power of that cosine: what neighbours weigh
NEAR = 4.0  # of the noise: neighbours that are further off along the normal are on another face
ROUNDS = 2
NOISY = 0.05  # of the distance between points: less is left alone
SMOOTHED = 1 << 15  # points of a larger cloud that are kept, where it is noisy
BLOCK = 1 << 13


def level(offsets: np.ndarray, normals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(..., K) how far neighbours are above the surface that a point is on, next to 0 on planes, cylinders and spheres.

    Args:
        offsets: (..., K, 3) from the point to its neighbours.
        normals, others: (..., 3) the point's, and (..., K, 3) the neighbours'.
    """
    found: np.ndarray = np.einsum("...ki,...ki->...k", offsets, normals[..., None, :] + others) / 2
    return found


def noise_of(cloud: np.ndarray, near: np.ndarray) -> float:
    """Standard deviation of points along their normals.

    Args:
        cloud: (N, 6) xyz and unit normals.
        near: (N, K) neighbours of each.
    """
    xyz, normals = cloud[:, :3], cloud[:, 3:]
    off = level(xyz[near] - xyz[:, None], normals, normals[near])
    alike = np.einsum("nki,ni->nk", normals[near], normals) > NOISES_ALIKE
    return float(np.median(np.abs(off[alike])) / 0.6745 / np.sqrt(2)) if alike.any() else 0.0


def thickness_of(cloud: np.ndarray, near: np.ndarray) -> float:
    """Standard deviation of points from local planes, whatever their normals: those of clean points may be a guess.

    Args:
        cloud, near: as ``noise_of`` takes them.
    """
    patches = cloud[near, :3]
    patches = patches - patches.mean(axis=1, keepdims=True)
    squares = np.linalg.eigvalsh(np.einsum("nki,nkj->nij", patches, patches))[:, 0] / (patches.shape[1] - 3)
    return float(np.sqrt(max(np.median(squares), 0.0)))


def smoothed(cloud: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A cloud without most of its noise, and how noisy it was. One that is not (``NOISY``) stays as it is.

    Args:
        cloud: (N, 6) in the normalised frame, N at least 16, with unit normals that were measured: those that are
            estimated from the points themselves are wrong at edges, where they would move points off the surface.
        rng: draws ``SMOOTHED`` points of a larger one.

    Returns:
        (N or ``SMOOTHED``, 6), and the standard deviation of its points along their normals.
    """
    from scipy.spatial import cKDTree

    few = cloud if len(cloud) <= SMOOTHED else draw_points(cloud, SMOOTHED, rng)
    moved = few.astype(np.float64)
    distances, near = cKDTree(moved[:, :3]).query(moved[:, :3], k=min(NEIGHBOURS, len(moved)))
    near[:, 0] = np.arange(len(moved))  # itself, not another one in the same place
    nearest = distances[:, 1][distances[:, 1] > 0]
    spacing = np.median(nearest) if len(nearest) else np.inf
    noise = noise_of(moved, near[:, BESIDE])
    if min(noise, thickness_of(moved, near[:, BESIDE])) <= NOISY * spacing:
        return cloud, noise
    moved[:, 3:] = _blocks(_turned, moved, near, noise)
    for _ in range(ROUNDS):
        moved[:, :3] = _blocks(_moved, moved, near, noise)
    return moved.astype(cloud.dtype), noise


def _blocks(change: Change, cloud: np.ndarray, near: np.ndarray, noise: float) -> np.ndarray:
    """What a change makes of all points, a block at a time: so many neighbours are large."""
    blocks = [slice(begin, begin + BLOCK) for begin in range(0, len(cloud), BLOCK)]
    return np.concatenate([change(cloud[at], cloud[near[at]], noise) for at in blocks])


def _weights(points: np.ndarray, others: np.ndarray, noise: float) -> np.ndarray:
    """(N, K, 1) of neighbours, (N, K, 6): those on the point's face, (N, 6); it is among them."""
    cosines = np.einsum("nki,ni->nk", others[..., 3:], points[:, 3:])
    heights = np.einsum("nki,ni->nk", others[..., :3] - points[:, None, :3], points[:, 3:])
    return np.asarray(np.where((cosines > ALIKE) & (np.abs(heights) < NEAR * noise), cosines, 0.0) ** PEAK)[..., None]


def _turned(points: np.ndarray, others: np.ndarray, noise: float) -> np.ndarray:
    """(N, 3) normals, as neighbours have them."""
    mean = (_weights(points, others, noise) * others[..., 3:]).sum(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


def _moved(points: np.ndarray, others: np.ndarray, noise: float) -> np.ndarray:
    """(N, 3) places, to where neighbours have the surface."""
    weights = _weights(points, others, noise)
    heights = level(others[..., :3] - points[:, None, :3], points[:, 3:], others[..., 3:])[..., None]
    return np.asarray(points[:, :3] + points[:, 3:] * (weights * heights).sum(axis=1) / weights.sum(axis=1))
