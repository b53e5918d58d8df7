"""Our scripts in the libraries that they are for: prints one JSON object, for each library.

    python benchmarks/libraries.py [DATASET] [--models N] [--cadquery PYTHON] [--build123d PYTHON]

Every model is written as a script of CadQuery and of build123d, which is run there (`make libraries` sets up an
environment for each, where PYTHON is looked for if it is not given). ``same`` counts those that have the volume of our
own solid within a millionth, ``differ`` says of the others by how much, or why not; ``read_back_same`` is the same for
what is read off the script; ``seconds`` is the median of running one. ``step_same`` counts the models whose STEP file
has that volume and our solid's size when the library opens it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, add_dataset, parse, read_dataset

from pipeline.cad.exchange.formats import Library
from pipeline.cad.exchange.scripts import read_script, script
from pipeline.cad.language.program import CadProgram
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.runtime.errors import RejectError

SAME = 1e-6  # of the volume
# Runs the scripts, or opens the STEP files, that it is given the names of, in a process that imports the library once.
RUNNER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import {library} as library
def opened(path):
    return library.import_step(path) if hasattr(library, "import_step") else library.importers.importStep(path)
for path in sys.stdin.read().split("\\n"):
    begun, names = time.perf_counter(), {{}}
    try:
        if path.endswith(".step"):
            part = opened(path)
        else:
            exec(compile(open(path).read(), path, "exec"), names)
            part = names["part"]
        if hasattr(part, "vals"):
            part = library.Compound.makeCompound(part.vals())
            box, volume = part.BoundingBox(1e-6), part.Volume()
            size = [box.xlen, box.ylen, box.zlen]
        else:
            box, volume = part.bounding_box(), part.volume
            size = [box.size.X, box.size.Y, box.size.Z]
        said = {{"volume": volume, "size": size}}
    except Exception as error:
        said = {{"error": f"{{type(error).__name__}}: {{error}}"[:200]}}
    print(json.dumps({{**said, "seconds": time.perf_counter() - begun}}), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A program, and where its STEP file goes."""

    program: CadProgram
    step: Path


@dataclass(frozen=True, slots=True)
class Built:
    """Volume and size of our solid, in millimetres, and the volume of what is read off each library's script."""

    volume: float
    size: list[float]
    read_back: dict[Library, float]


def build(task: Task) -> tuple[float, list[float], dict[Library, float]]:
    """Build a program, and write it as STEP; what ``Built`` holds."""
    from pipeline.cad.exchange.step import write_step
    from pipeline.cad.solids import kernel

    def volume(built: CadProgram) -> float:
        return kernel.volume(kernel.build(built)) * 1e9

    shape = kernel.build(task.program)
    write_step(shape, task.step, task.step.stem)
    low, high = kernel.bounding_box(shape)
    read_back = {library: volume(read_script(script(task.program, library))) for library in Library}
    return volume(task.program), [(high[i] - low[i]) * 1e3 for i in range(3)], read_back


def run(python: Path, library: Library, paths: list[Path]) -> list[dict[str, Any]]:
    """What each script builds in its library: ``volume`` or ``error``, and ``seconds``."""
    done = subprocess.run(
        [python, "-c", RUNNER.format(library=library)],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(said) < len(paths):
        sys.exit(f"{library} stopped at {paths[len(said)].name}: {done.stderr[-2000:]}")
    return said


def compare(truths: dict[str, Built], said: list[dict[str, Any]], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one library, of its scripts and of STEP files."""
    differ = {}
    for (name, truth), result in zip(truths.items(), said, strict=True):
        if "error" in result:
            differ[name] = result["error"]
        elif abs(result["volume"] / truth.volume - 1) > SAME:
            differ[name] = f"{result['volume'] / truth.volume - 1:+.2e} of the volume"
    step_same = [
        "error" not in result
        and abs(result["volume"] / truth.volume - 1) <= SAME
        and np.allclose(result["size"], truth.size, rtol=0, atol=1e-3 * max(truth.size))  # boxes are a little large
        for truth, result in zip(truths.values(), steps, strict=True)
    ]
    seconds = statistics.median(result["seconds"] for result in said)
    return {
        "same": len(truths) - len(differ),
        "differ": differ,
        "seconds": round(seconds, 4),
        "step_same": sum(step_same),
    }


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset(parser)
    for library in Library:
        python = ROOT / f".venv-{library}" / "bin" / "python"
        parser.add_argument(f"--{library}", type=Path, default=python, help=f"default: {python.relative_to(ROOT)}")
    arguments = parse(parser, models=6)
    with tempfile.TemporaryDirectory() as folder:
        path, entries = read_dataset(arguments, Path(folder))
        programs: dict[str, CadProgram] = {}
        for entry in entries:
            try:
                programs[entry.id] = documents.loads(open_dataset(path).read(f"json/{entry.id}.json"))
            except RejectError as error:
                print(f"{entry.id}: {error}", file=sys.stderr)
        tasks = [Task(program, Path(folder) / f"{i}.step") for i, program in enumerate(programs.values())]
        with Sandbox(build, cores(), 120.0, 4096) as sandbox:
            results = list(sandbox.map(tasks))
        named = dict(zip(programs, results, strict=True))
        truths = {name: Built(*result) for name, result in named.items() if not isinstance(result, Failure)}
        steps = [task.step for task, result in zip(tasks, results, strict=True) if not isinstance(result, Failure)]
        report: dict[str, Any] = {"models": len(entries), "built": len(truths)}
        for library in Library:
            python = getattr(arguments, library)
            back = [abs(truth.read_back[library] / truth.volume - 1) <= SAME for truth in truths.values()]
            report[library] = {"read_back_same": sum(back)}
            if not python.exists():
                report[library]["skipped"] = f"no {python}: `make libraries` makes it"
                continue
            paths = [Path(folder) / f"{i}.{library}.py" for i in range(len(truths))]
            for script_path, name in zip(paths, truths, strict=True):
                script_path.write_text(script(programs[name], library))
            report[library] |= compare(truths, run(python, library, paths), run(python, library, steps))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
