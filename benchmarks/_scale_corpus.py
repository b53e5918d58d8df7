"""What the corpus stage takes on a dataset of many tiny files: the half of ``scale.py`` that is about reading."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import ROOT

from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.parts import synthesis
from pipeline.cad.solids.sandbox import cores
from pipeline.corpus import build
from pipeline.corpus.prepare import PrepareTask
from pipeline.planning import presets
from pipeline.settings import params
from pipeline.settings.params import Params, parse

MIB = 1 << 20
PER_FOLDER = 10_000
KERNEL_MODELS = 400  # that the kernel builds, for its rate
PARTS = 40


def make_dataset(folder: Path, number: int) -> None:
    """Omni-CAD's layout with so many models: the same few parts under other names, each with a caption of its own."""
    parts = [synthesis.make_part(0, part, ("washer", "plate")) for part in range(PARTS)]
    texts = [documents.dumps(part.program) for part in parts]
    for start in range(0, number, PER_FOLDER):
        name, rows = f"{start // PER_FOLDER:04d}", []
        models = folder / "json" / name
        models.mkdir(parents=True)
        for each in range(start, min(start + PER_FOLDER, number)):
            (models / f"{each:08d}_00001.json").write_text(texts[each % PARTS])
            rows.append({"id": f"{name}/{each:08d}_00001", "text caption": f"{parts[each % PARTS].caption} No. {each}."})
        (folder / "txt").mkdir(exist_ok=True)
        (folder / f"txt/{name}.json").write_text(json.dumps(rows))


def pack(folder: Path, path: Path) -> None:
    """The dataset as a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(found for found in folder.rglob("*.json")):
            archive.write(file, file.relative_to(folder).as_posix())


def without_kernel(task: PrepareTask) -> dict[str, Any]:
    """A record as ``prepare`` gives, of the same size, with nothing built."""
    program = documents.loads(task.text)
    return {
        "id": task.entry.id,
        "key": task.entry.key,
        "caption": task.entry.caption,
        "program": json.loads(task.text),
        "program_hash": task.identity[:16],
        "frame": {"centre": [0.0, 0.0, 0.0], "scale": 1.0},
        "statistics": {"num_extrudes": len(program.extrudes), "num_curves": program.num_curves, "volume": 1.0},
        "tokens": list(range(24)),
    }


def stage(path: Path, prepare: Callable[[PrepareTask], dict[str, Any]] = without_kernel, limit: int | None = None) -> Any:
    """Seconds and memory of the whole stage in this process, by what prepares a model."""
    p = parse(presets.compose("smoke"), "smoke")
    data = p.data.model_copy(update={"source": "omnicad", "path": str(path), "limit": limit, "shard_size": 1000})
    build.prepare = prepare  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        started = time.perf_counter()
        counts = build.build_corpus(
            data, p.codec, p.kernel, 0, Path(name) / "scratch", Path(name) / "out", cores(), lambda *_: None
        )
        seconds = time.perf_counter() - started
    return counts, seconds


if __name__ == "__main__":
    import resource
    path = Path(sys.argv[1])
    t=time.perf_counter()
    if sys.argv[2] == "list":
        l = Dataset(path).listing(); print(len(l), time.perf_counter()-t)
    else:
        print(stage(path))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, [x for x in open("/proc/self/status") if "VmHWM" in x])
