"""Programs to files that other tools read, in a sandboxed worker: STEP, STL, Omni-CAD JSON, a picture."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.cad import kernel, omnicad
from pipeline.cad.program import CadProgram
from pipeline.errors import UserError

SUFFIXES = (".step", ".stp", ".stl", ".json")
DEFLECTION = 0.002  # of the longest side


@dataclass(frozen=True, slots=True)
class ExportTask:
    """A program in metres and the file that it goes to; the suffix says which format."""

    program: CadProgram
    path: Path


def check_suffix(path: Path) -> None:
    """Raise ``UserError`` for a format that is not known."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: one of {', '.join(SUFFIXES)} is needed")


def export(task: ExportTask) -> dict[str, float]:
    """Build the solid, write the file.

    Returns:
        ``volume`` in cubic metres and the box's ``x``, ``y``, ``z`` in metres.

    Raises:
        RejectError: the program does not build.
    """
    shape = kernel.build(task.program)
    low, high = kernel.bounding_box(shape)
    size = [high[i] - low[i] for i in range(3)]
    match task.path.suffix.lower():
        case ".stl":
            kernel.write_stl(shape, task.path, DEFLECTION * max(size))
        case ".json":
            task.path.write_text(omnicad.dumps(task.program), encoding="utf-8")
        case _:
            kernel.write_step(shape, task.path)
    return {"volume": kernel.volume(shape), "x": size[0], "y": size[1], "z": size[2]}
