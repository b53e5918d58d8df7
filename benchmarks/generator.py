"""Parts of no family beside real models: prints one JSON object.

    python benchmarks/generator.py [DATASET] [--models N] [--parts N] [--plot FILE.png]

Both are built and encoded as the corpus stage does it. Of each: how many it keeps, quantiles of what can be counted,
shares of what can be named. ``cpu_ms`` is what making a part takes, without the kernel.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, add_dataset, parse

from pipeline.cad.language.program import CadProgram
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.omnicad.listing import Entry
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.parts.synthesis import FAMILIES, make_part
from pipeline.cad.solids import kernel
from pipeline.corpus.prepare import PrepareTask, prepare, read_texts
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.planning.params import Params
from pipeline.runtime.errors import UserError

NO_LIMIT = 1 << 20  # tokens of a real model, which is not to be kept but looked at
QUANTILES = (10, 25, 50, 75, 90)
NUMBERS = {
    "tokens": "tokens of a program",
    "extrusions": "extrusions",
    "profiles": "profiles of a sketch",
    "loops": "loops of a profile",
    "curves": "curves of a loop",
    "thinnest": "shortest side over longest",
    "middle": "middle side over longest",
    "filled": "volume over its box",
}
NAMES = {
    "operations": "operation after the first",
    "extents": "extent",
    "planes": "normal of the sketch",
    "kinds": "curve",
}


def measure(task: PrepareTask) -> dict[str, list[Any]]:
    """All values of one model, by name. Raises ``RejectError`` as the corpus stage does."""
    record = prepare(task)
    program = documents.from_document(record["program"])
    low, high = np.array(kernel.bounding_box(kernel.build(program)))
    sides = np.sort(high - low)
    return {
        "tokens": [len(record["tokens"])],
        "extrusions": [len(program.extrudes)],
        "thinnest": [sides[0] / sides[2]],
        "middle": [sides[1] / sides[2]],
        "filled": [record["statistics"]["volume"] * record["frame"]["scale"] ** 3 / sides.prod()],
        **counted(program),
    }


def counted(program: CadProgram) -> dict[str, list[Any]]:
    """What a program is made of."""
    sketches = [sketch for extrude in program.extrudes for sketch in extrude.sketches]
    profiles = [profile for sketch in sketches for profile in sketch.profiles]
    loops = [loop for profile in profiles for loop in profile.loops]
    return {
        "profiles": [len(sketch.profiles) for sketch in sketches],
        "loops": [len(profile.loops) for profile in profiles],
        "curves": [len(loop.curves) for loop in loops],
        "operations": [extrude.operation.value for extrude in program.extrudes[1:]],
        "extents": [extrude.extent.kind.value for extrude in program.extrudes],
        "planes": [axis_of(sketch.plane.normal) for sketch in sketches],
        "kinds": [type(curve).__name__.lower() for loop in loops for curve in loop.curves],
    }


def axis_of(normal: Iterable[float]) -> str:
    """The axis that a normal is parallel to."""
    along = np.abs(list(normal))
    return "xyz"[int(along.argmax())] if along.max() > 1 - 1e-6 else "oblique"


def measured(tasks: Iterable[PrepareTask], p: Params) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """All values of all models together, and how many there are."""
    values: dict[str, list[Any]] = {name: [] for name in (*NUMBERS, *NAMES)}
    reasons: Counter[str] = Counter()
    kept = 0
    with Sandbox(measure, cores(), p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        for answer in sandbox.map(tasks):
            if isinstance(answer, Failure):
                reasons[answer.reason] += 1
                continue
            kept += 1
            for name, found in answer.items():
                values[name] += found
    number = kept + reasons.total()
    return values, {"models": number, "kept": round(kept / max(number, 1), 4), "reasons": dict(reasons)}


def summary(values: dict[str, list[Any]]) -> dict[str, Any]:
    """Quantiles and shares."""
    shares = {name: Counter(values[name]) for name in NAMES}
    return {
        **{name: [round(float(q), 3) for q in np.percentile(values[name], QUANTILES)] for name in NUMBERS},
        **{
            name: {key: round(n / counts.total(), 3) for key, n in sorted(counts.items())}
            for name, counts in shares.items()
        },
    }


def draw(path: Path, groups: dict[str, dict[str, list[Any]]]) -> None:
    """Histograms of one beside the other."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, plots = plt.subplots(3, 4, figsize=(14, 9), layout="constrained")
    for axes, (name, title) in zip(plots.flat, {**NUMBERS, **NAMES}.items(), strict=True):
        axes.set_title(title, fontsize=10)
        every = [value for values in groups.values() for value in values[name]]
        if name in NAMES:
            keys = sorted(set(every))
            for i, (label, values) in enumerate(groups.items()):
                heights = [values[name].count(key) / max(len(values[name]), 1) for key in keys]
                axes.bar(np.arange(len(keys)) + 0.4 * i, heights, 0.4, label=label)
            axes.set_xticks(np.arange(len(keys)) + 0.2, keys, fontsize=8)
            continue
        is_count = name in ("tokens", "extrusions", "profiles", "loops", "curves")
        low, high = min(every), np.percentile(every, 99.5)
        edges = np.geomspace(low, high + 1, 20) if is_count else np.linspace(0, 1, 20)
        if is_count and name != "tokens":
            edges = np.arange(0.5, min(high, 20) + 1)
        for label, values in groups.items():
            weights = np.full(len(values[name]), 1 / max(len(values[name]), 1))
            axes.hist(np.clip(values[name], edges[0], edges[-1]), edges, weights=weights, alpha=0.55, label=label)
        if name == "tokens":
            axes.set_xscale("log")
    plots.flat[0].legend(frameon=False)
    figure.savefig(path, format="png", dpi=110)


def main() -> None:
    """Make, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_dataset(parser)
    parser.add_argument("--parts", type=int, default=1000, help="how many are made")
    parser.add_argument("--plot", type=Path, help="write histograms of both to this file")
    arguments = parse(parser, models=2, parts=3, plot=Path(os.devnull))
    p = Params.load(ROOT / "pretraining" / "params.yaml")

    def task(entry: Entry, text: bytes, max_tokens: int) -> PrepareTask:
        return PrepareTask(entry, text, p.codec.bits, p.codec.tolerance, max_tokens)

    begin = time.process_time()
    parts = [make_part(0, number, tuple(FAMILIES), 1.0) for number in range(arguments.parts)]
    cpu_ms = (time.process_time() - begin) / arguments.parts * 1000
    made = (
        task(Entry(f"0000/{i:08d}", part.caption), documents.dumps(part.program).encode(), p.data.max_program_tokens)
        for i, part in enumerate(parts)
    )
    values, counts = measured(made, p)
    groups = {"general": values}
    result: dict[str, Any] = {"general": {**counts, "cpu_ms": round(cpu_ms, 2), **summary(values)}}
    try:
        dataset = open_dataset(arguments.dataset)
        read = read_texts(dataset, islice(dataset.listing(), arguments.models), Rejects())
        groups["real"], counts = measured((task(*each, NO_LIMIT) for each in read), p)
        result["real"] = {**counts, **summary(groups["real"])}
    except UserError as error:
        result["real"] = {"skipped": str(error)}
    if arguments.plot:
        draw(arguments.plot, groups)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
