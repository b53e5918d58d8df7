"""Point clouds of a user's own: read, checked, brought into the normalised frame, with normals."""

import io
import re
import zipfile

import numpy as np

from pipeline.cad.solids.normals import estimate_normals
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator
from pipeline.shards.arrays import parse_array

DENSE = 32_768  # points of a larger cloud without normals that get them: thin walls are then some points thick
MOST_BYTES = 512 << 20  # of an array in a .npz: it may be packed to a thousandth
LOOKED_AT = 1_000_000  # points that say how the surface lies about them
COMMENT = re.compile("(#|//).*")


def normalise_points(points: np.ndarray) -> np.ndarray:
    """Centre a cloud's bounding box on the origin and scale its longest half-side to 1.

    Args:
        points: (N, 3) or (N, 6) finite numbers; columns 3 to 5 are normals.

    Returns:
        (N, 6) float32; normals estimated from neighbours (``estimate_normals``) where missing. Of more than ``DENSE``
        points without normals so many are drawn, always the same.

    Raises:
        RejectError: ``bad_points``.
    """
    if points.ndim != 2 or points.shape[1] not in (3, 6) or len(points) < 16:
        needed = "(N, 3), or (N, 6) with normals, and N >= 16 are needed"
        raise RejectError("bad_points", f"shape {points.shape}; {needed}")
    if not (np.issubdtype(points.dtype, np.floating) or np.issubdtype(points.dtype, np.integer)):
        raise RejectError("bad_points", f"dtype {points.dtype}")
    points = points.astype(np.float64)
    if unusable := len(points) - int(np.isfinite(points).all(axis=1).sum()):
        raise RejectError("bad_points", f"NaN or infinity in {unusable:,} of {len(points):,} points; leave them out")
    low, high = points[:, :3].min(axis=0), points[:, :3].max(axis=0)
    half = (high - low).max() / 2
    if not half > 0:
        raise RejectError("bad_points", "all points are one")
    xyz = (points[:, :3] - (low + high) / 2) / half
    xyz, normals = (xyz, points[:, 3:]) if points.shape[1] == 6 else _with_normals(xyz)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    if (lengths < 1e-6).any():
        raise RejectError("bad_points", "a normal of length 0")
    return np.concatenate([xyz, normals / lengths], axis=1).astype(np.float32)


def _with_normals(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A cloud, thinned where it is large, and its normals."""
    if len(xyz) > LOOKED_AT:
        xyz = draw_points(xyz, LOOKED_AT, generator("looked at"))
    different, which = np.unique(xyz, axis=0, return_inverse=True)
    if np.linalg.matrix_rank(different - different.mean(axis=0), tol=1e-6 * np.sqrt(len(different))) < 2:
        raise RejectError("bad_points", "all points lie on a line")
    if len(different) > DENSE:
        different = generator("dense").permutation(different)
        return different[:DENSE], estimate_normals(different, DENSE)
    if len(different) < len(xyz):
        return xyz, estimate_normals(different)[which]
    return xyz, estimate_normals(xyz)


def check_normals(points: np.ndarray) -> None:
    """Whether columns 3 to 5 of a scan, where it has them, are unit normals, and not colours for example.

    Raises:
        RejectError: ``bad_points``.
    """
    if points.ndim == 2 and points.shape[1] == 6 and points.dtype.kind in "fiu":
        lengths = np.linalg.norm(points[:, 3:].astype(float), axis=1)
        if (np.abs(lengths - 1) > 0.1).any():
            raise RejectError("bad_points", "columns 4 to 6 are no unit normals; leave them out")


def draw_points(cloud: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many of a cloud's points, one of them more than once only where there are fewer."""
    return cloud[rng.choice(len(cloud), count, replace=len(cloud) < count)]


def read_array(data: bytes, name: str) -> np.ndarray:
    """The array in a ``.npy`` or ``.npz`` file (``points`` and, where there, ``normals``); nothing is unpickled.

    Raises:
        RejectError: ``bad_points``.
    """
    if not data.startswith((b"\x93NUMPY", b"PK")):
        raise RejectError("bad_points", f"{name} is no .npy or .npz file")
    try:
        return _unpacked(data) if data.startswith(b"PK") else parse_array(data)
    except MemoryError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise whatever the damage leads to
        raise RejectError("bad_points", f"{name}: {error!s:.200}" if str(error) else f"{name}: {error!r}") from error


def _unpacked(data: bytes) -> np.ndarray:
    """The cloud in a ``.npz``, no more of it than ``MOST_BYTES``, whatever it would unpack to."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()

        def array(name: str) -> np.ndarray:
            with archive.open(name) as file:
                unpacked = file.read(MOST_BYTES + 1)
            if len(unpacked) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES >> 20} MiB in {name}")
            return parse_array(unpacked)

        points = array("points.npy" if "points.npy" in names else names[0])
        return np.concatenate([points, array("normals.npy")], axis=1) if "normals.npy" in names else points


def read_text(data: bytes, name: str) -> np.ndarray:
    """The cloud in a text file: a point in each line, x y z, or x y z and a unit normal; after one line of headings or
    the number of points, where there is one. What follows ``#`` or ``//`` is a comment.

    Raises:
        RejectError: ``bad_points``.
    """
    text = data.decode("utf-8-sig", errors="replace").replace(",", " ").replace(";", " ")
    lines = [line for line in (COMMENT.sub("", line).strip() for line in text.splitlines()) if line]
    if lines and not _is_point(lines[0]):
        lines = lines[1:]
    if not lines:
        raise RejectError("bad_points", f"{name}: no points in it")
    try:
        return np.loadtxt(lines, ndmin=2)
    except ValueError as error:
        raise RejectError("bad_points", f"{name}: {error}") from error


def _is_point(line: str) -> bool:
    """Whether a line has several numbers and nothing else."""
    try:
        return len([float(word) for word in line.split()]) > 1
    except ValueError:
        return False
