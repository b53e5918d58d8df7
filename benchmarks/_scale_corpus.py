"""What the corpus stage takes on a dataset of many tiny files: the half of ``scale.py`` that is about reading."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from _common import ROOT, in_child

from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.parts import synthesis
from pipeline.cad.solids.sandbox import Sandbox, cores
from pipeline.corpus import build
from pipeline.corpus.prepare import PrepareTask, prepare, read_texts
from pipeline.planning import presets
from pipeline.planning.params import Params

RAW = Path("raw")  # the dataset in the folder of a measurement, as a folder or a zip
PER_FOLDER = 10_000
PARTS = 40  # different models; all others are these under other names
BUILT = 400  # models for the kernel's own rate
REPRO_LIMIT = 20  # models that the project takes in whose data DVC looks at


def dataset_files(number: int) -> Iterator[tuple[str, str]]:
    """Names and texts of Omni-CAD's layout with so many models, washers and plates, each with a caption of its own."""
    parts = [synthesis.make_part(0, part, ("washer", "plate")) for part in range(PARTS)]
    texts = [documents.dumps(part.program) for part in parts]
    for start in range(0, number, PER_FOLDER):
        folder, rows = f"{start // PER_FOLDER:04d}", []
        for each in range(start, min(start + PER_FOLDER, number)):
            entry = f"{folder}/{each:08d}_00001"
            yield f"json/{entry}.json", texts[each % PARTS]
            rows.append({"id": entry, "text caption": f"{parts[each % PARTS].caption} Part {each}."})
        yield f"txt/{folder}.json", json.dumps(rows)


def make_folder(folder: Path, number: int) -> None:
    """The dataset as a folder."""
    for name, text in dataset_files(number):
        path = folder / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        path.write_text(text)


def make_zip(path: Path, number: int) -> None:
    """The dataset as a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in dataset_files(number):
            archive.writestr(name, text)


def without_kernel(task: PrepareTask) -> dict[str, Any]:
    """A record like that of ``prepare``, of the model's text alone: nothing is built."""
    program = documents.loads(task.text)
    return {
        "id": task.entry.id,
        "key": task.entry.key,
        "caption": task.entry.caption,
        "program": documents.to_document(program),
        "program_hash": task.identity[:16],
        "frame": {"centre": [0.0, 0.0, 0.0], "scale": 1.0},
        "statistics": {"num_extrudes": len(program.extrudes), "num_curves": program.num_curves, "volume": 1.0},
        "tokens": list(range(24)),
    }


def _params() -> Params:
    os.environ.setdefault("CADMLLM_WORKERS", str(cores()))
    return Params.parse(presets.compose("smoke"), "smoke")


def listing() -> dict[str, float]:
    """Models listed and given their captions, in a second."""
    started = time.perf_counter()
    found = Dataset(RAW).listing()
    return {"corpus_listed_per_s": round(len(found) / (time.perf_counter() - started), 1)}


def corpus() -> dict[str, float]:
    """The whole stage with nothing built: its models in a second, and the most memory of its own process."""
    import torch

    from pipeline.runtime.device import peak_memory

    p = _params()
    data = p.data.model_copy(update={"source": "omnicad", "path": str(RAW), "shard_size": 128})
    build.prepare = without_kernel  # type: ignore[attr-defined]
    started = time.perf_counter()
    counts = build.build_corpus(
        data, p.codec, p.kernel, 0, Path("scratch"), Path("out"), cores(), lambda *_: None, ("train",)
    )
    seconds = time.perf_counter() - started
    assert counts["accepted"] == counts["entries"]
    memory = peak_memory(torch.device("cpu")) / (1 << 20)
    return {"corpus_models_per_s": round(counts["entries"] / seconds, 1), "rss_mib": round(memory, 1)}


def kernel() -> dict[str, float]:
    """Models that all cores read, build and encode in a second, once the workers are up."""
    p, dataset = _params(), Dataset(RAW)
    texts = read_texts(dataset, islice(dataset.listing(), BUILT), Rejects())
    tasks = [PrepareTask(e, text, p.codec.bits, p.codec.tolerance, p.data.max_program_tokens) for e, text in texts]
    with Sandbox(prepare, cores(), p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map(tasks[: 2 * cores()]))
        started = time.perf_counter()
        list(sandbox.map(tasks))
        return {"corpus_kernel_models_per_s": round(len(tasks) / (time.perf_counter() - started), 1)}


def repro() -> dict[str, float]:
    """Seconds of a `dvc repro corpus` that has nothing to do, on a project whose dataset this is."""
    project, environment = (
        Path("project").absolute(),
        {**os.environ, "DVC_SITE_CACHE_DIR": str(Path("state").absolute())},
    )
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(project)
    for name in ("pipeline", "stages", "presets", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
        shutil.copytree(ROOT / name, project / name, ignore=ignored)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, project / name)
    (project / "data/raw").mkdir(parents=True)
    RAW.rename(project / "data/raw/Omni-CAD")
    document = presets.compose("smoke")
    changes = {"source": "omnicad", "path": "data/raw/Omni-CAD", "limit": REPRO_LIMIT}
    presets.merge(document, {"data": changes}, "")
    presets.write(document, project / "params.yaml")

    def run(*command: str) -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=project, env=environment)
        return time.perf_counter() - started

    run("git", "init", "-q")
    run("dvc", "repro", "corpus")
    return {"repro_noop_s": round(run("dvc", "repro", "corpus"), 2)}


def corpus_figures(sizes: list[int]) -> dict[str, Any]:
    """All figures of this file, by number of models, and where it makes a difference by how the dataset lies."""
    found: dict[str, Any] = {}

    def note(name: str, *place: Any, value: float) -> None:
        table = found.setdefault(name, {})
        for each in place[:-1]:
            table = table.setdefault(each, {})
        table[place[-1]] = value

    for number in sizes:
        for kind, make in (("folder", make_folder), ("zip", make_zip)):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "presets").symlink_to(ROOT / "presets")
                make(folder / RAW, number)
                figures = {**in_child(folder, listing), **in_child(folder, corpus)}
                memory = figures.pop("rss_mib")
                note("rss_mib", "corpus", kind, number, value=memory)
                for each, value in figures.items():
                    note(each, kind, number, value=value)
                if kind == "folder":
                    for measure in (kernel, repro):  # the last one takes the dataset away
                        for each, value in in_child(folder, measure).items():
                            note(each, number, value=value)
        print(f"corpus, {number} models: {found}", file=sys.stderr, flush=True)
    return found
