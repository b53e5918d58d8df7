"""Topology of generated meshes: segments, dangling edges, self-intersections, flux enclosure (Xu et al. 2024,
2411.04954).

The paper's tools never see a mesh as it was written: the polygon-soup reader of CGAL repairs and re-orients it first.
``repair`` does the same, so that the figures of a file's own vertices are the tools' own; those of moved or scaled ones
are not, as float32 rounds them otherwise. ``merged_figures`` gives the plain ones beside them, of the mesh with its
vertices merged and nothing else changed. Where the tools print zeros for a file that they could not read, ``repair``
raises.

Shapes: F faces, V vertices, P pairs of faces.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.metrics.intersections import Triangles, collinear, meet, overlap_across_edge, vertex_meets
from pipeline.runtime.errors import RejectError

FACES_AT_ONCE = 128  # when looking for boxes that overlap


@dataclass(frozen=True, slots=True)
class Soup:
    """A repaired mesh: coherently oriented where that is possible, every vertex with one fan of faces.

    Attributes:
        points: (V, 3) float64, exactly representable in float32.
        faces: (F, 3) int64 into ``points``, distinct within a face.
    """

    points: np.ndarray
    faces: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """(F, 3, 3) coordinates."""
        return np.take(self.points, self.faces, axis=0)


def repair(vertices: np.ndarray, triangles: np.ndarray) -> Soup:
    """The mesh that CGAL's ``Polygon_mesh_processing::IO::read_polygon_mesh`` makes of a binary STL.

    Equal points are merged, faces without three distinct vertices and copies of faces (whatever their winding) are
    removed, faces are turned to agree with their neighbours across edges of two faces, and vertices whose faces hang
    together only there are split.

    Args:
        vertices: (V, 3); rounded to float32 as STL does.
        triangles: (F, 3) indices.

    Raises:
        RejectError: ``empty_mesh``, ``bad_mesh`` for coordinates that are not finite in float32.
    """
    points, faces = _merged(vertices, triangles)
    if not len(faces):
        raise RejectError("empty_mesh", "no triangle has three distinct vertices")
    faces = _without_copies(faces)
    faces, marked = _oriented(faces)
    return _split(points, faces, marked)


def _merged(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices merged where they are equal in float32, and the faces that keep three of them."""
    with np.errstate(over="ignore"):
        single = np.asarray(vertices, np.float32).reshape(-1, 3) + np.float32(0)  # -0 is 0
    triangles = np.asarray(triangles, np.int64).reshape(-1, 3)
    if len(triangles) and not np.isfinite(single[triangles]).all():
        raise RejectError("bad_mesh", "a coordinate is not finite in float32")
    points, index = np.unique(single, axis=0, return_inverse=True)
    faces = index.reshape(-1)[triangles]
    a, b, c = faces.T
    return points.astype(np.float64), faces[(a != b) & (b != c) & (c != a)]


def _without_copies(faces: np.ndarray) -> np.ndarray:
    """The first of the faces on the same three vertices; copies change places with faces from the end, as CGAL has it.

    It takes the faces that have copies in the order of a hash table, which is mostly that in which it found the first
    copy of each.
    """
    _, first, group = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True)
    copies = np.setdiff1d(np.arange(len(faces)), first)
    _, found, which = np.unique(group.reshape(-1)[copies], return_index=True, return_inverse=True)
    copies = copies[np.argsort(found[which], kind="stable")]
    order, place = np.arange(len(faces)), np.arange(len(faces))
    for last, copy in zip(range(len(faces) - 1, 0, -1), copies.tolist(), strict=False):
        moved, to = order[last], place[copy]
        order[to], place[moved] = moved, to
    return faces[order[: len(faces) - len(copies)]]


def _edge(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _oriented(faces: np.ndarray) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Faces turned by a flood fill over edges of two faces, and the marked edges, which it does not cross.

    Depth first; neighbours in the order of the face's edges, which decides where a one-sided strip is cut.
    """
    turned: list[list[int]] = faces.tolist()
    users: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for number, face in enumerate(turned):
        for at in range(3):
            users[_edge(face[at], face[at - 2])].append(number)
    marked = {edge for edge, numbers in users.items() if len(numbers) > 2}
    seen = [False] * len(turned)
    for seed in range(len(turned)):
        if seen[seed]:
            continue
        seen[seed] = True
        stack = [seed]
        while stack:
            number = stack.pop()
            face = turned[number]
            for a, b in ((face[0], face[1]), (face[1], face[2]), (face[2], face[0])):
                edge = _edge(a, b)
                if edge in marked or len(users[edge]) < 2:
                    continue
                other = users[edge][users[edge][0] == number]
                agrees = turned[other].index(b) == (turned[other].index(a) - 1) % 3
                if seen[other]:
                    if not agrees:
                        marked.add(edge)
                    continue
                if not agrees:
                    turned[other].reverse()
                seen[other] = True
                stack.append(other)
    return np.array(turned, np.int64), marked


def _split(points: np.ndarray, faces: np.ndarray, marked: set[tuple[int, int]]) -> Soup:
    """A vertex for each fan of faces around it; corners belong together across unmarked edges of two faces."""
    corner = np.arange(faces.size).reshape(faces.shape)
    start, end = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    at_start, at_end = corner.ravel(), np.roll(corner, -1, axis=1).ravel()
    low, high = np.minimum(start, end), np.maximum(start, end)
    # The corners of an edge, those at its lower vertex first.
    forward = start < end
    at_low, at_high = np.where(forward, at_start, at_end), np.where(forward, at_end, at_start)
    key = low * len(points) + high
    open_edges = np.array([a * len(points) + b for a, b in marked], np.int64)
    usable = ~np.isin(key, open_edges)
    order = np.argsort(key[usable], kind="stable")
    key, at_low, at_high = key[usable][order], at_low[usable][order], at_high[usable][order]
    pair = np.flatnonzero(key[:-1] == key[1:])
    rows = np.concatenate([at_low[pair], at_high[pair]])
    columns = np.concatenate([at_low[pair + 1], at_high[pair + 1]])
    links = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(faces.size, faces.size))
    _, owner = connected_components(links, directed=False)
    _, first = np.unique(owner, return_index=True)
    return Soup(points[start[first]], owner.reshape(faces.shape))


@dataclass(frozen=True, slots=True)
class Topology:
    """A mesh's figures by the conventions of the paper's tools.

    Attributes:
        segments: connected components.
        dangling_edge_length: length of edges with one face, in halves of the longest side of the bounding box.
        self_intersecting_faces: faces that meet another where they should not, of ``num_faces``.
        num_faces: after repair.
        flux_enclosure_error: absolute flux of (1, 1, 1) through the surface, in the mesh's units squared; NaN where a
            face has no area, as the tools have it.
    """

    segments: int
    dangling_edge_length: float
    self_intersecting_faces: int
    num_faces: int
    flux_enclosure_error: float

    @property
    def self_intersection_ratio(self) -> float:
        """Share of the faces that meet another."""
        return self.self_intersecting_faces / self.num_faces


def topology(vertices: np.ndarray, triangles: np.ndarray) -> Topology:
    """The figures of a mesh, (V, 3) coordinates and (F, 3) indices.

    Raises:
        RejectError: as ``repair``.
    """
    soup = repair(vertices, triangles)
    flat = collinear(soup.corners)
    crosses = np.cross(soup.corners[:, 1] - soup.corners[:, 0], soup.corners[:, 2] - soup.corners[:, 0])
    return Topology(
        segments=_segments(soup.faces),
        dangling_edge_length=_dangling(soup.points, soup.faces),
        self_intersecting_faces=len(self_intersecting_faces(soup, flat)),
        num_faces=len(soup.faces),
        flux_enclosure_error=float("nan") if flat.any() else abs(float(0.5 * crosses.sum())),
    )


def num_segments(vertices: np.ndarray, triangles: np.ndarray) -> int:
    """Connected components alone, as ``topology`` counts them."""
    return _segments(repair(vertices, triangles).faces)


def _segments(faces: np.ndarray) -> int:
    """Components of vertices that share a face; vertices of no face do not count."""
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    rows, columns = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(used),) * 2)
    return int(connected_components(links, directed=False)[0])


def _dangling(points: np.ndarray, faces: np.ndarray) -> float:
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, uses = np.unique(edges, axis=0, return_counts=True)
    ends = points[unique[uses == 1]]
    half = float(np.ptp(points[np.unique(faces)], axis=0).max()) / 2
    return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum()) / half


def self_intersecting_faces(soup: Soup, flat: np.ndarray) -> np.ndarray:
    """Numbers of the faces that meet another face otherwise than along what they share, decided exactly.

    Args:
        flat: (F,) which faces have no area; these count, and are not compared with others.
    """
    first, second = _candidates(soup, flat)
    a, b = soup.faces[first], soup.faces[second]
    same = a[:, :, None] == b[:, None, :]  # (P, 3, 3)
    shared = same.sum(axis=(1, 2))
    numbers = Triangles(soup.points)
    hit = np.zeros(len(first), bool)
    apart, vertex, edge = shared == 0, shared == 1, shared == 2
    hit[apart] = meet(numbers, a[apart], b[apart])
    hit[vertex] = vertex_meets(numbers, *_shared_first(a[vertex], b[vertex], same[vertex]))
    hit[edge] = overlap_across_edge(numbers, *_shared_last(a[edge], b[edge], same[edge]))
    return np.unique(np.concatenate([first[hit], second[hit], np.flatnonzero(flat)]))


def _shared_first(a: np.ndarray, b: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of faces with one common vertex, rolled so that it comes first in both."""
    return _rolled(a, same.any(axis=2).argmax(axis=1)), _rolled(b, same.any(axis=1).argmax(axis=1))


def _shared_last(a: np.ndarray, b: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of faces with a common edge, rolled so that what is opposite comes first in both."""
    return _rolled(a, same.any(axis=2).argmin(axis=1)), _rolled(b, same.any(axis=1).argmin(axis=1))


def _rolled(faces: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)


def _candidates(soup: Soup, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of faces with area whose bounding boxes touch: (P,) and (P,) face numbers."""
    numbers = np.flatnonzero(~flat)
    low, high = soup.corners.min(axis=1), soup.corners.max(axis=1)
    axis = int(np.ptp(low, axis=0).argmax()) if len(low) else 0
    numbers = numbers[np.argsort(low[numbers, axis], kind="stable")]
    low, high = low[numbers], high[numbers]
    ends = np.searchsorted(low[:, axis], high[:, axis], side="right")
    firsts, seconds = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(numbers), FACES_AT_ONCE):
        stop = min(start + FACES_AT_ONCE, len(numbers))
        # Everything that begins before the last of these ends, in order of its own beginning.
        after = slice(start, int(ends[start:stop].max()))
        touch = np.ones((stop - start, after.stop - start), bool)
        for k in range(3):
            touch &= low[start:stop, None, k] <= high[None, after, k]
            touch &= high[start:stop, None, k] >= low[None, after, k]
        i, j = np.nonzero(np.triu(touch, 1))
        firsts.append(numbers[start + i])
        seconds.append(numbers[start + j])
    return np.concatenate(firsts), np.concatenate(seconds)


def merged_figures(vertices: np.ndarray, triangles: np.ndarray) -> dict[str, Any]:
    """The plain figures of a mesh with its vertices merged, nothing repaired or turned; what most would count.

    Returns:
        ``segments_merged``, ``dangling_edge_length_merged``, ``flux_enclosure_error_merged``, ``num_faces_merged``.

    Raises:
        RejectError: as ``repair``.
    """
    points, faces = _merged(vertices, triangles)
    if not len(faces):
        raise RejectError("empty_mesh", "no triangle has three distinct vertices")
    corners = points[faces]
    crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return {
        "segments_merged": _segments(faces),
        "dangling_edge_length_merged": _dangling(points, faces),
        "flux_enclosure_error_merged": abs(float(0.5 * crosses.sum())),
        "num_faces_merged": len(np.asarray(triangles).reshape(-1, 3)),
    }
