"""What the corpus stage takes on a dataset of many tiny files: the half of ``scale.py`` that is about reading."""

import functools
import hashlib
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.cad.language.codec import Codec
from pipeline.cad.language.program import CadProgram
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import Dataset
from pipeline.cad.omnicad.listing import base_model
from pipeline.cad.omnicad.published import SPLIT_FILE
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.parts import synthesis
from pipeline.corpus import build
from pipeline.corpus.prepare import PrepareTask, prepare, read_texts
from pipeline.corpus.zip_writer import zip_writer
from pipeline.execution.sandbox import Sandbox, cores
from pipeline.execution.workers import Workers
from pipeline.planning.params import Params
from pipeline.settings.places import CORPUS

PER_FOLDER = 10_000
PARTS = 40  # different programs; all other models are these, with a name of their own in the text
COPIED = 5  # each so manieth model is the one before it, under another base model's name
TESTED = 1, 3  # of twenty base models, those of the published test split; the first is a copy
BUILT = 400  # models for the kernel's own rate
MIB = 1 << 20


def dataset_files(number: int) -> Iterator[tuple[str, str]]:
    """Names and texts of Omni-CAD's layout with so many models, each a base model with a caption of its own.

    There is a published split with all of them, and each fifth model is a copy of the one before it.
    """
    parts = [synthesis.make_part(0, part, ("washer", "plate")) for part in range(PARTS)]
    texts = [documents.dumps(part.program) for part in parts]
    split: dict[str, list[str]] = {"train": [], "test": []}
    for start in range(0, number, PER_FOLDER):
        folder, rows = f"{start // PER_FOLDER:04d}", []
        for each in range(start, min(start + PER_FOLDER, number)):
            entry, source = f"{folder}/{each:08d}_00001", each - (each % COPIED == 1)
            text = texts[source % PARTS].replace('"Extrude 1"', f'"Extrude {source}"')
            yield f"json/{entry}.json", text
            rows.append({"id": entry, "text caption": f"{parts[source % PARTS].caption} Part {each}."})
            split["test" if each % 20 in TESTED else "train"].append(base_model(entry))
        yield f"txt/{folder}.json", json.dumps(rows)
    yield SPLIT_FILE, json.dumps(split)


def make_folder(folder: Path, number: int) -> None:
    """The dataset as a folder."""
    for name, text in dataset_files(number):
        path = folder / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        path.write_text(text)


def make_zip(path: Path, number: int) -> None:
    """The dataset as a zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, zip_writer(file) as add:
        for name, text in dataset_files(number):
            add(name, text.encode())


@functools.lru_cache(maxsize=PARTS)
def _tokens(program: CadProgram, bits: int, tolerance: float) -> list[int]:
    tokens: list[int] = Codec(bits, tolerance).encode(program, 1.0).tolist()
    return tokens


def without_kernel(task: PrepareTask) -> dict[str, Any]:
    """A record like that of ``prepare``, of the model's text alone: nothing is built, the same text is a duplicate."""
    program = documents.loads(task.text)
    return {
        "id": task.entry.id,
        "key": task.entry.key,
        "caption": task.entry.caption,
        "program": documents.to_document(program),
        "program_hash": hashlib.sha256(task.text).hexdigest()[:16],
        "frame": {"centre": [0.0, 0.0, 0.0], "scale": 1.0},
        "statistics": {"num_extrudes": len(program.extrudes), "num_curves": program.num_curves, "volume": 1.0},
        "tokens": _tokens(program, task.bits, task.tolerance),
    }


def listing() -> dict[str, float]:
    """Models listed and given their captions, in a second."""
    started = time.perf_counter()
    found = Dataset(Path(Params.load().data.path)).listing()
    return {"corpus_listed_per_s": round(len(found) / (time.perf_counter() - started), 1)}


def corpus() -> dict[str, float]:
    """The whole stage with nothing built: its models in a second, and the most memory of its own process."""
    import torch

    from pipeline.runtime.device import peak_memory

    p = Params.load()
    build.prepare = without_kernel  # type: ignore[attr-defined]
    started = time.perf_counter()
    counts = build.build_corpus(
        p.data, p.codec, p.kernel, p.seed, Path("scratch/corpus"), CORPUS, Workers(), lambda *_: None
    )
    seconds = time.perf_counter() - started
    assert counts["reasons"].keys() == {"duplicate_of_train"}, counts
    memory = peak_memory(torch.device("cpu")) / MIB
    return {
        "corpus_models_per_s": round(counts["entries"] / seconds, 1),
        "corpus_duplicates": counts["rejected"],
        "rss_mib": round(memory, 1),
    }


def kernel() -> dict[str, float]:
    """Models that all cores read, build and encode in a second, once the workers are up."""
    p = Params.load()
    dataset = Dataset(Path(p.data.path))
    texts = read_texts(dataset, islice(dataset.listing(), BUILT), Rejects())
    tasks = [PrepareTask(e, text, p.codec.bits, p.codec.tolerance, p.data.max_program_tokens) for e, text in texts]
    with Sandbox(prepare, cores(), p.kernel.timeout_s, p.kernel.memory_mib) as sandbox:
        list(sandbox.map(tasks[: 2 * cores()]))
        started = time.perf_counter()
        list(sandbox.map(tasks))
        return {"corpus_kernel_models_per_s": round(len(tasks) / (time.perf_counter() - started), 1)}
