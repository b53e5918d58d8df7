"""What a file holds that is no program: how large its solid, mesh or cloud is, where it lies, and whether it closes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.exchange.files import read_surface, read_triangles
from pipeline.cad.exchange.formats import ARRAYS, SOLIDS, TEXTS, Unit
from pipeline.cad.solids.clouds import read_array, read_text


@dataclass(frozen=True, slots=True)
class ShowTask:
    """A solid, a mesh or a cloud.

    Attributes:
        unit: of its numbers; STEP has its own.
    """

    path: Path
    unit: Unit = Unit.M


def look(task: ShowTask) -> dict[str, Any]:
    """Measure what is in a file, in metres, square and cubic. Run it in a sandbox.

    Returns:
        ``kind`` (solid, mesh, points), ``low`` and ``high``, the corners of its box; of a solid ``bodies``, ``faces``,
        ``area``, and where it has a body, ``volume``; of a mesh ``triangles``, ``area``, and where it closes,
        ``volume``, below 0 where it is inside out; of a cloud ``points`` and whether they have ``normals``.

    Raises:
        RejectError: it cannot be read.
    """
    suffix = task.path.suffix.lower()
    if suffix in SOLIDS:
        return _solid(task.path)
    if suffix in ARRAYS + TEXTS:
        read = read_array if suffix in ARRAYS else read_text
        return _points(read(task.path.read_bytes(), str(task.path)), task.unit)
    found = read_triangles(task.path)
    if isinstance(found, np.ndarray):
        return _points(found, task.unit)
    surface = read_surface(task.path).scaled(task.unit.metres)
    volume = {"volume": surface.volume} if surface.is_watertight else {}
    facts = {"kind": "mesh", "triangles": len(surface.triangles), "area": surface.area, **volume}
    return {**facts, **_box(surface.vertices)}


def _solid(path: Path) -> dict[str, Any]:
    from pipeline.cad.exchange.step import read_step
    from pipeline.cad.solids import kernel

    shape = read_step(path)
    low, high = kernel.bounding_box(shape)
    bodies = kernel.num_solids(shape)
    volume = {"volume": kernel.volume(shape)} if bodies else {}
    facts = {"kind": "solid", "bodies": bodies, "faces": kernel.num_faces(shape), "area": kernel.area(shape)}
    return {**facts, **volume, "low": low, "high": high}


def _points(points: np.ndarray, unit: Unit) -> dict[str, Any]:
    facts = {"kind": "points", "points": len(points), "normals": points.shape[1] == 6}
    return {**facts, **_box(points[:, :3] * unit.metres)}


def _box(points: np.ndarray) -> dict[str, Any]:
    return {"low": points.min(axis=0).tolist(), "high": points.max(axis=0).tolist()}
