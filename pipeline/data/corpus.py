"""The corpus stage: Omni-CAD, or a synthetic corpus in its layout, to shards of captions and program tokens."""

import hashlib
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import interrupt
from pipeline.atomic import atomic_open, publish, write_text
from pipeline.cad import describe, omnicad, synthesis
from pipeline.cad.grammar import Grammar
from pipeline.cad.program import CadProgram
from pipeline.cad.sandbox import Failure, Sandbox
from pipeline.csv_files import csv_text
from pipeline.data.dataset import Entry, base_model, dataset_path, open_dataset
from pipeline.data.prepare import PrepareTask, model_id, prepare
from pipeline.errors import UserError
from pipeline.params import Codec, Data, Kernel, Split
from pipeline.shards.manifest import Manifest, Reject, reasons, write_rejects
from pipeline.shards.reader import INDEX
from pipeline.shards.writer import encode_array, encode_json, write_shard
from pipeline.work import clean

SPLITS = ("train", "validation", "test")
BLOCK = 64  # entries that one file in scratch keeps


def make_synthetic_zip(path: Path, data: Data, seed: int) -> None:
    """Write the synthetic corpus as an Omni-CAD zip.

    Raises:
        UserError: a family that does not exist.
    """
    settings = data.synthetic
    every_family = (*settings.families, *settings.unseen_families)
    unknown = sorted(set(every_family) - set(synthesis.FAMILIES))
    if unknown or not settings.families:
        raise UserError(
            f"data.synthetic.families: {', '.join(unknown) or 'none given'}; there are {', '.join(synthesis.FAMILIES)}"
        )
    captions: dict[str, list[dict[str, str]]] = defaultdict(list)
    with atomic_open(path, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, text: str) -> None:
            # A fixed date: the same parts give the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)

        for number in range(settings.num_models):
            folder = f"{number // 10000:04d}"
            base = f"{folder}/{number:08d}"
            is_test = drawn_split(base, data.split, seed) == "test"
            part = synthesis.make_part(seed, number, every_family if is_test else settings.families)
            entry_id = model_id(base, part.program)
            add(f"json/{entry_id}.json", omnicad.dumps(part.program))
            captions[folder].append({"id": entry_id, "text caption": part.caption})
        for folder, rows in captions.items():
            add(f"txt/{folder}.json", json.dumps(rows, indent=1))


def _draw(base: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/split/{base}".encode()).digest()[:8], "big") / 2**64


def drawn_split(base: str, split: Split, seed: int) -> str:
    """The split that a base model is drawn for, where none is published."""
    at = _draw(base, seed)
    return "validation" if at < split.validation else "test" if at < split.validation + split.test else "train"


def assign_splits(bases: set[str], split: Split, seed: int, published: dict[str, str]) -> dict[str, str]:
    """The split of each base model, so that its versions and prefixes stay together.

    The published test split is kept; validation is drawn from its training part. Without one, both are drawn.
    What is drawn depends on the name alone: more data moves nothing. Only a split that would be empty takes the
    training model that came closest.
    """
    assigned = {}
    for base in bases:
        given, drawn = published.get(base), drawn_split(base, split, seed)
        if given in ("test", "validation"):
            assigned[base] = given
        else:
            assigned[base] = "train" if given == "train" and drawn == "test" else drawn
    for name, fraction in (("validation", split.validation), ("test", split.test)):
        train = sorted((base for base in bases if assigned[base] == "train"), key=lambda base: _draw(base, seed))
        if fraction > 0 and name not in assigned.values() and len(train) > 1:
            assigned[train[0]] = name
    return assigned


def build_corpus(
    data: Data,
    codec: Codec,
    kernel: Kernel,
    seed: int,
    scratch: Path,
    out: Path,
    num_workers: int,
    progress: Callable[[int, int, str], None],
    required: Sequence[str] = SPLITS,
) -> dict[str, Any]:
    """Make the corpus in ``scratch`` and publish it to ``out``.

    Args:
        required: splits that may not be empty.

    Returns:
        The counts: entries, accepted, rejected, by reason and by split. They add up.

    Raises:
        UserError: the dataset is none, or a split is left empty.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    source = dataset_path(data, scratch)
    if data.source == "synthetic" and not source.is_file():
        progress(0, data.synthetic.num_models, f"making {data.synthetic.num_models} synthetic parts")
        make_synthetic_zip(source, data, seed)
    dataset = open_dataset(source.resolve())
    entries, rejects = dataset.entries()
    if data.limit is not None:
        kept = set(sorted([entry.id for entry in entries] + [reject.id for reject in rejects])[: data.limit])
        entries = [entry for entry in entries if entry.id in kept]
        rejects = [reject for reject in rejects if reject.id in kept]
    tasks = [
        PrepareTask(dataset.path, entry, codec.bits, codec.tolerance, data.max_program_tokens) for entry in entries
    ]
    records = _prepare_all(tasks, scratch / "blocks", kernel, num_workers, progress)
    accepted = [record for record in records if "tokens" in record]
    bases = {base_model(record["id"]) for record in accepted}
    splits = assign_splits(bases, data.split, seed, dataset.published_split())
    if data.prefixes:
        train = [record for record in accepted if splits[base_model(record["id"])] == "train"]
        known = {entry.id for entry in entries} | {reject.id for reject in rejects}
        tasks = [task for task in _prefix_tasks(train, tasks[0], data.prefixes) if task.entry.id not in known]
        prefixes = _prepare_all(tasks, scratch / "prefixes", kernel, num_workers, progress)
        records += prefixes
        accepted += [record for record in prefixes if "tokens" in record]
    accepted.sort(key=lambda record: str(record["id"]))
    rejects += [Reject(r["id"], "corpus", r["reason"], r["detail"]) for r in records if "tokens" not in r]
    by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for record in accepted:
        by_split[splits[base_model(record["id"])]].append(record)
    counts = {
        "entries": len(accepted) + len(rejects),
        "accepted": len(accepted),
        "rejected": len(rejects),
        "reasons": reasons(rejects),
        "splits": {split: len(members) for split, members in by_split.items()},
    }
    empty = [split for split in required if not by_split[split]]
    if empty:
        raise UserError(
            f"no model is left for {' and '.join(empty)} (counts: {counts}); "
            "use more models or larger data.split fractions"
        )
    _write(by_split, rejects, counts, codec, data, scratch)
    for folder in ("blocks", "prefixes"):
        clean(scratch / folder)
    publish(scratch, out)
    return counts


def _prepare_all(
    tasks: list[PrepareTask],
    folder: Path,
    kernel: Kernel,
    num_workers: int,
    progress: Callable[[int, int, str], None],
) -> list[dict[str, Any]]:
    """The records of all entries, block by block; finished blocks are read back."""
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    with Sandbox(prepare, num_workers, kernel.timeout_s, kernel.memory_mib) as sandbox:
        for start in range(0, len(tasks), BLOCK):
            block = tasks[start : start + BLOCK]
            path = folder / f"{start // BLOCK:06d}.json"
            if path.is_file():
                made = json.loads(path.read_bytes())
            else:
                interrupt.check()
                answers = sandbox.map(block)
                made = [_record(task.entry, answer) for task, answer in zip(block, answers, strict=True)]
                write_text(path, json.dumps(made))
            records += made
            progress(len(records), len(tasks), "models read, built and encoded")
    return records


def _prefix_tasks(records: list[dict[str, Any]], like: PrepareTask, most: int) -> list[PrepareTask]:
    """For each model, up to ``most`` of its proper prefixes, evenly spread; none twice."""
    made: dict[str, PrepareTask] = {}
    for record in records:
        program = omnicad.from_document(record["program"])
        lengths = range(1, len(program.extrudes))
        for length in sorted({lengths[len(lengths) * i // most] for i in range(most)}) if lengths else ():
            prefix = CadProgram(program.extrudes[:length])
            entry = Entry(model_id(base_model(record["id"]), prefix), describe.sentence(prefix))
            made[entry.id] = replace(like, entry=entry, prefix_of=record["id"], num_extrudes=length)
    return list(made.values())


def _record(entry: Entry, answer: "dict[str, Any] | Failure") -> dict[str, Any]:
    if isinstance(answer, Failure):
        return {"id": entry.id, "reason": answer.reason, "detail": answer.detail}
    return answer


def _write(
    by_split: dict[str, list[dict[str, Any]]],
    rejects: list[Reject],
    counts: dict[str, Any],
    codec: Codec,
    data: Data,
    folder: Path,
) -> None:
    """Shards, index, rejects and manifest."""
    header = ("key", "id", "shard", "program_tokens", "num_extrudes", "num_curves", "caption")
    shards, rows = [], []
    for split in SPLITS:
        members = by_split[split]
        for start in range(0, len(members), data.shard_size):
            chunk = members[start : start + data.shard_size]
            name = f"{split}-{start // data.shard_size:06d}.tar"
            shards.append(write_shard(folder / name, ((record["key"], _members(record)) for record in chunk)))
            for record in chunk:
                statistics = record["statistics"]
                size = len(record["tokens"]), statistics["num_extrudes"], statistics["num_curves"]
                rows.append((record["key"], record["id"], name, *size, record["caption"]))
    write_text(folder / INDEX, csv_text(header, rows))
    write_rejects(folder, rejects)
    fields = {"program.npy": {"shape": [None], "dtype": "uint16"}}
    details = {
        "codec": {**codec.model_dump(mode="json"), "vocabulary_size": Grammar(codec.bits).size},
        "source": data.source,
        "counts": counts,
    }
    Manifest("corpus", fields, details, tuple(shards)).write(folder)


def _members(record: dict[str, Any]) -> dict[str, bytes]:
    document = {name: value for name, value in record.items() if name not in ("tokens", "key")}
    return {"json": encode_json(document), "program.npy": encode_array(np.array(record["tokens"], np.uint16))}
