"""Triangle meshes of solids: shared vertices, whether they close, and how much of two solids is common."""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.cad.language.program import Frame
from pipeline.runtime.errors import RejectError

MERGE = (1e-7, 1e-5, 1e-4)  # how far one vertex of two faces may be apart, as a share of the size; tried in turn


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles of a solid's surface, face by face.

    Attributes:
        vertices: (V, 3) float64.
        normals: (V, 3) float64, the surface's own normals, outward. Vertices are not shared between faces.
        triangles: (T, 3) int64, counter-clockwise from outside.
        faces: (T,) int64, the B-rep face of each triangle.
    """

    vertices: np.ndarray
    normals: np.ndarray
    triangles: np.ndarray
    faces: np.ndarray

    def normalised(self, frame: Frame) -> "Mesh":
        """The mesh in a frame's normalised coordinates."""
        return replace(self, vertices=(self.vertices - np.array(frame.centre)) / frame.scale)


@dataclass(frozen=True, slots=True)
class Surface:
    """Triangles that share their vertices.

    Attributes:
        vertices: (V, 3) float64.
        triangles: (T, 3) int64, counter-clockwise from outside.
    """

    vertices: np.ndarray
    triangles: np.ndarray

    def normalised(self, frame: Frame) -> "Surface":
        """The surface in a frame's normalised coordinates."""
        return replace(self, vertices=(self.vertices - np.array(frame.centre)) / frame.scale)

    def scaled(self, factor: float) -> "Surface":
        """The surface in another unit."""
        return replace(self, vertices=self.vertices * factor)

    @property
    def is_watertight(self) -> bool:
        """Whether every edge is passed as often one way as the other."""
        edges = np.concatenate([self.triangles[:, [0, 1]], self.triangles[:, [1, 2]], self.triangles[:, [2, 0]]])
        there, back = (edges[:, i] * len(self.vertices) + edges[:, 1 - i] for i in (0, 1))
        return len(edges) > 0 and bool((np.sort(there) == np.sort(back)).all())

    @property
    def frame(self) -> Frame:
        """The frame that its bounding box defines."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        return Frame.of_box(tuple(low.tolist()), tuple(high.tolist()))

    @property
    def volume(self) -> float:
        """Enclosed volume."""
        a, b, c = (self.vertices[self.triangles[:, i]] for i in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)

    @property
    def area(self) -> float:
        """Of all triangles."""
        a, b, c = (self.vertices[self.triangles[:, i]] for i in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def flat_mesh(surface: Surface) -> Mesh:
    """A surface's triangles, each a face of its own with its own normal."""
    corners = surface.vertices[surface.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    numbers = np.arange(3 * len(corners)).reshape(-1, 3)
    return Mesh(corners.reshape(-1, 3), normals.repeat(3, axis=0), numbers, np.arange(len(corners)))


def merge_vertices(vertices: np.ndarray, triangles: np.ndarray, tolerance: float) -> Surface:
    """One vertex for all that are within ``tolerance`` of each other; triangles that lose their area go.

    Args:
        vertices: (V, 3).
        triangles: (T, 3) indices.
        tolerance: in the unit of the vertices.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    pairs = cKDTree(vertices).query_pairs(tolerance, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(vertices),) * 2)
    _, owner = connected_components(links, directed=False)
    _, first = np.unique(owner, return_index=True)  # owners are numbered from 0
    merged = owner[triangles]
    a, b, c = merged.T
    return Surface(vertices[first], merged[(a != b) & (b != c) & (c != a)])


def closed(mesh: Mesh) -> Surface | None:
    """A solid's triangles with the vertices merged along the edges of its faces; None where they do not close."""
    size = float(np.ptp(mesh.vertices, axis=0).max())
    for tolerance in MERGE:
        surface = merge_vertices(mesh.vertices, mesh.triangles, tolerance * size)
        if surface.is_watertight:
            return surface
    return None


def watertight(mesh: Mesh) -> Surface:
    """The closed surface of a solid.

    Raises:
        RejectError: ``not_watertight``.
    """
    surface = closed(mesh)
    if surface is None:
        raise RejectError("not_watertight", "the faces' triangles do not meet")
    return surface


def volumetric_iou(first: Surface, second: Surface) -> float:
    """Common volume over joint volume of two closed surfaces, 0 to 1, by exact mesh booleans (manifold3d).

    Raises:
        RejectError: ``not_manifold``.
    """
    import manifold3d

    def solid(surface: Surface) -> manifold3d.Manifold:
        made = manifold3d.Manifold(
            manifold3d.Mesh64(surface.vertices.astype(np.float64), surface.triangles.astype(np.uint64))
        )
        if made.status() != manifold3d.Error.NoError:
            raise RejectError("not_manifold", str(made.status()))
        return made

    a, b = solid(first), solid(second)
    union = (a + b).volume()
    return (a ^ b).volume() / union if union > 0 else 0.0
