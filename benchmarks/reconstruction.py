"""From a scan to a program, on real models: prints one JSON object.

    python benchmarks/reconstruction.py [DATASET] [--limit N] [--only greedy,search_20s] [--checkpoint FOLDER]

Real models that nothing was trained on, points alone and no caption: ``greedy``, what the checkpoint writes;
``best_of_32``, the nearest to the cloud of so many candidates; ``search_20s``, what search makes of the first in so
long, or of the cloud alone where there is no checkpoint. ``image_``: the same from pictures alone, the most like them,
and search from eight candidates. ``text_greedy`` is shown the caption alone. ``scan_``: from a simulated scan, with
noise of 0.01 of the longest half-side and a fifth of the surface missing; ``mesh_``: from a file of a fine mesh whose
corners have noise of 0.01. Each has ``iou_mean`` and ``iou_median`` of the solids, with 95 % intervals by bootstrap
over models, ``chamfer_squared_median_x1000`` of 8,192 points a side in a box whose longest side is 1 (cadrille's
frame), ``invalid``, the share without a watertight solid, whose IoU counts as 0, and ``seconds_per_part``.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, add_dataset, parse, read_dataset
from _reconstruction import Answer, Part, Shown, judged, work
from PIL import Image

from pipeline.cad.language.program import Frame
from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores, start_server
from pipeline.execution.workers import Workers
from pipeline.generation.inputs import UserInputs
from pipeline.generation.pretrained import CadMllm
from pipeline.generation.search.search import Budget, search
from pipeline.metrics.statistics import interval
from pipeline.planning.params import Params
from pipeline.runtime.errors import UserError
from stages.tools.checkpoints import PACKAGED, folder_of

WHOLE = Frame((0.0, 0.0, 0.0), 1.0)  # clouds and programs stay as they are normalised


class Ways:
    """How programs are made, by name.

    Args:
        model: None where there is no checkpoint.
        bits: of the codec.
        search_s: seconds of search.
    """

    def __init__(self, model: CadMllm | None, bits: int, search_s: float) -> None:
        self.model, self.bits, self.search_s = model, bits, search_s
        self.searching = f"search_{search_s:g}s"
        of_cloud = ["greedy", "best_of_32", self.searching]
        of_faulty = [f"{kind}_{name}" for kind in ("scan", "mesh") for name in of_cloud]
        of_pictures = [f"image_{name}" for name in of_cloud]
        self.names = [*of_cloud, *of_pictures, "text_greedy", *of_faulty]

    def write(self, name: str, shown: Shown, caption: str) -> tuple[int, ...]:
        """A program; none at all where search finds none.

        Raises:
            UserError: the checkpoint does not know what it is shown.
        """
        if name.startswith("image_"):
            given = UserInputs("", None, None, tuple(map(Image.fromarray, shown.views)))
            if name == f"image_{self.searching}":
                return self._generated(given, 8, self.search_s)
            return self._generated(given, 32 if name == "image_best_of_32" else 1)
        faulty = {"scan_": shown.scan, "mesh_": shown.mesh}
        kind = next((each for each in faulty if name.startswith(each)), "")
        cloud = faulty.get(kind, shown.cloud)
        match name.removeprefix(kind):
            case "greedy":
                return self._generated(UserInputs("", cloud, WHOLE, ()))
            case "best_of_32":
                return self._generated(UserInputs("", cloud, WHOLE, ()), 32)
            case "text_greedy":
                return self._generated(UserInputs(caption, None, None, ()))
        starts = [] if self.model is None else [self._generated(UserInputs("", cloud, WHOLE, ()))]
        found = search(cloud, self.bits, starts, 0, Workers(), Budget.of(self.search_s, None))
        return found.tokens or ()

    def _generated(self, given: UserInputs, num_candidates: int = 1, search_s: float | None = None) -> tuple[int, ...]:
        if self.model is None:
            raise UserError("there is no checkpoint; name its folder with --checkpoint")
        best, *_ = self.model.generate_from(given, num_candidates, num_workers=cores(), search_s=search_s)
        return best.candidate.tokens


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one way, failures counted."""
    ious = [result["metrics"]["volumetric_iou"] or 0.0 for result in results]
    chamfer = statistics.median(result["metrics"]["chamfer_squared_sum_unit_cube"] for result in results)
    return {
        "iou_mean": round(statistics.fmean(ious), 4),
        "iou_mean_95": [round(bound, 4) for bound in interval(ious)],
        "iou_median": round(statistics.median(ious), 4),
        "iou_median_95": [round(bound, 4) for bound in interval(ious, of=np.median)],
        "chamfer_squared_median_x1000": round(1000 * chamfer, 4),
        "invalid": round(sum(not result["valid"] for result in results) / len(results), 4),
        "seconds_per_part": round(statistics.fmean(result["seconds"] for result in results), 2),
    }


def measure(
    ways: Ways, names: Sequence[str], parts: Sequence[tuple[str, Part]], sandbox: Sandbox[Any, Any]
) -> dict[str, Any]:
    """Figures by name, or why there are none."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    skipped: dict[str, str] = {}
    for number, (caption, part) in enumerate(parts, 1):
        (shown,) = sandbox.map([part])
        if isinstance(shown, Failure):
            sys.exit(f"model {number} cannot be built: {shown.reason}: {shown.detail}")
        for name in names:
            if name in skipped:
                continue
            started = time.perf_counter()
            try:
                tokens = ways.write(name, shown, caption)
            except UserError as error:
                skipped[name] = str(error)
                continue
            seconds = time.perf_counter() - started
            (found,) = judged(sandbox, [Answer(part, tokens, ways.bits, shown.true_points)])
            results[name].append({**found, "seconds": seconds})
        ious = {name: found[-1]["metrics"]["volumetric_iou"] for name, found in results.items() if found}
        print(f"{number}/{len(parts)}", ious, file=sys.stderr)
    return {name: {"skipped": skipped[name]} if name in skipped else summary(found) for name, found in results.items()}


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Which one is measured."""
    parser.add_argument("--checkpoint", type=Path, default=PACKAGED, help="its folder; default: the package's networks")


def model_of(checkpoint: Path, is_smoke: bool) -> CadMllm | None:
    """A checkpoint; None where it is not there, and in the smallest form."""
    if is_smoke:
        return None
    folder = folder_of(checkpoint)
    return CadMllm.from_pretrained(folder) if folder.is_dir() else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset(parser)
    parser.add_argument("--only", help="some of the ways, by name, with commas; all if left out")
    add_checkpoint(parser)
    parser.add_argument("--search-s", type=float, default=20.0, help="seconds of search for a part")
    options = parse(parser, models=2, search_s=1.0)
    start_server("pipeline.generation.search.search", "pipeline.generation.select")
    model = model_of(options.checkpoint, options.smoke)
    shapes = {} if model is None else model.model.feature_shapes
    num_views, size = (shapes["image"][0], model.encoders.image_size) if model and "image" in shapes else (0, 0)
    bits = Params.load(ROOT / "params.yaml").codec.bits if model is None else model.model.grammar.bits
    ways = Ways(model, bits, options.search_s)
    names = options.only.split(",") if options.only else ways.names
    if unknown := sorted(set(names) - set(ways.names)):
        parser.error(f"--only {', '.join(unknown)}: there are {', '.join(ways.names)}")
    with tempfile.TemporaryDirectory() as folder, Sandbox(work, cores(), 60, 4096) as sandbox:
        path, entries = read_dataset(options, Path(folder))
        dataset = open_dataset(path)
        faulty = any(name.startswith(("scan_", "mesh_")) for name in names)
        parts = [
            (entry.caption, Part(dataset.read(f"json/{entry.id}.json"), seed, num_views, size, faulty))
            for seed, entry in enumerate(entries)
        ]
        figures = measure(ways, names, parts, sandbox)
    checkpoint = None if model is None else options.checkpoint.name
    print(json.dumps({"models": len(parts), "checkpoint": checkpoint, **figures}))


if __name__ == "__main__":
    main()
