"""How fast files are measured: prints one JSON object.

    python benchmarks/metrics.py [--models 64] [--rounds 3]

Every figure of ``cadmllm metrics`` (two solids built and tessellated, 8,192 points a side, IoU, topology) for pairs of
different models, real ones where they are, else synthetic. ``models_per_s``: pairs per second on one core;
``scaling_2_cores``: how many times as many on two. Both take turns; medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _common import OMNICAD, parse

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox
from pipeline.metrics.assess import CompareTask, compare_files


def files(folder: Path, count: int) -> tuple[str, list[Path]]:
    """Where the models come from, and so many of them."""
    real = sorted(OMNICAD.glob("json/*/*.json"))
    if real:
        return "omnicad", real[:: max(1, len(real) // count)][:count]
    made = []
    for number in range(count):
        made.append(folder / f"{number}.json")
        made[-1].write_text(documents.dumps(synthesis.make_part(0, number, tuple(synthesis.FAMILIES)).program))
    return "synthetic", made


def rate(tasks: list[CompareTask], workers: int) -> tuple[float, int]:
    """Pairs per second, once the workers are up, and how many gave no figures."""
    with Sandbox(compare_files, workers, 60, 4096) as sandbox:
        list(sandbox.map(tasks[:workers]))
        started = time.perf_counter()
        failed = sum(isinstance(answer, Failure) for answer in sandbox.map(tasks))
        return len(tasks) / (time.perf_counter() - started), failed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parse(parser, models=3, rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        source, found = files(Path(folder), options.models)
        tasks = [CompareTask(a, b, 8192, 0, True) for a, b in zip(found, [*found[1:], found[0]], strict=True)]
        one, two = [], []
        for _ in range(options.rounds):
            (single, failed), (double, _) = rate(tasks, 1), rate(tasks, 2)
            one.append(single)
            two.append(double / single)
            print(f"{single:.2f} models/s on one core, {double:.2f} on two", file=sys.stderr)
    figures = {"models_per_s": round(statistics.median(one), 2), "scaling_2_cores": round(statistics.median(two), 2)}
    print(json.dumps({**figures, "models": len(found), "source": source, "failed": failed}))


if __name__ == "__main__":
    main()
