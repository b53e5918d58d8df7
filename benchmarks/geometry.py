"""Solids, points and views per second on real models: prints one JSON object.

    python benchmarks/geometry.py [DATASET] [--models N] [--points 4096] [--views 8] [--image-size 224]

The work of the ``geometry`` stage, from JSON to eight PNGs, in the same sandbox: on one core, on all cores, and how
one core's time splits. ``lost`` counts models that gave nothing, by reason.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _common import ROOT, add_dataset, parse, read_dataset

from pipeline.cad.language.program import Frame
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.solids import kernel
from pipeline.cad.solids.rendering import encode_png, render_views
from pipeline.cad.solids.sampling import sample_surface
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.geometry.draw import DEFLECTION
from pipeline.planning.params import Params
from pipeline.runtime.seeds import generator


@dataclass(frozen=True, slots=True)
class Task:
    """One model."""

    dataset: Path
    id: str
    num_points: int
    num_views: int
    image_size: int


def draw(task: Task) -> dict[str, float]:
    """Make one model's points and pictures; the seconds that each part took."""
    at = [time.perf_counter()]

    def lap() -> float:
        at.append(time.perf_counter())
        return at[-1] - at[-2]

    program = documents.loads(open_dataset(task.dataset).read(f"json/{task.id}.json"))
    spent = {"read": lap()}
    solid = kernel.build(program)
    spent["solid"] = lap()
    frame = Frame.of_box(*kernel.bounding_box(solid))
    mesh = kernel.tessellate(solid, DEFLECTION * frame.scale).normalised(frame)
    spent["mesh"] = lap()
    sample_surface(mesh, task.num_points, generator("points"))
    spent["points"] = lap()
    views = render_views(mesh, task.num_views, task.image_size)
    spent["views"] = lap()
    for view in views:
        encode_png(view)
    spent["png"] = lap()
    return spent


def run(tasks: list[Task], num_workers: int, warm: list[Task]) -> tuple[float, list[dict[str, float] | Failure]]:
    """Seconds for all tasks with workers that have come up already, and what each gave."""
    with Sandbox(draw, num_workers, timeout_s=120, memory_mib=4096) as sandbox:
        list(sandbox.map(warm * num_workers))
        started = time.perf_counter()
        results = list(sandbox.map(tasks))
        return time.perf_counter() - started, results


def main() -> None:
    """Measure and print."""
    settings = Params.load(ROOT / "params.yaml").geometry
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_dataset(parser)
    parser.add_argument("--points", type=int, default=settings.num_points)
    parser.add_argument("--views", type=int, default=settings.num_views)
    parser.add_argument("--image-size", type=int, default=settings.image_size)
    arguments = parse(parser, models=3, views=2)
    with tempfile.TemporaryDirectory() as folder:
        dataset, entries = read_dataset(arguments, Path(folder))
        tasks = [Task(dataset, entry.id, arguments.points, arguments.views, arguments.image_size) for entry in entries]
        warm = tasks[:2]
        seconds_all, results = run(tasks, cores(), warm)
        seconds_one, single = run(tasks, 1, warm) if cores() > 1 else (seconds_all, results)
    done = [result for result in single if not isinstance(result, Failure)]
    total = sum(sum(spent.values()) for spent in done)
    each = np.array([sum(spent.values()) for spent in done])
    figures = {
        "models_per_s": round(len(tasks) / seconds_all, 2),
        "cores": cores(),
        "models_per_s_one_core": round(len(tasks) / seconds_one, 2),
        "models": len(tasks),
        "lost": dict(Counter(result.reason for result in results if isinstance(result, Failure))),
        "share": {name: round(sum(spent[name] for spent in done) / total, 3) for name in done[0]},
        "seconds_median": round(float(np.median(each)), 3),
        "seconds_max": round(float(each.max()), 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
