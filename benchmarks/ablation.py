"""What each part of search carries: prints one JSON object.

    python benchmarks/ablation.py [DATASET] [--models N] [--every 3] [--builds 2000] [--checkpoint FOLDER]

The real models of ``reconstruction.py``, clouds alone, with a budget of programs that are judged: the same on any
machine. ``whole`` is search as it is, ``first`` the program that it begins at. The others leave one part out:
``without_model`` begins at stacks of slabs alone, ``without_stacks`` at the model's program alone; ``without_volume``
looks at the surface of the cloud alone, ``without_surface`` at what is inside; ``without_polish`` leaves numbers where
the last change has put them; ``without_chains`` has one chain, with all judgements. Figures are those of
``reconstruction.py``; ``worse`` counts the parts whose IoU is lower by more than 0.02 than that of ``whole``.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from _common import ROOT, add_dataset, parse, read_dataset
from _reconstruction import Answer, Part, judged, work
from reconstruction import Ways, add_checkpoint, model_of, summary

from pipeline.cad.omnicad.dataset import open_dataset
from pipeline.execution.pool import Failure
from pipeline.execution.sandbox import Sandbox, cores, start_server
from pipeline.generation.search import search as searching
from pipeline.generation.search.judge import Judge
from pipeline.generation.search.proposals import Proposer
from pipeline.planning.params import Params

VARIANTS = (
    "whole",
    "without_model",
    "without_stacks",
    "without_volume",
    "without_surface",
    "without_polish",
    "without_chains",
)


@dataclass(frozen=True, slots=True)
class Task:
    """A cloud to be explained, from a first program, by a search with one part left out."""

    cloud: np.ndarray
    bits: int
    first: tuple[int, ...]
    variant: str
    builds: int


class Here:
    """In place of the processes of a search: this one, since parts are searched beside one another."""

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Results, in order."""
        for task in tasks:
            try:
                yield searching.work(task)
            except Exception as error:
                yield Failure("kernel_failed", str(error))


def searched(task: Task) -> tuple[int, ...]:
    """What the search finds; in a sandbox."""
    searching.searcher_of.cache_clear()
    share = {"without_volume": 0.0, "without_surface": 1.0}.get(task.variant, 0.5)
    starts = [] if task.variant == "without_model" or not task.first else [task.first]
    with (
        mock.patch.object(searching, "Judge", lambda evidence, codec: Judge(evidence, codec, volume=share)),
        mock.patch.object(searching, "CHAINS", 1 if task.variant == "without_chains" else searching.CHAINS),
        mock.patch.object(searching.Search, "_polish", polish_of(task.variant)),
        mock.patch.object(Proposer, "stacks", stacks_of(task.variant)),
    ):
        search = searching.Search(task.cloud, task.bits, starts, 0, Here())  # type: ignore[arg-type]
        return search.run(searching.Budget(task.builds)).tokens or ()


def polish_of(variant: str) -> Any:
    """How a search ends."""
    return (lambda _: None) if variant == "without_polish" else searching.Search._polish


def stacks_of(variant: str) -> Any:
    """What a search begins at besides the model's program."""
    return (lambda _: []) if variant == "without_stacks" else Proposer.stacks


def measure(
    ways: Ways, parts: list[Part], builds: int, sandbox: Sandbox[Any, Any], searchers: Sandbox[Task, Any]
) -> dict[str, Any]:
    """Figures by variant."""
    shown = [each for each in sandbox.map(parts) if not isinstance(each, Failure)]
    if len(shown) < len(parts):
        sys.exit(f"{len(parts) - len(shown)} models cannot be built")
    first = [() if ways.model is None else ways.write("greedy", each, "") for each in shown]
    programs: dict[str, list[tuple[int, ...]]] = {"first": first}
    for variant in VARIANTS:
        tasks = [Task(each.cloud, ways.bits, start, variant, builds) for each, start in zip(shown, first, strict=True)]
        found = searchers.map(tasks)
        programs[variant] = [() if isinstance(tokens, Failure) else tokens for tokens in found]
        print(variant, file=sys.stderr, flush=True)
    figures: dict[str, list[dict[str, Any]]] = {}
    for name, answers in programs.items():
        asked = [Answer(part, tokens, ways.bits, each.true_points) for part, tokens, each in zip(parts, answers, shown)]
        figures[name] = [{**result, "seconds": 0.0} for result in judged(sandbox, asked)]
    whole = ious(figures["whole"])
    return {
        name: {**summary(results), "worse": int((ious(results) < whole - 0.02).sum())}
        for name, results in figures.items()
    }


def ious(results: list[dict[str, Any]]) -> np.ndarray:
    """(n,) of each part; 0 where there is no solid."""
    return np.array([result["metrics"]["volumetric_iou"] or 0.0 for result in results])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset(parser)
    parser.add_argument("--every", type=int, default=3, help="take every so many-th model")
    parser.add_argument("--builds", type=int, default=2000, help="programs that are judged, of each part")
    add_checkpoint(parser)
    options = parse(parser, models=2, every=1, builds=50)
    start_server("pipeline.generation.search.search", "pipeline.generation.select")
    model = model_of(options.checkpoint, options.smoke)
    bits = Params.load(ROOT / "params.yaml").codec.bits if model is None else model.model.grammar.bits
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(work, cores(), 60, 4096) as sandbox,
        Sandbox(searched, cores(), 600, 4096) as searchers,
    ):
        path, entries = read_dataset(options, Path(folder))
        dataset = open_dataset(path)
        chosen = entries[:: options.every]
        parts = [Part(dataset.read(f"json/{entry.id}.json"), seed) for seed, entry in enumerate(chosen)]
        figures = measure(Ways(model, bits, 0.0), parts, options.builds, sandbox, searchers)
    checkpoint = None if model is None else options.checkpoint.name
    print(json.dumps({"models": len(parts), "builds": options.builds, "checkpoint": checkpoint, **figures}))


if __name__ == "__main__":
    main()
