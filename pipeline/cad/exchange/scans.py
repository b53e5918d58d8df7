"""What a part looks like from a user's own file or array: points with normals in the normalised frame.

Clouds are taken as they are, but for noise (``smoothing``), meshes and STEP are sampled as the solids of the corpus
are. Numbers are metres, or of the unit that is given; in STEP whatever unit it says.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.exchange.files import DEFLECTION, read_triangles
from pipeline.cad.exchange.formats import ARRAYS, SCANS, SOLIDS, TEXTS, Unit, check_file
from pipeline.cad.exchange.smoothing import smoothed
from pipeline.cad.language.program import Frame
from pipeline.cad.solids.clouds import check_normals, normalise_points, read_array, read_text
from pipeline.cad.solids.mesh import Mesh, Surface, flat_mesh
from pipeline.cad.solids.sampling import sample_surface
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator

FINE, EVEN = 1000, 4.0  # corners, and longest over usual edges, of a mesh that may be a scan: a designed one has fewer
TIMEOUT_S, MEMORY_MIB = 60.0, 4096  # of a STEP file


@dataclass(frozen=True, slots=True)
class Scan:
    """Points of a part.

    Attributes:
        points: (N, 6) float32, xyz and unit normal in the normalised frame.
        frame: the part's own.
    """

    points: np.ndarray
    frame: Frame

    def measured_in(self, unit: Unit) -> "Scan":
        """The scan whose numbers are of that unit, in metres; it looks the same."""
        x, y, z = (length * unit.metres for length in self.frame.centre)
        return replace(self, frame=Frame((x, y, z), self.frame.scale * unit.metres))


@dataclass(frozen=True, slots=True)
class SampleTask:
    """A STEP file of which points are drawn."""

    path: Path
    num_points: int


def silent(_: str) -> None:
    """Say nothing."""


def read_scan(
    source: str | Path | np.ndarray, num_points: int, say: Callable[[str], None] = silent, unit: Unit = Unit.M
) -> Scan:
    """The points in an array or a file: a cloud, a mesh or STEP.

    Args:
        source: (N, 3), (N, 6) with normals, or a file of ``SCANS``; PLY and OBJ without triangles are clouds.
        num_points: drawn from a surface.
        say: gets what is done: what takes long before it begins, and what was taken.
        unit: of the numbers; STEP has its own.

    Raises:
        UserError: there is no such file, or it is of another kind. RejectError: what is in it cannot be used.
    """
    if isinstance(source, np.ndarray):
        return _cloud(source, "points", say).measured_in(unit)
    path = Path(source)
    check_file(path, SCANS)
    say(f"reading {path}")
    if path.suffix.lower() in SOLIDS:
        return _solid(path, num_points, say)
    return _read(path, num_points, say).measured_in(unit)


def _read(path: Path, num_points: int, say: Callable[[str], None]) -> Scan:
    """A cloud or a mesh, in the unit of its numbers."""
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        return _cloud(read_array(path.read_bytes(), str(path)), str(path), say)
    if suffix in TEXTS:
        return _cloud(read_text(path.read_bytes(), str(path)), str(path), say)
    found = read_triangles(path)
    if isinstance(found, np.ndarray):
        return _cloud(found, str(path), say)
    surface = _outward(found.normalised(found.frame))
    if (corners := _corners(surface)) is not None:
        scan = _smoothed(corners, found.frame, str(path), say, measured=False)
        if scan.points is not corners:
            return scan
    say(f"{path}: {len(surface.triangles):,} triangles, {num_points:,} points drawn from them")
    return Scan(sample_surface(flat_mesh(surface), num_points, generator("scan")), found.frame)


def _corners(surface: Surface) -> np.ndarray | None:
    """Corners of a mesh as fine and even as a scanner's are, (N, 6) float32 with mean normals; None of another one.

    Points that are drawn from a triangle have its corners' noise, all alike; each corner has its own.
    """
    xyz, corners = np.unique(surface.vertices, axis=0, return_inverse=True)
    triangles = corners.reshape(-1)[surface.triangles]
    a, b, c = (xyz[triangles[:, i]] for i in range(3))
    lengths = np.linalg.norm(np.concatenate([b - a, c - b, a - c]), axis=1)
    if len(xyz) < FINE or np.quantile(lengths, 0.95) > EVEN * np.median(lengths):
        return None
    normals = np.zeros_like(xyz)
    for i in range(3):
        np.add.at(normals, triangles[:, i], np.cross(b - a, c - a))
    lengths = np.linalg.norm(normals, axis=1)
    known = lengths > 0
    return np.concatenate([xyz[known], normals[known] / lengths[known, None]], axis=1).astype(np.float32)


def _cloud(raw: np.ndarray, name: str, say: Callable[[str], None]) -> Scan:
    if raw.ndim == 2 and raw.shape[1] == 3:
        say(f"{name}: {len(raw):,} points without normals, estimating them")
    try:
        check_normals(raw)
        points = normalise_points(raw)
    except RejectError as error:
        raise RejectError(error.reason, f"{name}: {error.detail}") from error
    say(f"{name}: {len(points):,} of {len(raw):,} points taken")
    return _smoothed(points, _box(raw), name, say) if raw.shape[1] == 6 else Scan(points, _box(raw))


def _smoothed(points: np.ndarray, frame: Frame, name: str, say: Callable[[str], None], measured: bool = True) -> Scan:
    """Normalised points without most of their noise, which had made their box larger."""
    clean, noise = smoothed(points, generator("smoothed"), measured)
    if clean is points:
        return Scan(points, frame)
    say(f"{name}: noise of {noise:.2%} of the longest half-side, smoothed; {len(clean):,} points kept")
    within = _box(clean)
    x, y, z = (middle + frame.scale * off for middle, off in zip(frame.centre, within.centre, strict=True))
    return Scan(normalise_points(clean), Frame((x, y, z), frame.scale * within.scale))


def _box(points: np.ndarray) -> Frame:
    low, high = (tuple(end(points[:, :3], axis=0).tolist()) for end in (np.min, np.max))
    return Frame.of_box(low, high)


def _outward(surface: Surface) -> Surface:
    """The surface with its triangles counter-clockwise from outside; of several bodies each, where some are not."""
    import trimesh

    joined: Any = trimesh.Trimesh(surface.vertices, surface.triangles)  # its vertices are merged
    if not joined.is_winding_consistent:
        trimesh.repair.fix_normals(joined, multibody=True)
        surface = Surface(np.asarray(joined.vertices), np.asarray(joined.faces, np.int64))
    if surface.volume < 0:  # inside out
        surface = Surface(surface.vertices, surface.triangles[:, ::-1])
    return surface


def _solid(path: Path, num_points: int, say: Callable[[str], None]) -> Scan:
    with Sandbox(sample_step, 1, TIMEOUT_S, MEMORY_MIB) as sandbox:
        result = next(sandbox.map([SampleTask(path.resolve(), num_points)]))
    if isinstance(result, Failure):
        raise RejectError(result.reason, f"{path}: {result.detail}")
    points, frame = result
    say(f"{path}: a solid, {num_points:,} points drawn from its surface")
    return Scan(points, frame)


def sample_step(task: SampleTask) -> tuple[np.ndarray, Frame]:
    """Points on a STEP file's shape in its normalised frame, and that. Run it in a sandbox.

    Raises:
        RejectError: it cannot be read, or has no surface.
    """
    from pipeline.cad.exchange.step import read_step
    from pipeline.cad.solids import kernel

    shape = read_step(task.path)
    frame = Frame.of_box(*kernel.bounding_box(shape))
    mesh: Mesh = kernel.tessellate(shape, DEFLECTION * frame.scale).normalised(frame)
    return sample_surface(mesh, task.num_points, generator("scan")), frame
