"""How far a solid is from the true one: clouds, volumes, topology. Conventions are in the names.

Distances and volumes are measured in the truth's normalised frame, where the longest half-side of its bounding box is
1, so a part in the wrong place or of the wrong size is wrong. Topology is that of the file: whether faces meet hangs on
the last digits of its coordinates, which normalising changes.
"""

import math
import statistics
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.cad.language.program import Frame
from pipeline.cad.solids.distances import chamfer, chamfer_of, nearest
from pipeline.cad.solids.mesh import MERGE, Mesh, Surface, closed, flat_mesh, merge_vertices, volumetric_iou
from pipeline.cad.solids.sampling import sample_surface
from pipeline.metrics.topology import merged_figures, num_segments, topology
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator

F_SCORE_RADIUS = 0.05  # CAD-MLLM's
UNIT_CUBE = 0.5  # from the normalised frame to a box whose longest side is 1, cadrille's frame


@dataclass(frozen=True, slots=True)
class Body:
    """What is compared.

    Attributes:
        mesh: triangles with normals, in the coordinates that it is compared in: the truth's normalised frame.
        surface: the same with shared vertices.
        is_watertight: whether the surface closes.
        written: the triangles of its file in the file's own coordinates, which topology is measured on.
        scale: how many units of the file the normalised frame's unit is.
    """

    mesh: Mesh
    surface: Surface
    is_watertight: bool
    written: Surface
    scale: float = 1.0

    @classmethod
    def of(cls, mesh: Mesh) -> "Body":
        """The body of a tessellated solid, in the coordinates that it was built in.

        Its file is the one that ``cadmllm cad convert`` would write of these triangles: a vertex for all that meet, in
        the solid's own unit and place.
        """
        surface = closed(mesh)
        if surface is None:
            size = float(np.ptp(mesh.vertices, axis=0).max())
            opened = merge_vertices(mesh.vertices, mesh.triangles, MERGE[0] * size)
            return cls(mesh, opened, False, opened)
        return cls(mesh, surface, True, surface)

    @classmethod
    def of_triangles(cls, surface: Surface, written: Surface) -> "Body":
        """The body of a mesh file: with shared vertices, and as it is written."""
        return cls(flat_mesh(surface), surface, surface.is_watertight, written)

    def normalised(self, frame: Frame) -> "Body":
        """The body in a frame's normalised coordinates; what is written stays as it is."""
        return replace(
            self,
            mesh=self.mesh.normalised(frame),
            surface=self.surface.normalised(frame),
            scale=self.scale * frame.scale,
        )


def cloud_metrics(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Distances between clouds with normals, (N, 6) and (M, 6).

    Returns:
        ``chamfer_l1_mean`` and ``chamfer_squared_sum`` as ``chamfer``; ``chamfer_squared_sum_unit_cube``: cadrille's,
        in a frame where the longest side is 1; ``f_score_005``: harmonic mean of the shares of points within 0.05 of
        the other cloud; ``normal_consistency``: mean absolute cosine between the normals of nearest points, both ways
        averaged.
    """
    (to_true, partner), (to_predicted, back) = nearest(predicted, true), nearest(true, predicted)
    precision, recall = ((distances <= F_SCORE_RADIUS).mean() for distances in (to_true, to_predicted))
    cosines = [
        np.abs(np.einsum("ij,ij->i", predicted[:, 3:], true[partner, 3:])).mean(),
        np.abs(np.einsum("ij,ij->i", true[:, 3:], predicted[back, 3:])).mean(),
    ]
    distances = chamfer_of(to_true, to_predicted)
    return {
        **distances,
        "chamfer_squared_sum_unit_cube": distances["chamfer_squared_sum"] * UNIT_CUBE**2,
        "f_score_005": float(2 * precision * recall / max(precision + recall, 1e-12)),
        "normal_consistency": float(np.mean(cosines)),
    }


def no_answer_metrics(true: np.ndarray) -> dict[str, float]:
    """What a program that makes no solid is counted as: a single point at the middle of the true model's box, (M, 6).

    So every mean and median includes failures, and stays finite.
    """
    found = cloud_metrics(np.zeros((1, 6)), true)
    return {**found, "f_score_005": 0.0, "normal_consistency": 0.0, "volumetric_iou": 0.0}


def topology_figures(body: Body) -> dict[str, Any]:
    """A body's own topology, after the paper's tools and, merged only, beside it.

    All figures are those of ``topology`` and ``merged_figures`` on the vertices of its file; those of the flux, an
    area, are divided by the square of the frame's scale.

    Raises:
        RejectError: there is no mesh to speak of.
    """
    vertices, triangles = body.written.vertices, body.written.triangles
    found, merged = topology(vertices, triangles), merged_figures(vertices, triangles)
    flux, unit = found.flux_enclosure_error, body.scale**2
    return {
        "segments": found.segments,
        "dangling_edge_length": found.dangling_edge_length,
        "self_intersection_ratio": found.self_intersection_ratio,
        "flux_enclosure_error": None if math.isnan(flux) else flux / unit,
        **merged,
        "flux_enclosure_error_merged": merged["flux_enclosure_error_merged"] / unit,
    }


def compare(predicted: Body, true: Body, true_points: np.ndarray, num_points: int, seed: int) -> dict[str, Any]:
    """All geometric and topological figures of one prediction.

    Returns:
        Those of ``compare_shapes``; ``topology_figures`` of the prediction; ``segment_error``: how many components more
        or less than the truth.
    """
    own = topology_figures(predicted)
    segments = num_segments(true.written.vertices, true.written.triangles)
    return {
        **compare_shapes(predicted, true, true_points, num_points, seed),
        **own,
        "segment_error": abs(own["segments"] - segments),
    }


def compare_shapes(predicted: Body, true: Body, true_points: np.ndarray, num_points: int, seed: int) -> dict[str, Any]:
    """The figures of one prediction that compare it with the truth.

    Args:
        true_points: (M, 6) on the true surface; ``num_points`` of them are used, and as many drawn from the prediction.

    Returns:
        Those of ``cloud_metrics``; ``volumetric_iou``, 0 where the prediction does not close, None where the truth does
        not.
    """
    chosen = generator(seed, "true points").permutation(len(true_points))[:num_points]
    points = sample_surface(predicted.mesh, num_points, generator(seed, "predicted points"))
    return {**cloud_metrics(points, true_points[chosen]), "volumetric_iou": _iou(predicted, true)}


def _iou(predicted: Body, true: Body) -> float | None:
    if not true.is_watertight:
        return None
    if not predicted.is_watertight:
        return 0.0
    try:
        return volumetric_iou(predicted.surface, true.surface)
    except RejectError:
        return None


def chamfer_bounds(clouds: list[np.ndarray], num_points: int) -> dict[str, float]:
    """What a chamfer distance can be here, as medians over test models.

    Returns:
        ``floor``: a model to itself, two drawings of ``num_points`` points; ``chance``: a model to the next one,
        which is what ignoring the input would give.
    """
    rng = generator("bounds")
    drawn = [cloud[rng.permutation(len(cloud)), :3] for cloud in clouds]
    first = [cloud[:num_points] for cloud in drawn]
    second = [cloud[-num_points:] for cloud in drawn]
    own = [chamfer(a, b)["chamfer_l1_mean"] for a, b in zip(first, second, strict=True)]
    other = [chamfer(a, second[(i + 1) % len(second)])["chamfer_l1_mean"] for i, a in enumerate(first)]
    return {"floor": statistics.median(own), "chance": statistics.median(other)}
