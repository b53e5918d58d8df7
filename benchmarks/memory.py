"""Resident memory over 100,000 samples, here and from object storage: prints one JSON object.

    python benchmarks/memory.py [--models 118000] [--places here there] [--folder DIR]

A project of so many tiny models (``benchmarks/scale.py``), of which training shows 85.5%: real tars with a real index,
clouds of 256 points, and views that are drawn once. In processes of their own, whose resident memory is told in MiB
after 10% of the work and at its end (each tenth goes to stderr), with what they map of files, ``rss_mib``, the index
before all, which the system may take back, and without it, ``own_mib``:

- ``features_image``, ``features_point_cloud``: the stage `features`, with encoders of one layer;
- ``epoch``: an epoch of `stage3_all`, steps included, with a language model of two layers.

``here``, tars lie on the disk. ``there``, all are in object storage (moto's server, a process on this machine, behind a
proxy that answers 20 ms later), and the cache is the smallest, 16 MiB. ``read_mib`` came from the store, ``tars_mib``
is what these tars have, and ``most_cached_mib`` the most that the cache held at any tenth.

``--folder`` keeps the project and what is measured: a run that was stopped goes on there, ``there`` from its beginning,
since the server keeps nothing.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import _scale_corpus as corpus
import _scale_project as project
import numpy as np
import psutil
from _common import in_child, parse
from _object_storage import URL, Proxy, environment, object_storage, send
from scale import train_parent, train_steps

from pipeline.cad.solids.rendering import encode_png
from pipeline.execution.workers import Workers
from pipeline.planning import presets
from pipeline.planning.params import Params
from pipeline.runtime.atomic import write_text
from pipeline.runtime.seeds import generator
from pipeline.settings.places import CORPUS, FEATURES, GEOMETRY, MODELS
from pipeline.settings.yaml_files import read_commented
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage.cache import COUNT
from pipeline.shards.storage.remote import CACHE
from pipeline.shards.storage.settings import LEAST_MIB
from pipeline.shards.storage.store import store_at
from pipeline.shards.writer import encode_array

DATA = Path("data/raw/Omni-CAD")
PER_SHARD = 250  # the server copies all of a tar for each range of it, so tars are small
LATENCY_S = 0.02
MODALITIES = ("image", "point_cloud")
TENTHS = 10


class Curve:
    """Resident memory after each tenth of some work, and what the cache holds then."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.resident: list[float] = []
        self.own: list[float] = []
        self.cached: list[float] = []

    def __call__(self, done: int, total: int, _: str = "") -> None:
        """So much is done."""
        while len(self.resident) < done * TENTHS // total:
            memory = psutil.Process().memory_info()
            self.resident.append(memory.rss / corpus.MIB)
            self.own.append((memory.rss - memory.shared) / corpus.MIB)
            self.cached.append(cached_mib())
            told = f"{self.resident[-1]:.1f} MiB, {self.own[-1]:.1f} its own"
            print(f"{self.name} {done}/{total}: {told}", file=sys.stderr, flush=True)

    def figures(self, places: Sequence[Path]) -> dict[str, float]:
        """What is told of work that reads the tars of some folders."""
        size = sum(shard.bytes for place in places for shard in Manifest.read(place).shards)
        return {
            "rss_mib_at_10_percent": round(self.resident[0], 1),
            "rss_mib_at_100_percent": round(self.resident[-1], 1),
            "own_mib_at_10_percent": round(self.own[0], 1),
            "own_mib_at_100_percent": round(self.own[-1], 1),
            "tars_mib": round(size / corpus.MIB, 1),
            **({"most_cached_mib": round(max(self.cached), 1)} if max(self.cached) else {}),
        }


def cached_mib() -> float:
    """What blocks of object storage take here."""
    size = 0
    for path in CACHE.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another thread may remove it
            size += path.stat().st_size * (path.name != COUNT)
    return size / corpus.MIB


def features(modality: str) -> dict[str, float]:
    """The stage `features`, in the project of this folder and in this process."""
    import torch

    from pipeline.features.build import build_features

    p, curve = Params.load(), Curve(f"features {modality}")
    settings, scratch = getattr(p.features, modality), Path("scratch") / modality
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was stopped: memory is measured from the beginning
    out, store = FEATURES / modality, store_at(p.storage.shards)
    cpu, workers = torch.device("cpu"), Workers()
    counts = build_features(modality, GEOMETRY, MODELS, settings, cpu, scratch, out, workers, curve, store)
    return {"samples": counts["samples"], **curve.figures([GEOMETRY])}


def epoch() -> dict[str, float]:
    """An epoch of the last stage, in the project of this folder and in this process."""
    from training import make_trainer, set_up

    p, model, (data, validation) = set_up(project.STAGE, ("train", "validation"))
    trainer, curve = make_trainer(p, project.STAGE, model, data, validation), Curve("epoch")
    trainer.validate_where_due()
    steps = trainer.plan.steps_per_epoch
    for done in range(1, steps + 1):
        train_steps(trainer, 1)
        curve(done, steps)
    trainer.steps.close()
    return {
        "samples": len(data),
        "steps": steps,
        **curve.figures([CORPUS, *(FEATURES / modality for modality in MODALITIES)]),
    }


MEASURES: dict[str, tuple[Callable[..., dict[str, float]], tuple[str, ...]]] = {
    **{f"features_{modality}": (features, (modality,)) for modality in MODALITIES},
    "epoch": (epoch, ()),
}


def make_geometry() -> None:
    """What ``cadmllm geometry`` makes, of random points and of pictures with shapes in them."""
    settings, rng = Params.load().geometry, generator(0, "memory")
    size, views = settings.image_size, {}
    for number in range(settings.num_views):
        picture = np.full((size, size), 255, np.uint8)
        x, y = rng.integers(0, size // 2, 2)
        picture[y : y + size // 2, x : x + size // 2] = 60
        views[f"view{number}.png"] = encode_png(picture)
    points = rng.normal(size=(settings.num_points, 6)).astype(np.float32)
    fields = {"points.npy": {"shape": list(points.shape), "dtype": "float32"}}
    details = {"settings": settings.model_dump(mode="json")}
    members = {"points.npy": encode_array(points), **views}
    project.make_shards({GEOMETRY: project.Contents("geometry", members, fields, details)})


def make_project(folder: Path, models: int) -> None:
    """A project up to the stage `geometry`; nothing is done twice."""
    if (folder / GEOMETRY / "manifest.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    project.make_project(folder, DATA, PER_SHARD)
    corpus.make_folder(folder / DATA, models)
    for make in (corpus.corpus, project.make_models, make_geometry):
        in_child(folder, make)


def move(source: Path, folder: Path) -> None:
    """The project with all of its tars in object storage, and there alone, and with the smallest cache."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("raw", "features", "scratch")
    shutil.copytree(source, folder, copy_function=os.link, ignore=ignored)
    document = read_commented(folder / "params.yaml")
    presets.merge(document, {"storage": {"shards": URL, "cache_mib": LEAST_MIB}}, "")
    (folder / "params.yaml").unlink()
    presets.write(document, folder / "params.yaml")
    for place in (CORPUS, GEOMETRY):
        send(folder / place)


class Measured:
    """Figures by place and measure, kept in a file; what it has is not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def measure(self, folder: Path, place: str, name: str, proxy: Proxy | None = None) -> None:
        """One of ``MEASURES`` in a project; ``proxy`` before the store of its tars."""
        known = self.found.setdefault(place, {})
        if name in known:
            return
        function, arguments = MEASURES[name]
        if name == "epoch":
            in_child(folder, train_parent)
        before = proxy.passed if proxy else 0
        known[name] = in_child(folder, function, *arguments)
        if proxy:
            known[name]["read_mib"] = round((proxy.passed - before) / corpus.MIB, 1)
        write_text(self.path, json.dumps(self.found))
        print(place, name, known[name], file=sys.stderr, flush=True)


@contextlib.contextmanager
def stored(source: Path, folder: Path) -> Iterator[Proxy]:
    """The project with its tars in object storage, for as long as that is there."""
    with tempfile.TemporaryDirectory() as log, object_storage(Path(log), LATENCY_S) as (_, proxy):
        os.environ.update(environment(proxy))
        move(source, folder)
        yield proxy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=118_000)
    parser.add_argument("--places", nargs="+", choices=("here", "there"), default=["here", "there"])
    parser.add_argument("--folder", type=Path, help="where it goes on; default: nowhere")
    arguments = parse(parser, models=200, places=["there"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        make_project(folder / "here", arguments.models)
        measured = Measured(folder / "figures.json")
        if "here" in arguments.places:
            for name in MEASURES:
                measured.measure(folder / "here", "here", name)
        if "there" in arguments.places and measured.found.get("there", {}).keys() != MEASURES.keys():
            measured.found["there"] = {}
            with stored(folder / "here", folder / "there") as proxy:
                for name in MEASURES:
                    measured.measure(folder / "there", "there", name, proxy)
    print(json.dumps(measured.found | {"models": arguments.models}))


if __name__ == "__main__":
    main()
