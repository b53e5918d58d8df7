"""Points with normals on a solid's surface, as Michelangelo expects them."""

import numpy as np

from pipeline.cad.mesh import Mesh
from pipeline.errors import RejectError


def sample_surface(mesh: Mesh, num_points: int, seed: int) -> np.ndarray:
    """Draw points uniformly by area, with the surface's own normals.

    Returns:
        (num_points, 6) float32: xyz in the mesh's frame and outward unit normal.
    """
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
    return np.concatenate([points, normals], axis=1).astype(np.float32)


def normalise_points(points: np.ndarray) -> np.ndarray:
    """Centre a cloud's bounding box on the origin and scale its longest half-side to 1.

    Args:
        points: (N, 3) or (N, 6) finite numbers; columns 3 to 5 are normals.

    Returns:
        (N, 6) float32; normals estimated from neighbours, and turned outward from the centre, where missing.

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


def estimate_normals(xyz: np.ndarray, num_neighbours: int = 16) -> np.ndarray:
    """(N, 3) unit normals by local planes, turned away from the cloud's centre."""
    from scipy.spatial import cKDTree

    _, neighbours = cKDTree(xyz).query(xyz, k=min(num_neighbours, len(xyz)))
    local = xyz[neighbours] - xyz[neighbours].mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", local, local))
    normals = vectors[:, :, 0]
    outward = np.einsum("ni,ni->n", normals, xyz - xyz.mean(axis=0)) >= 0
    return np.where(outward[:, None], normals, -normals)


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
