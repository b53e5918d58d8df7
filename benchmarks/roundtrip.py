"""What quantisation costs in geometry: prints one JSON object.

    python benchmarks/roundtrip.py [DATASET] [--models N] [--bits 6 8 10 12] [--tolerance 0.01]

Every model is built, encoded, decoded and built again, at each number of bits: how many are valid solids, volumetric
IoU with the original, and chamfer distance to it (8,192 points in [-1, 1] cubed; ``chamfer_floor`` compares two
draws from the original). Failures count: an IoU of 0.
"""

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, add_dataset, parse, read_dataset

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import Frame
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.cad.solids import kernel
from pipeline.cad.solids.distances import chamfer
from pipeline.cad.solids.mesh import Mesh, Surface, volumetric_iou, watertight
from pipeline.cad.solids.sampling import sample_surface
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.planning.params import Params
from pipeline.runtime.errors import RejectError
from pipeline.runtime.seeds import generator

NUM_POINTS = 8192
DEFLECTION = 0.001  # of the longest half-side: fine enough that IoU measures the codec


@dataclass(frozen=True, slots=True)
class Task:
    """One model at several numbers of bits."""

    dataset: Path
    id: str
    bits: tuple[int, ...]
    tolerance: float


def solid_of(program: Any) -> tuple[Mesh, Surface]:
    """Triangles of a normalised program's solid, and the same with shared vertices."""
    mesh = kernel.tessellate(kernel.build(program), DEFLECTION)
    return mesh, watertight(mesh)


def roundtrip(task: Task) -> dict[str, Any]:
    """One model's figures, or a reason, for each number of bits."""
    program = documents.loads(open_dataset(task.dataset).read(f"json/{task.id}.json"))
    shape = kernel.build(program)
    frame = Frame.of_box(*kernel.bounding_box(shape))
    program, volume = program.normalised(frame), kernel.volume(shape) / frame.scale**3
    mesh, surface = solid_of(program)
    points = sample_surface(mesh, NUM_POINTS, generator("points"))[:, :3]
    floor = chamfer(points, sample_surface(mesh, NUM_POINTS, generator("floor"))[:, :3])["chamfer_l1_mean"]
    out: dict[str, Any] = {"floor": floor}
    for bits in task.bits:
        codec = Codec(bits, task.tolerance)
        tokens = codec.encode(program, volume)
        out[str(bits)] = {"tokens": len(tokens)}
        try:
            decoded, decoded_surface = solid_of(codec.decode(tokens))
        except RejectError as error:
            out[str(bits)] |= {"reason": error.reason, "detail": error.detail}
            continue
        decoded_points = sample_surface(decoded, NUM_POINTS, generator("decoded"))[:, :3]
        out[str(bits)] |= {
            "iou": volumetric_iou(surface, decoded_surface),
            "chamfer": chamfer(points, decoded_points)["chamfer_l1_mean"],
        }
    return out


def figures(results: dict[str, dict[str, Any]], bits: str, floor: float) -> dict[str, Any]:
    """The figures of one number of bits over all models."""
    good = [result[bits] for result in results.values() if "iou" in result[bits]]
    ious = np.array([result["iou"] for result in good] + [0.0] * (len(results) - len(good)))
    tokens = [result[bits]["tokens"] for result in results.values()]
    return {
        "valid": round(len(good) / len(results), 4),
        "iou_median": round(float(np.median(ious)), 4),
        "iou_mean": round(float(np.mean(ious)), 4),
        "iou_p10": round(float(np.percentile(ious, 10)), 4),
        "chamfer_median": round(float(np.median([result["chamfer"] for result in good])), 5),
        "chamfer_floor": round(floor, 5),
        "tokens_mean": round(float(np.mean(tokens)), 1),
        "tokens_median": float(np.median(tokens)),
        "failures": dict(Counter(r[bits]["reason"] for r in results.values() if "reason" in r[bits])),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_dataset(parser)
    parser.add_argument("--bits", type=int, nargs="+", default=[6, 8, 10, 12])
    default = Params.load(ROOT / "params.yaml").codec
    parser.add_argument("--tolerance", type=float, default=default.tolerance)
    parser.add_argument("--details", type=Path, help="write each model's figures to this file")
    arguments = parse(parser, models=2)
    results: dict[str, dict[str, Any]] = {}
    rejected: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(roundtrip, cores(), timeout_s=300, memory_mib=4096) as sandbox,
    ):
        dataset, entries = read_dataset(arguments, Path(folder))
        tasks = [Task(dataset, entry.id, tuple(arguments.bits), arguments.tolerance) for entry in entries]
        for task, result in zip(tasks, sandbox.map(tasks), strict=True):
            if isinstance(result, Failure):
                rejected[task.id] = f"{result.reason}: {result.detail}"
            else:
                results[task.id] = result
    if arguments.details:
        arguments.details.write_text(json.dumps(results, indent=1), encoding="utf-8")
    floor = float(np.median([result["floor"] for result in results.values()]))
    by_bits = {str(bits): figures(results, str(bits), floor) for bits in arguments.bits}
    summary = {"models": len(results), "rejected": rejected, "tolerance": arguments.tolerance}
    print(json.dumps({"default_bits": default.bits, **by_bits, **summary}))


if __name__ == "__main__":
    main()
