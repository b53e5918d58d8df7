"""CAD files by their suffix: programs (Omni-CAD JSON, tokens, scripts), solids (STEP), meshes (STL, PLY, OBJ, GLB) and
pictures.

The kernel is loaded where it works, in the sandbox: it takes a second, which a caller has no use for.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.exchange.formats import GLTF, MESHES, PICTURES, PROGRAMS, SCRIPTS, SOLIDS, Library, StepSchema, Unit
from pipeline.cad.exchange.scripts import read_script, script
from pipeline.cad.language.codec import TOLERANCE, Codec
from pipeline.cad.language.program import CadProgram, Frame
from pipeline.cad.language.tokens import GrammarError, Vocabulary
from pipeline.cad.omnicad import documents
from pipeline.cad.solids.mesh import Mesh, Surface, flat_mesh, merge_vertices, watertight
from pipeline.cad.solids.rendering import contact_sheet, render_views
from pipeline.runtime.atomic import write_bytes
from pipeline.runtime.errors import RejectError

DEFLECTION = 0.002  # of the longest half-side
MAX_MESH_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How a file is written.

    Attributes:
        bits, tolerance: of the codec, for tokens.
        library: for scripts.
        schema: for STEP.
        num_views, image_size: for pictures.
        unit: of the numbers in a mesh; those of glTF are metres.
    """

    bits: int = 8
    tolerance: float = TOLERANCE
    library: Library = Library.CADQUERY
    schema: StepSchema = StepSchema.AP214
    num_views: int = 8
    image_size: int = 224
    unit: Unit = Unit.M


@dataclass(frozen=True, slots=True)
class ConvertTask:
    """One file, or a program in metres, to another file.

    Attributes:
        unit: of the numbers in a mesh that is read.
    """

    source: Path | CadProgram
    target: Path
    options: WriteOptions = WriteOptions()
    unit: Unit = Unit.M


# -- programs -------------------------------------------------------------------------------------------------


def read_program(path: Path) -> CadProgram:
    """The program in an Omni-CAD JSON, a tokens file or a script, in metres.

    Raises:
        RejectError: why it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectError("unreadable_file", str(error)) from error
    suffix = path.suffix.lower()
    if suffix in SCRIPTS:
        return read_script(data)
    return _read_tokens(data) if suffix == ".tokens" else documents.loads(data)


def _read_tokens(data: bytes) -> CadProgram:
    """A tokens file: a JSON object with ``bits``, ``centre``, ``scale`` on the first line, then names of tokens."""
    try:
        head, _, body = data.decode("utf-8").partition("\n")
        header = json.loads(head)
        bits, scale = int(header["bits"]), float(header["scale"])
        x, y, z = (float(value) for value in header["centre"])
        if not (6 <= bits <= 12 and 0 < scale < documents.MAX_ABS and max(map(abs, (x, y, z))) < documents.MAX_ABS):
            raise ValueError("a number out of range")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise RejectError("malformed_tokens", f"the first line is no header: {error}") from error
    codec = Codec(bits)
    try:
        tokens = [codec.grammar.token(name) for name in body.split()]
    except GrammarError as error:
        raise RejectError("malformed_tokens", str(error)) from error
    return codec.decode(tokens).restored(Frame((x, y, z), scale))


def tokens_text(tokens: np.ndarray, bits: int, frame: Frame) -> str:
    """A tokens file: the frame, then one line for each extrusion."""
    vocabulary = Vocabulary(bits)
    header = json.dumps({"bits": bits, "centre": frame.centre, "scale": frame.scale})
    lines = [header]
    for token in tokens.tolist():
        name = vocabulary.name(token)
        if vocabulary.starts_extrude(token) or name == "END":
            lines.append(name)
        else:
            lines[-1] += f" {name}"
    return "\n".join(lines) + "\n"


# -- conversion -----------------------------------------------------------------------------------------------


def convert(task: ConvertTask) -> dict[str, Any]:
    """Read, build where needed, write. Run it in a sandbox.

    Returns:
        What is known of the result: ``tokens``, ``volume`` (cubic metres), ``area``, ``size``, ``triangles``.

    Raises:
        RejectError: why it cannot be done.
    """
    from pipeline.cad.exchange.step import read_step, write_step
    from pipeline.cad.solids import kernel

    source, suffix = task.source, task.target.suffix.lower()
    if isinstance(source, Path) and source.suffix.lower() in MESHES:
        return _write_surface(read_surface(source).scaled(task.unit.metres), task)
    program = source if isinstance(source, CadProgram) else None
    if isinstance(source, Path) and source.suffix.lower() in PROGRAMS:
        program = read_program(source)
    if program is not None and suffix in (".json", *SCRIPTS):
        text = documents.dumps(program) if suffix == ".json" else script(program, task.options.library)
        write_bytes(task.target, text.encode())
        return {"extrusions": len(program.extrudes)}
    shape = kernel.build(program) if program is not None else read_step(Path(str(source)))
    frame = Frame.of_box(*kernel.bounding_box(shape))
    facts = solid_facts(shape)
    if suffix == ".tokens":
        assert program is not None, "checked before"
        codec = Codec(task.options.bits, task.options.tolerance)
        tokens = codec.encode(program.normalised(frame), facts["volume"] / frame.scale**3)
        write_bytes(task.target, tokens_text(tokens, task.options.bits, frame).encode())
        return {**facts, "tokens": len(tokens)}
    if suffix in SOLIDS:
        _replace(task.target, lambda path: write_step(shape, path, task.target.stem, task.options.schema))
        return facts
    mesh = kernel.tessellate(shape, DEFLECTION * frame.scale)
    if suffix in PICTURES:
        write_bytes(task.target, _picture(mesh, frame, task.options))
        return facts
    return {**facts, **_write_surface(watertight(mesh), task)}


def solid_facts(shape: Any) -> dict[str, Any]:
    """``size``, ``area`` and ``volume`` in metres, square and cubic."""
    from pipeline.cad.solids import kernel

    low, high = kernel.bounding_box(shape)
    size = [high[i] - low[i] for i in range(3)]
    return {"size": size, "area": kernel.area(shape), "volume": kernel.volume(shape)}


def _replace(path: Path, write: Any) -> None:
    """Let ``write`` make a temporary file, and give it the name when it is whole."""
    part = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _picture(mesh: Mesh, frame: Frame, options: WriteOptions) -> bytes:
    return contact_sheet(render_views(mesh.normalised(frame), options.num_views, options.image_size))


# -- meshes ---------------------------------------------------------------------------------------------------


def read_surface(path: Path) -> Surface:
    """The triangles of an STL, PLY, OBJ or GLB file, vertices merged; GLB's upward y becomes z.

    Raises:
        RejectError: ``unreadable_file`` or ``malformed_mesh``.
    """
    return _merged(_surface(_load(path), path))


def read_surfaces(path: Path) -> tuple[Surface, Surface]:
    """``read_surface``, and the same triangles on the vertices that CAD-MLLM's tools get of the file.

    These are the corners of an STL as they are. Of another file, trimesh makes an STL for the tools, and merges on
    loading what agrees to eight decimals, in the file's unit.

    Raises:
        RejectError: as ``read_surface``.
    """
    loaded = _load(path)
    surface = _merged(_surface(loaded, path))
    if path.suffix.lower() != ".stl":
        try:
            loaded.process()
        except (ValueError, IndexError, OverflowError) as error:
            raise RejectError("malformed_mesh", f"{path.name}: {error}"[:200]) from error
    return surface, _surface(loaded, path)


def read_triangles(path: Path) -> Surface | np.ndarray:
    """The triangles of a file as they are, or of a PLY or OBJ without any its points: (N, 3), with normals (N, 6).

    Raises:
        RejectError: as ``read_surface``.
    """
    loaded = _load(path)
    return _surface(loaded, path) if hasattr(loaded, "faces") else _points(loaded, path)


def _load(path: Path) -> Any:
    """A ``trimesh.Trimesh`` with the vertices of the file, or where it has points alone, a ``PointCloud``."""
    import trimesh

    try:
        if path.stat().st_size > MAX_MESH_BYTES:
            raise OSError(f"{path.name} is larger than {MAX_MESH_BYTES >> 20:,} MiB")
        data = path.read_bytes()
        kind = path.suffix[1:].lower()
        bare = {"skip_materials": True} if kind == "glb" else {}  # its pictures may be of any kind and size
        loaded: Any = trimesh.load(io.BytesIO(data), file_type=kind, process=False, **bare)
        if isinstance(loaded, trimesh.Scene):
            loaded = loaded.to_mesh()
        if not isinstance(loaded, trimesh.Trimesh | trimesh.PointCloud):
            raise TypeError(f"a {type(loaded).__name__} and no mesh")
    except OSError as error:
        raise RejectError("unreadable_file", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # the readers raise whatever the damage leads to
        raise RejectError("malformed_mesh", f"{path.name}: {type(error).__name__}: {error}"[:200]) from error
    return loaded


def _surface(loaded: Any, path: Path) -> Surface:
    try:
        vertices = np.asarray(loaded.vertices, np.float64).reshape(-1, 3)
        triangles = np.asarray(getattr(loaded, "faces", ()), np.int64).reshape(-1, 3)
    except (ValueError, OverflowError, TypeError) as error:
        raise RejectError("malformed_mesh", f"{path.name}: {error}"[:200]) from error
    if len(triangles) and not 0 <= triangles.min() <= triangles.max() < len(vertices):
        raise RejectError("malformed_mesh", f"{path.name}: a triangle of vertices that are not there")
    if not len(triangles) or not np.isfinite(vertices).all() or np.abs(vertices).max() > documents.MAX_ABS * 1000:
        raise RejectError("malformed_mesh", f"{path.name}: no triangles, or no finite ones")
    if not np.ptp(vertices, axis=0).max() > 0:
        raise RejectError("malformed_mesh", f"{path.name}: all points are one")
    if path.suffix.lower() == ".glb":
        vertices = vertices[:, [0, 2, 1]] * (1, -1, 1)
    return Surface(vertices, triangles)


def _merged(surface: Surface) -> Surface:
    size = float(np.ptp(surface.vertices, axis=0).max())
    return merge_vertices(surface.vertices, surface.triangles, 1e-7 * size)


def _points(loaded: Any, path: Path) -> np.ndarray:
    """Points of a PLY or OBJ, with normals where each has one: trimesh keeps those of a PLY in its raw columns."""
    points = np.asarray(loaded.vertices, np.float64)
    if "_ply_raw" in loaded.metadata:
        columns = loaded.metadata["_ply_raw"]["vertex"]["data"]
        names = columns.keys() if isinstance(columns, dict) else columns.dtype.names
        normals = [columns[name] for name in ("nx", "ny", "nz") if name in names]
        return np.column_stack([points, *normals]) if len(normals) == 3 else points
    lines = [line[3:] for line in path.read_bytes().splitlines() if line.startswith(b"vn ")]
    try:
        return np.hstack([points, np.loadtxt(lines, ndmin=2)]) if len(lines) == len(points) else points
    except ValueError as error:
        raise RejectError("malformed_mesh", f"{path.name}: {error}"[:200]) from error


def _write_surface(surface: Surface, task: ConvertTask) -> dict[str, Any]:
    import trimesh

    suffix = task.target.suffix.lower()
    if suffix in PICTURES:
        write_bytes(task.target, _picture(flat_mesh(surface), surface.frame, task.options))
    else:
        vertices = surface.vertices / (1.0 if suffix in GLTF else task.options.unit.metres)
        if suffix in GLTF:  # y is up
            vertices = vertices[:, [0, 2, 1]] * (1, 1, -1)
        made: Any = trimesh.Trimesh(vertices, surface.triangles, process=False).export(file_type=suffix[1:])
        write_bytes(task.target, made.encode() if isinstance(made, str) else made)  # OBJ is text
    return {
        "triangles": len(surface.triangles),
        "watertight": surface.is_watertight,
        "size": np.ptp(surface.vertices, axis=0).tolist(),
        "volume": surface.volume,
    }


# -- checks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckTask:
    """One file to be checked."""

    path: Path
    bits: int
    tolerance: float


def check(task: CheckTask) -> dict[str, Any]:
    """Read a file, build what it describes, and see whether it closes. Run it in a sandbox.

    Returns:
        ``volume``, ``size``, for solids ``area``, and for programs ``extrusions`` and ``tokens``.

    Raises:
        RejectError: the first thing that is wrong.
    """
    from pipeline.cad.exchange.step import read_step
    from pipeline.cad.solids import kernel

    suffix = task.path.suffix.lower()
    if suffix in MESHES:
        surface = read_surface(task.path)
        if not surface.is_watertight:
            raise RejectError("not_watertight", "edges without a neighbour")
        return {"volume": surface.volume, "size": np.ptp(surface.vertices, axis=0).tolist()}
    program = read_program(task.path) if suffix in PROGRAMS else None
    shape = kernel.build(program) if program is not None else read_step(task.path)
    if not kernel.is_valid(shape):
        raise RejectError("invalid_solid", "BRepCheck finds faults")
    frame = Frame.of_box(*kernel.bounding_box(shape))
    facts = solid_facts(shape)
    watertight(kernel.tessellate(shape, DEFLECTION * frame.scale))
    if program is not None:
        facts["extrusions"] = len(program.extrudes)
        normalised = program.normalised(frame)
        facts["tokens"] = len(Codec(task.bits, task.tolerance).encode(normalised, facts["volume"] / frame.scale**3))
    return facts
