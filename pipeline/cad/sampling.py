"""Points with normals on a solid's surface, as Michelangelo expects them."""

import numpy as np

from pipeline.cad.mesh import Mesh
from pipeline.errors import RejectError


def sample_surface(mesh: Mesh, num_points: int, seed: int) -> np.ndarray:
    """Draw points uniformly by area, with the surface's own normals.

    Returns:
        (num_points, 6) float32: xyz in the mesh's frame and outward unit normal.
    """
    return sample_triangles(mesh, num_points, seed)[0]


def sample_triangles(mesh: Mesh, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``sample_surface``, and (num_points,) the triangle that each point lies on."""
    corners = mesh.vertices[mesh.triangles]  # (T, 3, 3)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    total = areas.sum()
    if not total > 0:
        raise RejectError("empty_solid", "the surface has no area")
    rng = np.random.default_rng(seed)
    # Stratified in cumulative area: less noise than independent draws, and the same density.
    at = (np.arange(num_points) + rng.random(num_points)) / num_points * total
    chosen = np.minimum(np.searchsorted(np.cumsum(areas), at), len(areas) - 1)
    rng.shuffle(chosen)
    root, second = np.sqrt(rng.random(num_points)), rng.random(num_points)
    weights = np.stack([1 - root, root * (1 - second), root * second], axis=1)[:, :, None]
    points = (corners[chosen] * weights).sum(axis=1)
    normals = (mesh.normals[mesh.triangles[chosen]] * weights).sum(axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return np.concatenate([points, normals], axis=1).astype(np.float32), chosen


def normalise_points(points: np.ndarray) -> np.ndarray:
    """Centre a cloud's bounding box on the origin and scale its longest half-side to 1.

    Args:
        points: (N, 3) or (N, 6) finite numbers; columns 3 to 5 are normals.

    Returns:
        (N, 6) float32; normals estimated from neighbours (``estimate_normals``) where missing.

    Raises:
        RejectError: ``bad_points``.
    """
    if points.ndim != 2 or points.shape[1] not in (3, 6) or len(points) < 16:
        raise RejectError("bad_points", f"shape {points.shape}; (N, 3) or (N, 6) with N >= 16 is needed")
    if not (np.issubdtype(points.dtype, np.floating) or np.issubdtype(points.dtype, np.integer)):
        raise RejectError("bad_points", f"dtype {points.dtype}")
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise RejectError("bad_points", "NaN or infinity")
    low, high = points[:, :3].min(axis=0), points[:, :3].max(axis=0)
    half = (high - low).max() / 2
    if not half > 0:
        raise RejectError("bad_points", "all points are one")
    xyz = (points[:, :3] - (low + high) / 2) / half
    normals = points[:, 3:] if points.shape[1] == 6 else estimate_normals(xyz)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    if (lengths < 1e-6).any():
        raise RejectError("bad_points", "a normal of length 0")
    return np.concatenate([xyz, normals / lengths], axis=1).astype(np.float32)


SMALL_PATCH = 6


def estimate_normals(xyz: np.ndarray, num_neighbours: int = 10) -> np.ndarray:
    """Unit normals by local planes, made consistent within each smooth patch along a spanning tree of neighbours
    (Hoppe et al. 1992, section 3.3); a patch looks to where its rays cross the surface an even number of times.

    Args:
        xyz: (N, 3) normalised points.

    Returns:
        (N, 3), outward for a closed surface that is sampled densely.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
    from scipy.spatial import cKDTree

    count = len(xyz)
    distances, neighbours = cKDTree(xyz).query(xyz, k=min(num_neighbours, count))
    spacing = float(np.median(distances[:, min(4, distances.shape[1] - 1)]))
    local = xyz[neighbours] - xyz[neighbours].mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", local, local))
    normals = vectors[:, :, 0]
    first, second = np.arange(count).repeat(neighbours.shape[1]), neighbours.ravel()
    between = xyz[second] - xyz[first]
    lengths = np.linalg.norm(between, axis=1)
    # Not through a thin wall, and not over a crease, where local planes are none.
    beside = np.abs(np.einsum("ni,ni->n", between, normals[first])) < 0.35 * lengths
    flat = (values[:, 0] < 0.05 * values[:, 1])[first]
    turn = 1 - np.abs(np.einsum("ni,ni->n", normals[first], normals[second]))
    smooth = (turn < 0.15) & (lengths < 4 * spacing) & beside & flat & flat[second * neighbours.shape[1]]
    cost = (turn + lengths + 1e-6)[smooth]  # a little more than 0: an entry of 0 is no edge
    graph = coo_matrix((cost, (first[smooth], second[smooth])), shape=(count, count)).tocsr()
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    num_patches, patch = connected_components(tree, directed=False)
    for start in np.unique(patch, return_index=True)[1]:
        order, before = breadth_first_order(tree, start, directed=False)
        for at in order[1:]:
            if normals[at] @ normals[before[at]] < 0:
                normals[at] *= -1
    votes = np.zeros(num_patches)
    rng = np.random.default_rng(0)
    sizes = np.bincount(patch)
    for number in np.flatnonzero(sizes >= SMALL_PATCH):
        members = np.flatnonzero(patch == number)
        for at in rng.choice(members, min(len(members), 32), replace=False):
            votes[number] += _outside(xyz, xyz[at], normals[at], spacing)
            votes[number] -= _outside(xyz, xyz[at], -normals[at], spacing)
    normals *= np.where(votes < 0, -1.0, 1.0)[patch][:, None]
    # What lies on creases looks to the side to which the nearest patch does.
    whole = sizes[patch] >= SMALL_PATCH
    if whole.any() and not whole.all():
        _, nearest = cKDTree(xyz[whole]).query(xyz[~whole])
        backwards = np.einsum("ni,ni->n", normals[~whole], normals[whole][nearest]) < 0
        normals[~whole] *= np.where(backwards, -1.0, 1.0)[:, None]
    return normals


def _outside(xyz: np.ndarray, origin: np.ndarray, direction: np.ndarray, spacing: float) -> float:
    """A vote that a ray which leaves the surface runs outside: it meets the surface an even number of times.

    Points within a narrow tube are counted in groups. Two walls that are thin for the cloud are one group, so a ray
    that meets nothing is worth more.
    """
    offset = xyz - origin
    along = offset @ direction
    beside = (offset**2).sum(axis=1) - along**2
    hits = np.sort(along[(beside < spacing**2) & (along > spacing)])
    return float((-1) ** (int((np.diff(hits) > spacing).sum()) + 1)) if len(hits) else 3.0


def read_points(data: bytes, name: str) -> np.ndarray:
    """The array in a ``.npy`` or ``.npz`` file (``points`` and, where there, ``normals``); nothing is unpickled.

    Raises:
        RejectError: ``bad_points``.
    """
    import io

    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            points = loaded["points"] if "points" in loaded else loaded[loaded.files[0]]
            return np.concatenate([points, loaded["normals"]], axis=1) if "normals" in loaded else points
    except (ValueError, OSError, KeyError, IndexError, EOFError) as error:
        raise RejectError("bad_points", f"{name}: {error}") from error
    except Exception as error:
        if type(error).__name__ == "BadZipFile":
            raise RejectError("bad_points", f"{name}: {error}") from error
        raise
