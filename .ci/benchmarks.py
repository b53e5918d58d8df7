"""Each benchmark in its smallest form, to its end; as many at once as there are cores.

They are forked from one process, since each would import the same libraries for seconds.
"""

import gc
import importlib
import os
import runpy
import signal
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SHARED = (
    "peft",
    "pipeline.evaluation.evaluator",
    "pipeline.features.build",
    "pipeline.model.quantization",
    "pipeline.training.session",
)


def finish_one(running: dict[int, Path]) -> None:
    """Wait for a benchmark, which must not have failed: the others end with it."""
    pid, status = os.wait()
    path = running.pop(pid)
    if status:
        for other in running:
            os.kill(other, signal.SIGTERM)
        sys.exit(f"{path} failed")


def main() -> None:
    """Returns when all have run, and in each process that is a benchmark."""
    sys.path.insert(0, str(FOLDER))
    for name in SHARED:
        importlib.import_module(name)
    gc.freeze()
    running: dict[int, Path] = {}
    longest_first = sorted(FOLDER.glob("[!_]*.py"), key=lambda path: path.stat().st_size, reverse=True)
    for path in longest_first:
        if len(running) == len(os.sched_getaffinity(0)):
            finish_one(running)
        if child := os.fork():
            running[child] = path
            continue
        sys.argv = [str(path), "--smoke"]
        runpy.run_path(str(path), run_name="__main__")
        return
    while running:
        finish_one(running)


if __name__ == "__main__":
    main()
