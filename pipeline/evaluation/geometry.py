"""How far a generated solid is from the true one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from pipeline.cad import kernel
from pipeline.cad.codec import Codec
from pipeline.cad.rendering import encode_png, render_views
from pipeline.cad.sampling import sample_surface
from pipeline.data.draw import DEFLECTION


def chamfer(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Distances between two clouds, (N, 3) and (M, 3), by both common conventions.

    Returns:
        ``chamfer_l1_mean``: mean distance to the nearest point of the other cloud, averaged over both ways (the
        scale that CAD-MLLM prints times 100); ``chamfer_squared_sum``: mean *squared* distances, added (cadrille).
    """
    to_b, _ = cKDTree(b).query(a)
    to_a, _ = cKDTree(a).query(b)
    return {
        "chamfer_l1_mean": float((to_b.mean() + to_a.mean()) / 2),
        "chamfer_squared_sum": float((to_b**2).mean() + (to_a**2).mean()),
    }


@dataclass(frozen=True, slots=True)
class AssessTask:
    """A generated sequence and the true cloud, both in the normalised frame."""

    tokens: tuple[int, ...]
    bits: int
    true_points: np.ndarray
    num_points: int
    seed: int
    picture_size: int


def assess(task: AssessTask) -> dict[str, Any]:
    """Build what was generated, in a sandboxed worker: chamfer distances and a picture.

    Raises:
        RejectError: it does not parse or does not build.
    """
    shape = kernel.build(Codec(task.bits).decode(task.tokens))
    mesh = kernel.tessellate(shape, DEFLECTION)
    points = sample_surface(mesh, task.num_points, task.seed)
    rng = np.random.default_rng(task.seed)
    chosen = rng.permutation(len(task.true_points))[: task.num_points]
    return {
        **chamfer(points[:, :3], task.true_points[chosen, :3]),
        "volume": kernel.volume(shape),
        "picture": encode_png(render_views(mesh, 1, task.picture_size)[0]),
    }
