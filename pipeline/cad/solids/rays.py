"""Rays against a mesh (Embree)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.cad.solids.mesh import Mesh

# Three directions that no part is aligned with; what two of them say holds.
PROBES = np.array([(0.836, 0.391, 0.385), (-0.449, 0.772, -0.450), (0.273, -0.352, 0.895)])


@dataclass(frozen=True, slots=True)
class RayScene:
    """A mesh that rays can be sent to.

    Attributes:
        face_normals: (T, 3) unit normals of the triangles.
    """

    face_normals: np.ndarray
    _scene: Any
    _mesh: Any  # Embree's; the scene does not keep it alive

    @classmethod
    def of(cls, mesh: Mesh) -> "RayScene":
        """The scene of one mesh."""
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        scene = EmbreeScene(robust=True)
        corners = mesh.vertices[mesh.triangles]
        geometry = TriangleMesh(scene, corners.astype(np.float32))
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        return cls(normals, scene, geometry)

    def first_hits(self, origins: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """(R,) the first triangle that each ray meets, -1 for none.

        Args:
            origins: (R, 3).
            direction: (3,), of all rays.
        """
        directions = np.ascontiguousarray(np.broadcast_to(direction.astype(np.float32), origins.shape))
        found: np.ndarray = self._scene.run(origins.astype(np.float32), directions)
        return found

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(R,) bool, whether points are inside a closed mesh: what a ray meets first is then the back of a face."""
        votes = np.zeros(len(points), int)
        for probe in PROBES:
            hit = self.first_hits(points, probe)
            votes += (hit >= 0) & (self.face_normals[hit] @ probe > 0)
        inside: np.ndarray = votes >= 2
        return inside
