"""The project that ``scale.py`` measures: its files, outs as the stages would leave them, and commands in it."""

import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT

from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.runtime.seeds import generator
from pipeline.settings.params import num_workers
from pipeline.settings.places import CORPUS, FEATURES, GEOMETRY, MODELS
from pipeline.settings.yaml_files import read_commented
from pipeline.shards import embeddings
from pipeline.shards.building import write_manifest
from pipeline.shards.index import shard_rows
from pipeline.shards.manifest import Shard
from pipeline.shards.reader import CorpusReader
from pipeline.shards.writer import encode_array, write_shard

PARENT, STAGE = "stage2_text_pc", "stage3_all"
SHAPES = {"point_cloud": (4, 16), "image": (2, 4, 16)}
CLOUD = (8, 6)
FIRST_STEP = re.compile(r"\] 1/\d+ loss")
BEFORE = ("models", "corpus", "geometry", "features@image", "features@point_cloud", f"train@{PARENT}")


def make_project(folder: Path, data: Path, per_shard: int) -> None:
    """A project that reads the dataset at ``data``, a path in it, before anything has run.

    Its preset is ``smoke`` with steps of 64 samples, of which the parent's stage takes one.
    """
    for name in ("pipeline", "stages", "presets", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    split = {"validation": 0.05, "test": 0.05}
    document = presets.compose("smoke")
    changes: dict[str, Any] = {
        "data": {"source": "omnicad", "path": str(data), "shard_size": per_shard, "split": split},
        "training": {"batch_size": 64},
        "curriculum": {PARENT: {"init_from": "models/llm", "epochs": None, "steps": 1}},
        "tracking": {"wandb_mode": "offline"},
    }
    presets.merge(document, changes, "")
    presets.write(document, folder / "params.yaml")


def make_models() -> None:
    """What ``cadmllm models`` makes."""
    from pipeline.weights.resolve import build_models

    p = Params.load()
    build_models(p.models, p.seed, Path("scratch/models"), MODELS, lambda *_: None)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder of shards has for each sample of the corpus: the same members."""

    kind: str
    members: dict[str, bytes]
    fields: dict[str, dict[str, Any]]
    details: dict[str, Any]


def make_outs() -> None:
    """Geometry and features of the corpus that is there, with small arrays."""
    numbers = generator(0, "features").normal(size=max(map(np.prod, (CLOUD, *SHAPES.values())))).astype(np.float32)
    points = {"points.npy": encode_array(np.resize(numbers, CLOUD))}
    found = {GEOMETRY: Contents("geometry", points, {"points.npy": {"shape": list(CLOUD), "dtype": "float32"}}, {})}
    for modality, shape in SHAPES.items():
        name, details = f"{modality}.npy", {"encoder": {"source": "init", "sha256": "none"}}
        members, fields = (
            embeddings.members(name, np.resize(numbers, shape), "float16"),
            embeddings.fields(name, shape, "float16"),
        )
        found[FEATURES / modality] = Contents(f"features/{modality}", members, fields, details)
    make_shards(found)


def make_shards(wanted: dict[Path, Contents]) -> None:
    """Folders of shards with the samples of the corpus that is there."""
    corpus = CorpusReader(CORPUS)
    members = {place: contents.members for place, contents in wanted.items()}
    jobs = [(shard.name, corpus.keys(shard.name), members) for shard in corpus.manifest.shards]
    with multiprocessing.get_context("spawn").Pool(num_workers()) as pool:
        made = pool.starmap(_write_shards, jobs, chunksize=1)
    rows = {place / each[place][0].name: each[place][1] for each in made for place in each}
    for place, contents in wanted.items():
        shards = [each[place][0] for each in made]
        write_manifest(place, contents.kind, contents.fields, contents.details, shards, rows.__getitem__)


def _write_shards(
    name: str, keys: list[str], members: dict[Path, dict[str, bytes]]
) -> dict[Path, tuple[Shard, np.ndarray]]:
    """The shards of a shard of the corpus, with their rows of the index."""
    return {
        place: (write_shard(place / name, ((key, made) for key in keys)), shard_rows(place / name))
        for place, made in members.items()
    }


def _environment(folder: Path) -> dict[str, str]:
    """Commands are of this Python and of the project's own code."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    state = {"DVC_SITE_CACHE_DIR": str(folder / "state")}
    return {**os.environ, **state, "PATH": path, "PYTHONPATH": str(folder)}


def run(folder: Path, *command: str) -> tuple[float, str]:
    """Seconds that a command takes, and what it says."""
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder, env=_environment(folder))
    return time.perf_counter() - started, done.stdout


def first_step(folder: Path, text_embeddings: str) -> float:
    """Seconds from ``cadmllm train`` to the line of its first step; then it is stopped."""
    document = read_commented(folder / "params.yaml")
    document["curriculum"][STAGE]["text_embeddings"] = text_embeddings
    presets.write(document, folder / "params.yaml")
    started = time.perf_counter()
    command = ["cadmllm", "train", STAGE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=_environment(folder)) as process:
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if FIRST_STEP.search(line):
                seconds = time.perf_counter() - started
                process.terminate()
                process.communicate()
                return seconds
    raise RuntimeError("".join(said))


def imports() -> dict[str, float]:
    """Seconds that it takes to import what the command imports, torch and transformers before all."""
    started = time.perf_counter()
    for name in ("stages.cli", "pipeline.training.session"):
        importlib.import_module(name)
    return {"train_imports_s": time.perf_counter() - started}


def repro_nothing(folder: Path) -> float:
    """Seconds of ``dvc repro`` that has nothing to do, where all before ``STAGE`` is as DVC knows it."""
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "commit", "-q", "-f", *BEFORE)
    seconds, said = run(folder, "dvc", "repro", f"train@{PARENT}")
    assert "Running" not in said, said
    return seconds
