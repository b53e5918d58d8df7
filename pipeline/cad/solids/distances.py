"""How far point clouds are from each other and from surfaces. Clouds are (N, 3) or (N, 6), xyz and unit normal."""

import numpy as np

from pipeline.cad.solids.mesh import Mesh
from pipeline.cad.solids.sampling import sample_triangles
from pipeline.runtime.seeds import generator

NUM_SAMPLES = 8192  # on a surface, to find the triangles near a point
TRIED = 8  # of them, for each point


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point of ``a``, (N,) the distance to the nearest point of ``b`` and (N,) which it is."""
    from scipy.spatial import cKDTree

    distances, indices = cKDTree(b[:, :3]).query(a[:, :3])
    return distances, indices


def chamfer(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Chamfer distances by both common conventions.

    Returns:
        ``chamfer_l1_mean``: mean distance to the nearest point of the other cloud, averaged over both ways (what
        CAD-MLLM prints times 100); ``chamfer_squared_sum``: mean *squared* distances, both ways added.
    """
    (to_b, _), (to_a, _) = nearest(a, b), nearest(b, a)
    return chamfer_of(to_b, to_a)


def chamfer_of(to_b: np.ndarray, to_a: np.ndarray) -> dict[str, float]:
    """``chamfer`` from the distances of each point to the other cloud."""
    return {
        "chamfer_l1_mean": float((to_b.mean() + to_a.mean()) / 2),
        "chamfer_squared_sum": float((to_b**2).mean() + (to_a**2).mean()),
    }


def to_surface(points: np.ndarray, mesh: Mesh) -> np.ndarray:
    """(N,) distances of points, (N, 3) or (N, 6), to a mesh's surface, free of the noise that sampling it would add.

    The triangles tried for each point are those of the samples nearest to it, so a distance can be a little too long,
    never too short.
    """
    from scipy.spatial import cKDTree

    samples, owners = sample_triangles(mesh, NUM_SAMPLES, generator("to surface"))
    _, nearby = cKDTree(samples[:, :3]).query(points[:, :3], k=TRIED)
    corners = mesh.vertices[mesh.triangles[owners[nearby]]]  # (N, TRIED, 3, 3)
    return np.asarray(_to_triangles(points[:, None, :3], corners).min(axis=1))


def _to_triangles(p: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distances of points to triangles: to the plane where the foot lies inside, else to the nearest side."""
    a, b, c = (corners[..., i, :] for i in range(3))
    normal = np.cross(b - a, c - a)
    squared = np.maximum((normal**2).sum(axis=-1), 1e-300)
    height = ((p - a) * normal).sum(axis=-1)
    inside = np.ones(height.shape, bool)
    nearest_side = np.full(height.shape, np.inf)
    for u, v in ((a, b), (b, c), (c, a)):
        inside &= (np.cross(v - u, p - u) * normal).sum(axis=-1) >= 0
        along = ((p - u) * (v - u)).sum(axis=-1) / np.maximum(((v - u) ** 2).sum(axis=-1), 1e-300)
        foot = u + np.clip(along, 0, 1)[..., None] * (v - u)
        nearest_side = np.minimum(nearest_side, np.linalg.norm(p - foot, axis=-1))
    return np.where(inside, np.abs(height) / np.sqrt(squared), nearest_side)


def misfit(cloud: np.ndarray, mesh: Mesh) -> float:
    """How badly a solid explains a cloud, (N, 3) or (N, 6): next to 0 where the cloud was drawn from its surface.

    The mean distance of the cloud's points to the surface, and of points on the surface to the cloud as far as it is
    more than the cloud's own spacing.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(cloud[:, :3])
    spacing = float(np.quantile(tree.query(cloud[:, :3], k=2)[0][:, 1], 0.99))
    samples, _ = sample_triangles(mesh, len(cloud), generator("misfit"))
    beyond = np.maximum(tree.query(samples[:, :3])[0] - spacing, 0)
    return float(to_surface(cloud, mesh).mean() + beyond.mean())
