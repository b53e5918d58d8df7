"""What the service asks the CAD kernel's processes for: solids to look at, files, and what a user's file holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.exchange.files import DEFLECTION, ConvertTask, convert, read_program, solid_facts
from pipeline.cad.exchange.formats import PROGRAMS, SOLIDS
from pipeline.cad.exchange.scans import SampleTask, Scan, read_scan, sample_step
from pipeline.cad.language.program import CadProgram, Frame
from pipeline.cad.solids.distances import misfit, to_surface
from pipeline.cad.solids.mesh import watertight
from pipeline.cad.solids.rendering import Pictures
from pipeline.metrics.compact import MAX_POINTS, packed, packed_mesh

COARSER = (1, 5, 25)  # how much, until a mesh is small enough to be sent


@dataclass(frozen=True, slots=True)
class ShapeTask:
    """A program in metres, to be seen.

    Attributes:
        frame: in which it is seen, and ``cloud``, (N, 6), is; None: its own.
        cloud, pictures: that it is compared with, or None.
    """

    program: CadProgram
    frame: Frame | None = None
    cloud: np.ndarray | None = None
    pictures: Pictures | None = None


@dataclass(frozen=True, slots=True)
class ReadTask:
    """A user's file: a program, or points with so many of them drawn from a surface."""

    path: Path
    num_points: int


def work(task: ShapeTask | ReadTask | ConvertTask) -> Any:
    """Do it. Run it in a sandbox.

    Raises:
        RejectError, UserError: why it cannot be done.
    """
    match task:
        case ShapeTask():
            return shape_of(task)
        case ReadTask():
            return _read(task)
        case ConvertTask():
            return convert(task)


def _read(task: ReadTask) -> CadProgram | Scan:
    suffix = task.path.suffix.lower()
    if suffix in PROGRAMS:
        return read_program(task.path)
    if suffix in SOLIDS:
        return Scan(*sample_step(SampleTask(task.path, task.num_points)))
    return read_scan(task.path, task.num_points)


def shape_of(task: ShapeTask) -> dict[str, Any]:
    """A solid: what is known of it, and its surface as text for a viewer.

    Returns:
        ``size``, ``area``, ``volume`` in metres; ``bodies``; ``frame`` in which ``mesh`` is (``metrics.compact``; None
        where the solid has too many faces for it); with a cloud ``errors``, distances of its first points, and
        ``misfit``; with pictures ``difference`` from them.

    Raises:
        RejectError: the program makes no watertight solid.
    """
    from pipeline.cad.solids import kernel

    shape = kernel.build(task.program)
    own = Frame.of_box(*kernel.bounding_box(shape))
    frame = task.frame or own
    mesh = kernel.tessellate(shape, DEFLECTION * own.scale)
    surface = watertight(mesh)
    found: dict[str, Any] = {**solid_facts(shape), "bodies": kernel.num_solids(shape), "frame": frame, "mesh": None}
    if task.cloud is not None:
        seen = mesh.normalised(frame)
        found["errors"] = packed(to_surface(task.cloud[:MAX_POINTS], seen))
        found["misfit"] = misfit(task.cloud[:MAX_POINTS], seen)
    elif task.pictures is not None:
        found["difference"] = task.pictures.misfit(mesh.normalised(frame))
    for coarser in COARSER:
        if coarser > 1:
            surface = watertight(kernel.tessellate(shape, coarser * DEFLECTION * own.scale))
        found["mesh"] = packed_mesh(surface.normalised(frame))
        if found["mesh"] is not None:
            break
    return found
