"""``cadmllm cad``: CAD files by themselves, with nothing else of the pipeline set up."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cad.exchange.formats import (
    READABLE,
    SCRIPTS,
    Library,
    StepSchema,
    check_file,
    check_pair,
    check_program,
)
from pipeline.cad.parts.captions import count
from pipeline.runtime.commands import command
from pipeline.runtime.errors import RejectError, UserError

if TYPE_CHECKING:
    from pipeline.cad.language.program import CadProgram

cad = typer.Typer(no_args_is_help=True, help="Convert, describe and check CAD files.")

Bits = Annotated[int, typer.Option(min=6, max=12, help="Of a value, for tokens.")]
Tolerance = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the volume that rounding may cost.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that one model may take in the CAD kernel.")]
Memory = Annotated[int, typer.Option(min=256, help="MiB that one model may take there.")]
DEFAULT_TOLERANCE = 0.025  # the codec's own, which would cost `--help` numpy


@cad.command("convert")
@command
def convert_file(
    source: Annotated[Path, typer.Argument(help=".json (Omni-CAD), .tokens, .py, .step, .stl, .ply, .obj or .glb")],
    target: Annotated[Path, typer.Argument(help="The same, or .png: the eight views")],
    bits: Bits = 8,
    tolerance: Tolerance = DEFAULT_TOLERANCE,
    library: Annotated[Library, typer.Option(help="What a .py is written for.")] = Library.CADQUERY,
    ap242: Annotated[bool, typer.Option("--ap242", help="STEP AP242 in place of AP214.")] = False,
    views: Annotated[int, typer.Option(min=1, max=8, help="In a picture.")] = 8,
    image_size: Annotated[int, typer.Option(min=16, max=4096, help="Pixels of a view's side.")] = 224,
    timeout_s: Timeout = 60.0,
    memory_mib: Memory = 4096,
) -> None:
    """Turn one CAD file into another; the suffixes say which. Lengths are metres, in STEP and .py millimetres.

    A .py is a script of CadQuery or build123d. It is read back after a change by hand, never run.
    """
    check_pair(source, target)
    from pipeline.cad.exchange.files import ConvertTask, WriteOptions, convert
    from pipeline.execution.pool import Failure
    from pipeline.execution.sandbox import Sandbox

    schema = StepSchema.AP242 if ap242 else StepSchema.AP214
    options = WriteOptions(bits, tolerance, library, schema, views, image_size)
    with Sandbox(convert, 1, timeout_s, memory_mib) as sandbox:
        result = next(sandbox.map([ConvertTask(source.resolve(), target.resolve(), options)]))
    if isinstance(result, Failure):
        raise RejectError(result.reason, f"{source}: {result.detail}")
    typer.echo(f"{target}{facts_text(result)}")


@cad.command("show")
@command
def show(source: Annotated[Path, typer.Argument(help=".json (Omni-CAD), .tokens or .py")]) -> None:
    """Say what a program builds, step by step, in millimetres."""
    program = program_in(source)
    from pipeline.cad.parts.describe import describe

    for line in describe(program):
        typer.echo(line)


def program_in(path: Path) -> "CadProgram":
    """The program in a file, in metres.

    Raises:
        UserError: the file is of a kind that holds none. RejectError: it cannot be read.
    """
    check_program(path)
    from pipeline.cad.exchange.files import read_program

    try:
        return read_program(path)
    except RejectError as error:
        raise RejectError(error.reason, f"{path}: {error.detail}") from error


@cad.command("check")
@command
def check_files(
    paths: Annotated[list[Path], typer.Argument(help="Files, or folders with such files in them")],
    bits: Bits = 8,
    tolerance: Tolerance = DEFAULT_TOLERANCE,
    timeout_s: Timeout = 60.0,
    memory_mib: Memory = 4096,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: one for each core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each file.")] = False,
) -> None:
    """Read, build and close every model, and list what is wrong. Exits with 1 where something is."""
    files: list[Path] = []
    known = set(READABLE) - set(SCRIPTS)  # a folder's scripts may be any
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.suffix.lower() in known and p.is_file())
        else:
            check_file(path, READABLE)
            files.append(path)
    if not files:
        raise UserError(f"no CAD file ({', '.join(sorted(known))}) in {', '.join(map(str, paths))}")
    from pipeline.cad.exchange.files import CheckTask, check
    from pipeline.execution.pool import Failure
    from pipeline.execution.sandbox import Sandbox, cores
    from pipeline.runtime.progress import display

    reasons: Counter[str] = Counter()
    tasks = [CheckTask(path.resolve(), bits, tolerance) for path in files]
    with display("check") as progress, Sandbox(check, workers or cores(), timeout_s, memory_mib) as sandbox:
        for number, (path, result) in enumerate(zip(files, sandbox.map(tasks), strict=True), 1):
            failed = isinstance(result, Failure)
            if isinstance(result, Failure):
                reasons[result.reason] += 1
            if as_json:
                shown = {"reason": result.reason, "detail": result.detail} if isinstance(result, Failure) else result
                typer.echo(json.dumps({"file": str(path), "ok": not failed, **shown}))
            elif isinstance(result, Failure):
                typer.echo(f"{path}: {result.reason}" + (f": {result.detail}" if result.detail else ""))
            progress(number, len(files), "files checked")
    total = sum(reasons.values())
    if not as_json:
        listed = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        typer.echo(f"{len(files) - total} of {len(files)} files are fine" + (f"; {listed}" if listed else ""))
    if total:
        raise typer.Exit(1)


def facts_text(facts: dict[str, Any]) -> str:
    """What a conversion tells of its result, as text to follow a file's name."""
    parts = []
    if "extrusions" in facts:
        parts.append(count(facts["extrusions"], "extrusion"))
    if "tokens" in facts:
        parts.append(f"{facts['tokens']} tokens")
    if "triangles" in facts:
        parts.append(f"{facts['triangles']} triangles")
        if not facts["watertight"]:
            parts.append("not watertight")
    if "size" in facts:
        parts.append(" x ".join(f"{length * 1000:.4g}" for length in facts["size"]) + " mm")
    if "area" in facts:
        parts.append(f"{facts['area'] * 1e6:.4g} mm²")
    if "volume" in facts:
        parts.append(f"{facts['volume'] * 1e9:.4g} mm³")
    return ": " + ", ".join(parts) if parts else ""
