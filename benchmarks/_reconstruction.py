"""What ``reconstruction.py`` has processes do: real models drawn as they are seen, and programs for them measured."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.exchange.scans import read_scan
from pipeline.cad.exchange.smoothing import smoothed
from pipeline.cad.language.codec import Codec
from pipeline.cad.omnicad import documents
from pipeline.cad.solids import kernel
from pipeline.cad.solids.mesh import Mesh
from pipeline.cad.solids.rendering import render_views
from pipeline.cad.solids.sampling import sample_surface
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.geometry.draw import DEFLECTION, normalised_mesh
from pipeline.metrics.geometry import Body, compare_shapes, no_answer_metrics
from pipeline.pretraining.scans import scan
from pipeline.runtime.seeds import generator

NUM_POINTS = 8192  # of a cloud, and of each side of a chamfer distance
NOISE, MISSING = 0.01, 0.2  # of a simulated scan
MESH_NOISE, MESH_EDGE = 0.01, 0.04  # of a simulated scanner's mesh: its corners', and its longest edge


@dataclass(frozen=True, slots=True)
class Part:
    """A real model: its file's content, with how many pictures of what size it is shown, and whether with faults.

    Faults take seconds: without them ``Shown.scan`` and ``Shown.mesh`` are empty.
    """

    document: bytes
    seed: int
    num_views: int = 0
    image_size: int = 0
    faulty: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What there is of a part to see.

    Attributes:
        cloud: (N, 6) on its surface.
        scan: (N, 6) of it with faults, smoothed as a user's is.
        mesh: (N, 6) what a user's fine, noisy mesh of it is read as.
        true_points: (N, 6) others, that it is measured by.
        views: pictures.
    """

    cloud: np.ndarray
    scan: np.ndarray
    mesh: np.ndarray
    true_points: np.ndarray
    views: list[np.ndarray]


@dataclass(frozen=True, slots=True)
class Answer:
    """A program for a part."""

    part: Part
    tokens: tuple[int, ...]
    bits: int
    true_points: np.ndarray


def work(task: Part | Answer) -> Shown | dict[str, Any]:
    """Draw a part, or measure a program for it; in a sandbox."""
    if isinstance(task, Answer):
        return measured(task)
    mesh = normalised_mesh(documents.loads(task.document))
    clouds = sample_surface(mesh, 4 * NUM_POINTS, generator(task.seed, "clouds"))
    views = list(render_views(mesh, task.num_views, task.image_size)) if task.num_views else []
    if not task.faulty:
        return Shown(clouds[:NUM_POINTS], clouds[:0], clouds[:0], clouds[-NUM_POINTS:], views)
    faulty = scan(clouds[: 2 * NUM_POINTS], NUM_POINTS, NOISE, MISSING, generator(task.seed, "faults"))
    faulty, _ = smoothed(faulty, generator(task.seed, "smoothed"))
    return Shown(clouds[:NUM_POINTS], faulty, scanned_mesh(mesh, task.seed), clouds[-NUM_POINTS:], views)


def scanned_mesh(mesh: Mesh, seed: int) -> np.ndarray:
    """(N, 6) a surface in small triangles, whose corners are off, as it is read from a file; where the surface is."""
    import trimesh

    fine = trimesh.Trimesh(*trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.triangles, MESH_EDGE, 20))
    fine.vertices += MESH_NOISE * generator(seed, "corners").normal(size=fine.vertices.shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.stl"
        path.write_bytes(fine.export(file_type="stl"))
        scan = read_scan(path, NUM_POINTS)
    placed = scan.points[:, :3] * scan.frame.scale + np.array(scan.frame.centre)
    cloud = np.concatenate([placed, scan.points[:, 3:]], axis=1)
    return generator(seed, "mesh").permutation(cloud)[:NUM_POINTS].astype(np.float32)


def measured(answer: Answer) -> dict[str, Any]:
    """A program's figures."""
    body = Body.of(kernel.tessellate(kernel.build(Codec(answer.bits).decode(answer.tokens)), DEFLECTION))
    true = Body.of(normalised_mesh(documents.loads(answer.part.document)))
    found = compare_shapes(body, true, answer.true_points, NUM_POINTS, answer.part.seed)
    return {"metrics": found, "valid": body.is_watertight}


def judged(sandbox: Sandbox[Any, Any], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Figures of programs, in order; of one that makes no solid those of no answer."""
    return [
        {"metrics": no_answer_metrics(answer.true_points), "valid": False} if isinstance(found, Failure) else found
        for found, answer in zip(sandbox.map(answers), answers, strict=True)
    ]
