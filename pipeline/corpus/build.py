"""The corpus stage: Omni-CAD, or a synthetic corpus in its layout, to shards of captions and program tokens."""

import json
import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cad.language.grammar import Grammar
from pipeline.cad.language.program import CadProgram
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import SYNTHETIC_ZIP, Dataset, Entry, base_model, dataset_path
from pipeline.cad.parts import describe, synthesis
from pipeline.cad.solids.sandbox import Failure, Sandbox
from pipeline.corpus.duplicates import Record, known_to_training
from pipeline.corpus.prepare import PrepareTask, model_id, prepare, read_texts
from pipeline.runtime import interrupt
from pipeline.runtime.atomic import atomic_open, publish
from pipeline.runtime.errors import Reject, UserError
from pipeline.runtime.fingerprint import libraries
from pipeline.runtime.scratch import Journal, clean
from pipeline.runtime.seeds import uniform
from pipeline.settings.data import Codec, Data, Kernel, Split
from pipeline.shards.building import keep_rows, kept_rows, write_manifest
from pipeline.shards.manifest import reasons, write_rejects
from pipeline.shards.seen import write_seen
from pipeline.shards.writer import encode_array, encode_json, write_shard

SPLITS = ("train", "validation", "test")
BATCH = 1024  # models that are read at once


class EmptySplitError(UserError):
    """No model is left for a split that may not be empty.

    Attributes:
        counts: as of ``build_corpus``.
    """

    def __init__(self, empty: Sequence[str], counts: dict[str, Any]) -> None:
        rejected = ", ".join(f"{number} {reason}" for reason, number in counts["reasons"].items())
        advice = "use more models or larger data.split fractions, or keep what training has (data.duplicates)"
        if counts["accepted"] == 0:
            advice = "is data.path the folder with json/ and txt/?"
        super().__init__(
            f"no model is left for {' and '.join(empty)}: of {counts['entries']} entries {counts['accepted']} are "
            f"accepted{f', and rejected {rejected}' if rejected else ''}; {advice}"
        )
        self.counts = counts


def make_synthetic_zip(path: Path, data: Data, seed: int) -> None:
    """Write the synthetic corpus as an Omni-CAD zip.

    Raises:
        UserError: a family that does not exist.
    """
    settings = data.synthetic
    every_family = (*settings.families, *settings.unseen_families)
    synthesis.check_families(settings.families)
    synthesis.check_families(every_family)
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
            add(f"json/{entry_id}.json", documents.dumps(part.program))
            captions[folder].append({"id": entry_id, "text caption": part.caption})
        for folder, rows in captions.items():
            add(f"txt/{folder}.json", json.dumps(rows, indent=1))


def _draw(base: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return uniform(seed, "split", base)


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
    seen: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Make the corpus in ``scratch`` and publish it to ``out``.

    Args:
        required: splits that may not be empty.
        seen: hashes of programs that networks were trained on before: with ``data.duplicates: drop`` no test.

    Returns:
        The counts: entries, accepted, rejected, by reason and by split, which add up; and how many models of the
        train split have the program of another one.

    Raises:
        UserError: the dataset is none, or EmptySplitError.
    """
    source = dataset_path(data, scratch)
    if data.source == "synthetic" and not source.is_file():
        progress(0, data.synthetic.num_models, f"making {data.synthetic.num_models} synthetic parts")
        make_synthetic_zip(source, data, seed)
    dataset = Dataset(source.resolve())
    entries, rejects = dataset.entries()
    if data.limit is not None:
        kept = set(sorted([entry.id for entry in entries] + [reject.id for reject in rejects])[: data.limit])
        entries = [entry for entry in entries if entry.id in kept]
        rejects = [reject for reject in rejects if reject.id in kept]

    def prepared(texts: Iterable[tuple[Entry, bytes]], number: int, name: str) -> list[Record]:
        tasks = (PrepareTask(e, text, codec.bits, codec.tolerance, data.max_program_tokens) for e, text in texts)
        return _prepare_all(tasks, number, scratch / name, kernel, num_workers, progress)

    records = prepared(read_texts(dataset, entries, rejects), len(entries), "blocks")
    accepted = [record for record in records if "tokens" in record]
    bases = {base_model(record["id"]) for record in accepted}
    splits = assign_splits(bases, data.split, seed, dataset.published_split())
    if data.prefixes:
        train = [record for record in accepted if splits[base_model(record["id"])] == "train"]
        taken = {entry.id for entry in entries} | {reject.id for reject in rejects}
        texts = [(entry, text) for entry, text in _prefixes(train, data.prefixes) if entry.id not in taken]
        records += prepared(texts, len(texts), "prefixes")
    by_split: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for record in sorted((record for record in records if "tokens" in record), key=lambda record: str(record["id"])):
        by_split[splits[base_model(record["id"])]].append(record)
    rejects += [Reject(r["id"], "corpus", r["reason"], r["detail"]) for r in records if "tokens" not in r]
    if data.duplicates == "drop":
        known = known_to_training(by_split, seen)
        rejects += known
        left_out = {reject.id for reject in known}
        by_split = {split: [r for r in members if r["id"] not in left_out] for split, members in by_split.items()}
    counts = _counts(by_split, rejects)
    empty = [split for split in required if not by_split[split]]
    if empty:
        raise EmptySplitError(empty, counts)
    whole = scratch / "whole"
    clean(whole)  # what a kill has left half done
    _write(by_split, rejects, counts, codec, data, whole)
    if data.source == "synthetic":
        os.replace(source, whole / SYNTHETIC_ZIP)
    publish(whole, out)
    clean(scratch)
    return counts


def _counts(by_split: dict[str, list[Record]], rejects: list[Reject]) -> dict[str, Any]:
    accepted = sum(len(members) for members in by_split.values())
    train = by_split["train"]
    return {
        "entries": accepted + len(rejects),
        "accepted": accepted,
        "rejected": len(rejects),
        "reasons": reasons(rejects),
        "splits": {split: len(members) for split, members in by_split.items()},
        "duplicates_within_train": len(train) - len({record["program_hash"] for record in train}),
    }


def _prefixes(records: Iterable[Record], most: int) -> list[tuple[Entry, bytes]]:
    """For each model, up to ``most`` of its proper prefixes, evenly spread, as JSON; none twice."""
    made: dict[str, tuple[Entry, bytes]] = {}
    for record in records:
        program = documents.from_document(record["program"])
        lengths = range(1, len(program.extrudes))
        for length in sorted({lengths[len(lengths) * i // most] for i in range(most)}) if lengths else ():
            prefix = CadProgram(program.extrudes[:length])
            entry = Entry(model_id(base_model(record["id"]), prefix), describe.sentence(prefix))
            made[entry.id] = entry, documents.dumps(prefix).encode()
    return list(made.values())


def _prepare_all(
    tasks: Iterator[PrepareTask],
    number: int,
    folder: Path,
    kernel: Kernel,
    num_workers: int,
    progress: Callable[[int, int, str], None],
) -> list[Record]:
    """The records of all tasks, in order; those that ``folder`` has are not made again."""
    records: list[Record] = []
    with Journal(folder) as journal, Sandbox(prepare, num_workers, kernel.timeout_s, kernel.memory_mib) as sandbox:
        while batch := list(islice(tasks, BATCH)):
            missing = [task for task in batch if task.identity not in journal]
            found = len(records) + len(batch) - len(missing)
            for made, (task, answer) in enumerate(zip(missing, sandbox.map(missing), strict=True), 1):
                journal.add(task.identity, _record(task.entry, answer))
                interrupt.check()
                progress(found + made, number, "models read, built and encoded")
            records += [journal[task.identity] for task in batch]
    return records


def _record(entry: Entry, answer: Record | Failure) -> Record:
    if isinstance(answer, Failure):
        return {"id": entry.id, "reason": answer.reason, "detail": answer.detail}
    return answer


def _write(
    by_split: dict[str, list[Record]],
    rejects: list[Reject],
    counts: dict[str, Any],
    codec: Codec,
    data: Data,
    folder: Path,
) -> None:
    """Shards, index, rejects, manifest, and which programs the train split has."""
    shards = []
    for split in SPLITS:
        members = by_split[split]
        for start in range(0, len(members), data.shard_size):
            chunk = members[start : start + data.shard_size]
            name = f"{split}-{start // data.shard_size:06d}.tar"
            shards.append(write_shard(folder / name, ((record["key"], members_of(record)) for record in chunk)))
            keep_rows(folder / name)
    write_rejects(folder, rejects)
    write_seen(folder, frozenset(record["program_hash"] for record in by_split["train"]))
    fields = {"program.npy": {"shape": [None], "dtype": "uint16"}}
    details = {
        "codec": {**codec.model_dump(mode="json"), "vocabulary_size": Grammar(codec.bits).size},
        "source": data.source,
        "counts": counts,
        "libraries": libraries(__name__),
    }
    write_manifest(folder, "corpus", fields, details, shards, kept_rows)


def members_of(record: Record) -> dict[str, bytes]:
    """What a shard has of a model."""
    document = {name: value for name, value in record.items() if name not in ("tokens", "key")}
    return {"json": encode_json(document), "program.npy": encode_array(np.array(record["tokens"], np.uint16))}
