"""How far two point clouds are from each other. Clouds are (N, 3) or (N, 6), xyz and unit normal."""

import numpy as np


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
