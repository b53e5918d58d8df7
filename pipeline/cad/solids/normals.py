"""Normals of a point cloud that has none: local planes, which then agree on what is outside."""

from typing import Any

import numpy as np

from pipeline.runtime.seeds import generator

NEIGHBOURS = 10  # that a point is compared with
FITTED = 64  # of a dense cloud's points, that a plane is laid through
FLAT = 0.05  # thickness over width, squared, up to which points lie in a plane
CLEAR = 0.02  # the same of most planes, from which on neighbours are sought farther away: noise is thicker
SMALL_PATCH = 6
VOTERS = 32  # of a patch, whose rays tell inside from outside


def estimate_normals(xyz: np.ndarray, count: int | None = None) -> np.ndarray:
    """Unit normals by local planes, made consistent within each smooth patch along a spanning tree of neighbours
    (Hoppe et al. 1992, section 3.3); a patch looks to where its rays cross the surface an even number of times.

    Args:
        xyz: (N, 3) normalised points, no two of them the same.
        count: normals of so many first points; the others, in random order, say how the surface lies about them.

    Returns:
        (count, 3), all N by default; outward for a closed surface that is sampled densely.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
    from scipy.spatial import cKDTree

    cloud, xyz = xyz, xyz[:count]
    distances, neighbours = cKDTree(xyz).query(xyz, k=min(NEIGHBOURS, len(xyz)))
    spacing = float(np.median(distances[:, min(4, distances.shape[1] - 1)]))
    if len(xyz) == len(cloud):
        _, values, normals = _planes(xyz[neighbours])
        flat = values[:, 0] < FLAT * values[:, 1]
    else:
        centres, values, normals = _wide_planes(cloud, len(xyz))
        flat = values[:, 0] < max(FLAT, 2 * _thickness(values)) * values[:, 1]
        xyz = xyz - np.einsum("ni,ni->n", xyz - centres, normals)[:, None] * normals  # without most of the noise
    first, second = np.arange(len(xyz)).repeat(neighbours.shape[1]), neighbours.ravel()
    between = xyz[second] - xyz[first]
    lengths = np.linalg.norm(between, axis=1)
    # Not through a thin wall, and not over a crease, where local planes are none.
    beside = np.abs(np.einsum("ni,ni->n", between, normals[first])) < 0.35 * lengths
    turn = 1 - np.abs(np.einsum("ni,ni->n", normals[first], normals[second]))
    smooth = (turn < 0.15) & (lengths < 4 * spacing) & beside & flat[first] & flat[second]
    cost = (turn + lengths + 1e-6)[smooth]  # a little more than 0: an entry of 0 is no edge
    graph = coo_matrix((cost, (first[smooth], second[smooth])), shape=(len(xyz),) * 2).tocsr()
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    _, patch = connected_components(tree, directed=False)
    sizes = np.bincount(patch)
    normals *= _signs(tree, patch, normals)[:, None]
    normals *= np.where(_votes(xyz, normals, patch, sizes, spacing) < 0, -1.0, 1.0)[patch][:, None]
    # What lies on creases looks to the side to which the nearest patch does.
    whole = sizes[patch] >= SMALL_PATCH
    if whole.any() and not whole.all():
        _, nearest = cKDTree(xyz[whole]).query(xyz[~whole])
        backwards = np.einsum("ni,ni->n", normals[~whole], normals[whole][nearest]) < 0
        normals[~whole] *= np.where(backwards, -1.0, 1.0)[:, None]
    return normals


def _planes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes through groups of points, (N, K, 3): centres, eigenvalues in rising order and normals, each (N, 3)."""
    centres = points.mean(axis=1)
    local = points - centres[:, None]
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", local, local))
    return centres, values, vectors[:, :, 0]


def _wide_planes(cloud: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes about the first points through their nearest in the cloud, which is thinned until they are wider than its
    noise, as far as that helps: too wide ones reach around edges.
    """
    from scipy.spatial import cKDTree

    best, thickness = None, np.inf
    while True:
        found = _planes(cloud[cKDTree(cloud).query(cloud[:count], k=FITTED)[1]])
        if best is not None and _thickness(found[1]) > 0.8 * thickness:
            return best
        best, thickness = found, _thickness(found[1])
        if thickness < CLEAR or len(cloud) < 4 * count:
            return best
        cloud = cloud[: len(cloud) // 4]


def _thickness(values: np.ndarray) -> float:
    """Of most planes, over their width, squared."""
    return float(np.median(values[:, 0] / np.maximum(values[:, 1], 1e-300)))


def _signs(tree: Any, patch: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """+1 or -1 for each point, by which all of a patch look to the side that its first point looks to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order

    count, roots = len(patch), np.unique(patch, return_index=True)[1]
    start, end = tree.nonzero()
    start, end = np.concatenate([start, np.full(len(roots), count)]), np.concatenate([end, roots])
    joined = coo_matrix((np.ones(len(start)), (start, end)), shape=(count + 1,) * 2).tocsr()  # one walk for all patches
    before = breadth_first_order(joined, count, directed=False)[1][:count]
    before[roots] = roots
    signs = np.where(np.einsum("ni,ni->n", normals, normals[before]) < 0, -1.0, 1.0)
    while (before != before[before]).any():  # twice as far towards the first point each time
        signs *= signs[before]
        before = before[before]
    return signs


def _votes(xyz: np.ndarray, normals: np.ndarray, patch: np.ndarray, sizes: np.ndarray, spacing: float) -> np.ndarray:
    """For each patch how many more of its rays run outside along the normals than against them."""
    votes = np.zeros(len(sizes))
    rng = generator("votes")
    members = np.split(np.argsort(patch, kind="stable"), np.cumsum(sizes)[:-1])
    for number in np.flatnonzero(sizes >= SMALL_PATCH):
        for at in rng.choice(members[number], min(sizes[number], VOTERS), replace=False):
            offset = xyz - xyz[at]
            along = offset @ normals[at]
            along = along[(offset**2).sum(axis=1) - along**2 < spacing**2]
            votes[number] += _outside(along, spacing) - _outside(-along, spacing)
    return votes


def _outside(along: np.ndarray, spacing: float) -> float:
    """A vote that a ray which leaves the surface runs outside: it meets the surface an even number of times.

    Points within a narrow tube, so far along it, are counted in groups. Two walls that are thin for the cloud are one
    group, so a ray that meets nothing is worth more.
    """
    hits = np.sort(along[along > spacing])
    return float((-1) ** (int((np.diff(hits) > spacing).sum()) + 1)) if len(hits) else 3.0
