"""The smallest project that runs every pipeline stage, its quiet run, and copies of it as they are before a stage."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.omnicad import documents
from pipeline.cad.parts import synthesis
from pipeline.planning.presets import merge, write
from pipeline.settings.yaml_files import plain, read_commented, read_yaml, yaml_parser
from pipeline.shards.storage.store import PLACE
from tests.func.conftest import ROOT, Project, make_project

HERE = Path(__file__).parent
CODE = ("pipeline", "stages", "presets", "dvc.yaml", "tests/faults/preset.yaml", "tests/faults/project.py")
RAW, REAL = "data/raw/Omni-CAD", "data/real/Omni-CAD"
FAMILIES = ("washer", "plate", "l_bracket")  # each is built in a moment


@dataclass(frozen=True)
class Stage:
    """A pipeline stage as DVC calls it, its command, and its outs."""

    name: str
    command: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Of stages that differ in an argument alone."""
        return self.command[0]


def _train(name: str) -> Stage:
    outs = f"checkpoints/{name}", f"metrics/train/{name}.json"
    return Stage(f"train@{name}", ("train", name), (*outs, f"plots/{name}/train.csv", f"plots/{name}/validation.csv"))


def _evaluate(name: str) -> Stage:
    outs = f"evaluations/{name}", f"metrics/evaluate/{name}.json", f"metrics/stages/{name}.json"
    return Stage(f"evaluate@{name}", ("evaluate", name), outs)


def _features(name: str) -> Stage:
    return Stage(f"features@{name}", ("features", "--modality", name), (f"data/features/{name}",))


STAGES = (
    Stage("models", ("models",), ("models",)),
    Stage("corpus", ("corpus",), ("data/corpus",)),
    Stage("geometry", ("geometry",), ("data/geometry",)),
    _features("image"),
    _features("point_cloud"),
    _train("text"),
    _train("everything"),
    _evaluate("text"),
    _evaluate("everything"),
    Stage("robustness", ("robustness",), ("metrics/robustness.json", "plots/robustness.csv")),
    Stage("retrieval", ("retrieval",), ("metrics/retrieval.json",)),
    Stage("transfer", ("transfer",), ("evaluations/transfer", "metrics/transfer.json")),
    Stage(
        "report",
        ("report",),
        ("report", "metrics/summary.json", "plots/train_loss.csv", "plots/validation_loss.csv"),
    ),
)


def files(place: Path) -> list[Path]:
    """All files of a folder, or the file."""
    return [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())


def digest(place: Path) -> str:
    """Of the names and contents of all that is at a place; "" where nothing is, or a folder that is being removed.

    Tars that are in object storage count as those that the manifest names.

    Raises:
        OSError: what is there changes meanwhile.
    """
    if not place.exists():
        return ""
    held = {path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).digest() for path in files(place)}
    if held.pop(PLACE, None):
        shards = json.loads((place / "manifest.json").read_bytes())["shards"]
        held |= {shard["name"]: bytes.fromhex(shard["sha256"]) for shard in shards}
    found = hashlib.sha256()
    for name in sorted(held):
        found.update(f"{name}\0".encode() + held[name])
    return found.hexdigest() if held else ""


def put_model(folder: Path, number: int, seed: int, caption: str | None = None) -> None:
    """Write a model of Omni-CAD, and its caption, in place of what it was."""
    entry, part = f"0000/{number:08d}_00001", synthesis.make_part(seed, number, FAMILIES)
    path, captions = folder / f"json/{entry}.json", folder / "txt/0000.json"
    for each in (path, captions):
        each.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(documents.dumps(part.program))
    known = {row["id"]: row for row in json.loads(captions.read_text())} if captions.exists() else {}
    known[entry] = {"id": entry, "text caption": caption or part.caption}
    captions.write_text(json.dumps(list(known.values())))


def _put_cloud(folder: Path, number: int, seed: int) -> None:
    path = folder / f"pcd/0000/{number:08d}_00001.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).normal(size=(300, 6)))


def _change_corpus(raw: Path) -> None:
    put_model(raw, 3, seed=5)
    put_model(raw, 7, seed=0, caption="Generate a CAD model of another kind.")
    put_model(raw, 40, seed=0)
    (raw / "json/0000/00000009_00001.json").unlink()


# What changes in the dataset while a stage reads it, and which dataset that is.
CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "corpus": (RAW, _change_corpus),
    "geometry": (RAW, lambda raw: _put_cloud(raw, 3, seed=1)),
    "transfer": (REAL, lambda raw: put_model(raw, 100, seed=6)),
}


def make(folder: Path) -> Project:
    """The project with nothing run."""
    folder.mkdir(parents=True)
    project = make_project(folder)
    document = read_commented(folder / "params.yaml")
    merge(document, read_yaml(HERE / "preset.yaml"), "")
    write(document, folder / "params.yaml")
    for number in range(16):
        put_model(folder / RAW, number, seed=0)
    _put_cloud(folder / RAW, 3, seed=0)
    for number in range(100, 103):
        put_model(folder / REAL, number, seed=3)
    return project


def code_version() -> str:
    """Of all that the quiet run depends on."""
    found = hashlib.sha256()
    for name in CODE:
        for path in files(ROOT / name):
            if "__pycache__" not in path.parts:
                found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]


@dataclass(frozen=True)
class Reference:
    """The quiet run.

    Attributes:
        seconds: that each stage took.
        digests: of each out.
        changed: digests of a stage's outs on changed data, by the stage's name.
    """

    folder: Path
    seconds: dict[str, float]
    digests: dict[str, str]
    changed: dict[str, dict[str, str]]


def reference(work: Path, count: int) -> Reference:
    """The quiet run of this version of the code, of the first so many stages: made once, and kept in ``work``."""
    base = work / f"quiet-{code_version()}-{count}"
    record = base / "reference.json"
    if not record.is_file():
        shutil.rmtree(base, ignore_errors=True)
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps(_run_quietly(base, STAGES[:count])))
    return Reference(base / "project", **json.loads(record.read_text()))


def _run_quietly(base: Path, stages: Sequence[Stage]) -> dict[str, Any]:
    project = make(base / "project")
    seconds, digests = {}, {}
    for stage in stages:
        begun = time.monotonic()
        project.run("cadmllm", *stage.command)
        seconds[stage.name] = time.monotonic() - begun
        digests |= {out: digest(project.folder / out) for out in stage.outs}
    seconds["models"] = min(seconds["models"], 3.0)  # the first start has waited for the fork server
    project.run("dvc", "commit", "-f", *(stage.name for stage in stages))
    lock = plain(yaml_parser().load(project.folder / "dvc.lock"))["stages"].values()
    assert {out["path"] for entry in lock for out in entry["outs"]} == digests.keys(), "these are all outs"
    changed = {}
    for name, (data, change) in CHANGES.items():
        stage = next((each for each in stages if each.name == name), None)
        if stage is None:
            continue
        copy = base / "copy"
        copy_before(project.folder, copy, STAGES.index(stage))
        change(copy / data)
        Project(copy).run("cadmllm", *stage.command)
        changed[name] = {out: digest(copy / out) for out in stage.outs}
        shutil.rmtree(copy)
        assert changed[name] != {out: digests[out] for out in stage.outs}, "the change makes a difference"
    return {"seconds": seconds, "digests": digests, "changed": changed}


def copy_before(source: Path, target: Path, number: int) -> None:
    """Copy the finished project as it was before a stage; links between its folders and DVC's cache stay links."""
    target.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)
    for stage in STAGES[number:]:
        for out in stage.outs:
            remove(target / out)
    for folder in ("scratch", "logs", ".dvc/cache/runs"):
        remove(target / folder)
    lock = yaml_parser().load(target / "dvc.lock")
    for stage in STAGES[number:]:
        lock["stages"].pop(stage.name, None)
    with open(target / "dvc.lock", "w") as file:
        yaml_parser().dump(lock, file)


def remove(place: Path) -> None:
    """A file or folder, where it is there."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def leftovers(folder: Path, outs: Iterable[str]) -> list[str]:
    """Temporary names beside outs, which nothing may leave behind for good."""
    found = []
    for out in outs:
        place = folder / out
        found += [p for p in (place.with_name(f".{place.name}.{kind}") for kind in ("tmp", "old")) if p.exists()]
    return [os.path.relpath(path, folder) for path in found]
