"""``cadmllm cad``: CAD files by themselves, with nothing else of the pipeline set up."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cad.exchange.formats import (
    PROGRAMS,
    READABLE,
    SCANS,
    SCRIPTS,
    Library,
    StepSchema,
    Unit,
    check_file,
    check_pair,
    check_picture,
    check_program,
    check_unit,
    check_written_unit,
)
from pipeline.cad.parts.captions import count
from pipeline.runtime.commands import command
from pipeline.runtime.errors import RejectError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.cad.language.program import CadProgram

cad = typer.Typer(no_args_is_help=True, help="Convert, describe and check CAD files.")

Bits = Annotated[int, typer.Option(min=6, max=12, help="Of a value, for tokens.")]
Tolerance = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the volume that rounding may cost.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that one model may take in the CAD kernel.")]
Memory = Annotated[int, typer.Option(min=256, help="MiB that one model may take there.")]
FromUnit = Annotated[
    Unit | None,
    typer.Option(
        "--unit", help="Of the numbers in a mesh or cloud that is read; others have their own.", show_default="m"
    ),
]
ToUnit = Annotated[
    Unit | None,
    typer.Option("--to-unit", help="Of the numbers in a .stl, .ply or .obj that is written.", show_default="m"),
]
DEFAULT_TOLERANCE = 0.025  # the codec's own, which would cost `--help` numpy


@cad.command("convert")
@command
def convert_file(
    source: Annotated[Path, typer.Argument(help=".json (Omni-CAD), .tokens, .py, .step, .stl, .ply, .obj or .glb")],
    target: Annotated[Path, typer.Argument(help="The same, or .png: the eight views")],
    unit: FromUnit = None,
    to_unit: ToUnit = None,
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
    written = check_written_unit(target, to_unit)
    from pipeline.cad.exchange.files import ConvertTask, WriteOptions, convert

    schema = StepSchema.AP242 if ap242 else StepSchema.AP214
    options = WriteOptions(bits, tolerance, library, schema, views, image_size, written)
    task = ConvertTask(source.resolve(), target.resolve(), options, check_unit(source, unit))
    typer.echo(f"{target}{facts_text(_sandboxed(convert, task, source, timeout_s, memory_mib))}")


def _sandboxed(work: "Callable[[Any], Any]", task: Any, source: Path, timeout_s: float, memory_mib: int) -> Any:
    """What becomes of a file in a process of its own.

    Raises:
        RejectError: why nothing does.
    """
    from pipeline.execution.pool import Failure
    from pipeline.execution.sandbox import Sandbox

    with Sandbox(work, 1, timeout_s, memory_mib) as sandbox:
        result = next(sandbox.map([task]))
    if isinstance(result, Failure):
        raise RejectError(result.reason, f"{source}: {result.detail}")
    return result


@cad.command("show")
@command
def show(
    source: Annotated[Path, typer.Argument(help="A program, a solid, a mesh or a cloud")],
    unit: FromUnit = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw it, eight views in a .png.", dir_okay=False)] = None,
    timeout_s: Timeout = 60.0,
    memory_mib: Memory = 4096,
) -> None:
    """Say what a program builds, step by step, or how large another file's solid, mesh or cloud is, in millimetres."""
    check_file(source, tuple(dict.fromkeys(READABLE + SCANS)))
    numbers = check_unit(source, unit)
    if picture is not None:
        check_picture(source, picture)
    from pipeline.cad.exchange.files import ConvertTask, convert
    from pipeline.cad.exchange.showing import ShowTask, look
    from pipeline.cad.parts.describe import describe

    if source.suffix.lower() in PROGRAMS:
        lines = describe(program_in(source))
    else:
        facts = _sandboxed(look, ShowTask(source.resolve(), numbers), source, timeout_s, memory_mib)
        lines = look_text(source, facts)
    for line in lines:
        typer.echo(line)
    if picture is not None:
        task = ConvertTask(source.resolve(), picture.resolve(), unit=numbers)
        _sandboxed(convert, task, source, timeout_s, memory_mib)
        typer.echo(f"drawn: {picture}")


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


def look_text(source: Path, facts: dict[str, Any]) -> list[str]:
    """What is told of a file that holds no program, line by line."""
    closes = "volume" in facts
    match facts["kind"]:
        case "solid":
            kind = f"a solid of {count(facts['bodies'], 'body')}" if closes else "surfaces that enclose nothing"
            first = f"{kind}, {facts['faces']:,} faces".replace("bodys", "bodies")
        case "mesh":
            inside_out = ", inside out" if closes and facts["volume"] < 0 else ""
            closed = f"a closed mesh{inside_out}" if closes else "a mesh that does not close"
            first = f"{closed}, {facts['triangles']:,} triangles"
        case _:
            first = f"{facts['points']:,} points {'with' if facts['normals'] else 'without'} normals"
    low, high = ([round(length * 1000, 6) for length in facts[corner]] for corner in ("low", "high"))
    size = " x ".join(f"{most - least:.6g}" for least, most in zip(low, high, strict=True))
    corners = [f"({', '.join(f'{length:.6g}' for length in corner)})" for corner in (low, high)]
    lines = [f"{source}: {first}", f"{size} mm, from {corners[0]} to {corners[1]}"]
    if "area" in facts:
        volume = f", volume {abs(facts['volume']) * 1e9:.6g} mm³" if closes else ""
        lines.append(f"area {facts['area'] * 1e6:.6g} mm²{volume}")
    return lines


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
