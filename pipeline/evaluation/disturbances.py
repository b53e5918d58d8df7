"""What makes inputs worse: noise, missing points, and a turn before a part is drawn.

Apart from what measures it: the processes that draw turned parts need no torch, which takes seconds and memory to load.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.cad.language.codec import Codec
from pipeline.cad.solids import kernel
from pipeline.cad.solids.mesh import Mesh
from pipeline.cad.solids.rendering import render_views
from pipeline.geometry.draw import DEFLECTION


@dataclass(frozen=True, slots=True)
class TurnTask:
    """A true program to be drawn after a turn about z."""

    tokens: tuple[int, ...]
    bits: int
    degrees: float
    num_views: int
    image_size: int


def turned_views(task: TurnTask) -> np.ndarray:
    """(num_views, size, size) pictures of a part that was turned in front of the cameras; run it in a sandbox."""
    mesh = kernel.tessellate(kernel.build(Codec(task.bits).decode(task.tokens)), DEFLECTION)
    return render_views(turned(mesh, task.degrees), task.num_views, task.image_size)


def turned(mesh: Mesh, degrees: float) -> Mesh:
    """The mesh after a turn about z."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    return replace(mesh, vertices=mesh.vertices @ matrix, normals=mesh.normals @ matrix)


def noisy(cloud: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """(N, 6) with Gaussian noise on the positions; normals stay."""
    noise = rng.normal(0, deviation, (len(cloud), 3))
    return np.concatenate([cloud[:, :3] + noise, cloud[:, 3:]], axis=1).astype(np.float32)


def thinned(cloud: np.ndarray, dropped: float, rng: np.random.Generator) -> np.ndarray:
    """(N, 6) without a share of its points, at least 16 left."""
    left = max(16, round(len(cloud) * (1 - dropped)))
    return cloud[rng.permutation(len(cloud))[:left]]
