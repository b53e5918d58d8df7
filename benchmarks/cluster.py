"""The same stages by processes of this machine and by a Ray cluster, of one worker and of all: prints one JSON object.

    python benchmarks/cluster.py [--models N]

Geometry and point features of synthetic parts, each after the workers have come up. ``scaling_…`` is all workers over
one, of as many as there are cores; ``over_local`` is geometry's time on the cluster over that of processes of this
machine; ``worker_start_s`` is what a command waits for the first workers. The shards are compared byte by byte.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _common import parse

from pipeline.corpus.build import build_corpus
from pipeline.execution.sandbox import cores
from pipeline.execution.settings import LOCAL, Execution
from pipeline.execution.workers import Workers
from pipeline.features.build import build_features
from pipeline.geometry.build import build_geometry
from pipeline.planning.params import Params
from pipeline.planning.presets import compose
from pipeline.runtime.fingerprint import sha256_folder
from pipeline.settings.yaml_files import plain
from pipeline.weights.resolve import build_models

SHARDS = 12  # for each of two workers, that the last one counts for little


def quiet(*_: object) -> None:
    """Show nothing."""


class Stages:
    """Geometry and features of a few parts, in a folder."""

    def __init__(self, p: Params, folder: Path) -> None:
        self.p, self.folder, self.runs = p, folder, 0
        build_corpus(
            p.data, p.codec, p.kernel, p.seed, folder / "scratch", folder / "corpus", Workers(), quiet, ("train",)
        )
        build_models(p.models, p.seed, folder / "scratch-models", folder / "models", quiet)

    def geometry(self, workers: Workers) -> tuple[float, Path]:
        """Seconds, and where it is."""
        p, corpus = self.p, self.folder / "corpus"
        return self._timed(
            lambda scratch, out: build_geometry(
                corpus, p.data, p.geometry, p.kernel, p.seed, scratch, out, workers, quiet
            )
        )

    def features(self, geometry: Path, workers: Workers) -> tuple[float, Path]:
        """Seconds, and where they are."""
        settings, models, device = self.p.features.point_cloud, self.folder / "models", torch.device("cpu")
        return self._timed(
            lambda scratch, out: build_features(
                "point_cloud", geometry, models, settings, device, scratch, out, workers, quiet
            )
        )

    def _timed(self, run: Callable[[Path, Path], object]) -> tuple[float, Path]:
        self.runs += 1
        out, started = self.folder / f"out-{self.runs}", time.perf_counter()
        run(self.folder / f"scratch-{self.runs}", out)
        return time.perf_counter() - started, out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=480)
    arguments = parse(parser, models=8)
    p = Params.parse(plain(compose("smoke" if arguments.smoke else "quickstart")), "the preset")
    few = p.data.synthetic.model_copy(update={"num_models": arguments.models})
    size = max(1, arguments.models // (SHARDS * cores()))
    split = p.data.split.model_copy(update={"validation": 0.0, "test": 0.0})
    data = p.data.model_copy(update={"synthetic": few, "shard_size": size, "split": split})
    p = p.model_copy(update={"data": data})
    ray = Execution(backend="ray")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stages = Stages(p, folder)
        started = time.perf_counter()
        stages.geometry(Workers(None, ray))
        first = time.perf_counter() - started
        local, made = stages.geometry(Workers(None, LOCAL))
        one, _ = stages.geometry(Workers(1, ray))
        every, same = stages.geometry(Workers(None, ray))
        assert sha256_folder(same) == sha256_folder(made), "the cluster makes other bytes"
        _, encoded = stages.features(made, Workers(None, LOCAL))
        one_features, _ = stages.features(made, Workers(1, ray))
        features, alike = stages.features(made, Workers(None, ray))
        assert sha256_folder(alike) == sha256_folder(encoded), "the cluster makes other bytes"
    figures = {
        "cores": cores(),
        "models": arguments.models,
        "scaling_geometry": round(one / every, 2),
        "scaling_features": round(one_features / features, 2),
        "over_local": round(every / local, 2),
        "worker_start_s": round(first - every, 1),
        "seconds": {
            "geometry": [round(one, 1), round(every, 1)],
            "features": [round(one_features, 1), round(features, 1)],
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
