"""Points with normals on a solid's surface, as Michelangelo expects them."""

import numpy as np

from pipeline.cad.solids.mesh import Mesh
from pipeline.runtime.errors import RejectError


def sample_surface(mesh: Mesh, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points uniformly by area, with the surface's own normals.

    Returns:
        (num_points, 6) float32: xyz in the mesh's frame and outward unit normal.
    """
    return sample_triangles(mesh, num_points, rng)[0]


def sample_triangles(mesh: Mesh, num_points: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``sample_surface``, and (num_points,) the triangle that each point lies on."""
    corners = mesh.vertices[mesh.triangles]  # (T, 3, 3)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    total = areas.sum()
    if not total > 0:
        raise RejectError("empty_solid", "the surface has no area")
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
