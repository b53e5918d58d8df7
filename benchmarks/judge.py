"""Programs judged and sampled without the kernel, per second on one core, on real models: prints one JSON object.

    python benchmarks/judge.py [DATASET] [--models N] [--points 4096] [--cloud 1024]

``judgements_per_s``: programs of which so many points are told inside from outside; ``clouds_per_s``: programs whose
surface gets a cloud with normals; by processor time. ``…_over_kernel``: how many times what the kernel does, which
builds the solid and its mesh, and asks rays or samples triangles. ``agreement``: the share of points of which both say
the same (a mesh cuts round walls short); ``chamfer_over_noise``: between their clouds, over that of two of the mesh.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from _common import add_dataset, parse, read_dataset

from pipeline.cad.language.program import CadProgram, Frame
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.solids import kernel
from pipeline.cad.solids.boundary import sample_boundary
from pipeline.cad.solids.distances import chamfer
from pipeline.cad.solids.prisms import inside
from pipeline.cad.solids.rays import RayScene
from pipeline.cad.solids.sampling import sample_surface
from pipeline.geometry.draw import normalised_mesh
from pipeline.runtime.seeds import generator

T = TypeVar("T")
REPEATS = 5  # of what takes less than a millisecond: the median counts


class Watch:
    """Processor seconds by what they were spent on, of each model."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, work: Callable[[], T], repeats: int = 1) -> T:
        """What the work gives."""
        taken = []
        for _ in range(repeats):
            begin = time.process_time()
            result = work()
            taken.append(time.process_time() - begin)
        self.seconds[name].append(float(np.median(taken)))
        return result

    def total(self, *names: str) -> float:
        """Seconds for all models."""
        return sum(sum(self.seconds[name]) for name in names)


def measure(program: CadProgram, num_points: int, cloud_size: int, watch: Watch) -> tuple[float, float, float]:
    """Judge and sample one program both ways: agreement, chamfer distance of the clouds, and that of the mesh's own."""
    mesh = watch("mesh", lambda: normalised_mesh(program))
    program = program.normalised(Frame.of_box(*kernel.bounding_box(kernel.build(program))))
    points = generator("points").uniform(-1.05, 1.05, (num_points, 3))
    judged = watch("judge", lambda: inside(program, points), REPEATS)
    cloud = watch("cloud", lambda: sample_boundary(program, cloud_size, generator("cloud")), REPEATS)
    asked = watch("rays", lambda: RayScene.of(mesh).contains(points))
    sampled = watch("sample", lambda: sample_surface(mesh, cloud_size, generator("sample")))
    other = sample_surface(mesh, cloud_size, generator("other sample"))
    distance, noise = (chamfer(each, sampled)["chamfer_l1_mean"] for each in (cloud, other))
    return float((judged == asked).mean()), distance, noise


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_dataset(parser)
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--cloud", type=int, default=1024)
    arguments = parse(parser, models=3)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        path, entries = read_dataset(arguments, Path(folder))
        dataset = open_dataset(path)
        programs = [documents.loads(dataset.read(f"json/{entry.id}.json")) for entry in entries]
    measure(programs[0], arguments.points, arguments.cloud, Watch())  # imports, and the kernel's first solid
    measured = np.array([measure(program, arguments.points, arguments.cloud, watch) for program in programs])
    judge, cloud = watch.total("judge"), watch.total("cloud")
    figures = {
        "judgements_per_s": round(len(programs) / judge),
        "judgements_per_s_median": round(1 / float(np.median(watch.seconds["judge"]))),
        "clouds_per_s": round(len(programs) / cloud),
        "clouds_per_s_median": round(1 / float(np.median(watch.seconds["cloud"]))),
        "judgements_over_kernel": round(watch.total("mesh", "rays") / judge, 1),
        "clouds_over_kernel": round(watch.total("mesh", "sample") / cloud, 1),
        "agreement": round(float(measured[:, 0].mean()), 5),
        "chamfer_over_noise": round(float((measured[:, 1] / measured[:, 2]).mean()), 4),
        "models": len(programs),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
