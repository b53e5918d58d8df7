"""Points in space that know whether they are inside a solid: what a shape encoder is pretrained on."""

import numpy as np

from pipeline.cad.solids.mesh import Mesh
from pipeline.cad.solids.rays import RayScene
from pipeline.cad.solids.sampling import sample_surface

REACH = 1.05  # of the cube that points are drawn from; the solid reaches to 1
NEAR = (0.01, 0.04)  # standard deviations of the distance to the surface, half of the near points each


def sample_occupancy(mesh: Mesh, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Half of the points anywhere, half near the surface, as Michelangelo draws them (arXiv 2306.17115, section 4).

    Args:
        mesh: closed, in the normalised frame.

    Returns:
        (num_points, 4) float32: xyz, and 1 inside, 0 outside.
    """
    near = num_points // 2
    surface = sample_surface(mesh, near, rng)[:, :3]
    surface = surface + rng.normal(size=(near, 3)) * np.resize(NEAR, near)[:, None]
    anywhere = rng.uniform(-REACH, REACH, (num_points - near, 3))
    xyz = np.concatenate([surface, anywhere]).astype(np.float32)
    return np.concatenate([xyz, RayScene.of(mesh).contains(xyz)[:, None]], axis=1).astype(np.float32)
