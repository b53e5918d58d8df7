"""A scan without most of its noise: points are moved along their normals to where their neighbours have the surface.

Two points of a circle, or of a sphere, are level along the mean of their normals. So neighbours are compared along it:
round walls stay where they are, as local planes would not leave them.

Normals that nobody measured, of a rough mesh's triangles, are laid first: by planes through neighbours, and beside an
edge by the flattest plane nearby that the point lies in (as Kuwahara et al. 1976 smooth pictures, "Processing of
RI-angiocardiographic images").
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
TURNS, ROUNDS = 4, 2
WINDOWS = (16, 32, 64, 128)  # neighbours that planes are laid through: more where noise is thicker than they are wide
FLAT, FLATTER = 0.02, 0.8  # thickness over width, squared: of planes that tell, and of wider ones that tell more
CREASED = 2.0  # times as thick as one nearby: a plane over an edge
IN_PLANE = 2.5  # of the noise
SOUND = 0.9, 2  # cosine, and how many of the nearest have such a normal: fewer have points on an edge
ROUGH = 0.005  # of the longest half-side: with less noise, search finds no better programs for normals that are laid
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


def smoothed(cloud: np.ndarray, rng: np.random.Generator, measured: bool = True) -> tuple[np.ndarray, float]:
    """A cloud without most of its noise, and how noisy it was. One that is not (``NOISY``, ``ROUGH``) stays as it is.

    Args:
        cloud: (N, 6) in the normalised frame, N at least 16, with unit normals.
        rng: draws ``SMOOTHED`` points of a larger one.
        measured: whether the normals were; others say no more than what is outside, and are laid anew.

    Returns:
        (M, 6), M at most N and ``SMOOTHED``, and the standard deviation of its points along their normals. Where
        normals are laid, points on edges, that have none, are left out.
    """
    from scipy.spatial import cKDTree

    few = cloud if len(cloud) <= SMOOTHED else draw_points(cloud, SMOOTHED, rng)
    moved = few.astype(np.float64)
    distances, near = cKDTree(moved[:, :3]).query(
        moved[:, :3], k=min(NEIGHBOURS if measured else WINDOWS[-1], len(moved))
    )
    near[:, 0] = np.arange(len(moved))  # itself, not another one in the same place
    nearest = distances[:, 1][distances[:, 1] > 0]
    spacing = np.median(nearest) if len(nearest) else np.inf
    noise = noise_of(moved, near[:, BESIDE])
    if min(noise, thickness_of(moved, near[:, BESIDE])) <= NOISY * spacing:
        return cloud, noise
    if not measured:
        moved[:, 3:], near, noise = _laid(moved, near)
        if noise < ROUGH:
            return cloud, noise
    for _ in range(1 if measured else TURNS):
        moved[:, 3:] = _blocks(_turned, moved, near, noise)
    for _ in range(ROUNDS):
        moved[:, :3] = _blocks(_moved, moved, near, noise)
    if not measured:
        cosine, fewest = SOUND
        alike = np.einsum("nki,ni->nk", moved[near[:, BESIDE], 3:], moved[:, 3:]) > cosine
        moved = moved[alike.sum(axis=1) >= fewest]
    return moved.astype(cloud.dtype), noise


def _laid(cloud: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Normals of planes through the neighbours, (N, 3), on the side of theirs; as many neighbours as these take, or
    ``NEIGHBOURS``; and the noise.
    """
    flatness, window, squares, normals = np.inf, 0, np.empty(0), np.empty(0)
    for width in WINDOWS:
        if width > near.shape[1]:
            break
        values, found = _planes(cloud, near[:, :width])
        thickness = float(np.median(values[:, 0] / np.maximum(values[:, 1], 1e-300)))
        if thickness < FLATTER * flatness:
            flatness, window, squares, normals = thickness, width, values[:, 0] / (width - 3), found
        if flatness < FLAT:
            break
    near, noise = near[:, : max(NEIGHBOURS, window)], float(np.sqrt(max(np.median(squares), 0.0)))
    sides = np.einsum("ni,ni->n", normals, cloud[near[:, :window], 3:].sum(axis=1))
    normals *= np.where(sides < 0, -1.0, 1.0)[:, None]
    flattest = np.arange(len(cloud))
    for begin in range(0, len(cloud), BLOCK):
        at = slice(begin, begin + BLOCK)
        others = near[at, :window]
        offsets = np.einsum("nki,nki->nk", cloud[others, :3] - cloud[at, None, :3], normals[others])
        thick = np.where(np.abs(offsets) < IN_PLANE * noise, squares[others], np.inf)
        creased = CREASED * thick.min(axis=1) < squares[at]
        flattest[at][creased] = np.take_along_axis(others, thick.argmin(axis=1)[:, None], axis=1)[creased, 0]
    return normals[flattest], near, noise


def _planes(cloud: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Planes through each point's neighbours: (N, 3) squares about them, the least first, and normals."""
    values, normals = [], []
    for begin in range(0, len(cloud), BLOCK):
        patches = cloud[near[begin : begin + BLOCK], :3]
        patches = patches - patches.mean(axis=1, keepdims=True)
        found = np.linalg.eigh(np.einsum("nki,nkj->nij", patches, patches))
        values.append(found.eigenvalues)
        normals.append(found.eigenvectors[:, :, 0])
    return np.concatenate(values), np.concatenate(normals)


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
