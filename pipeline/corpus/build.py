"""The corpus stage: Omni-CAD, or a synthetic corpus in its layout, to shards of captions and program tokens.

Records wait in a journal on disk: splits, duplicates and the order by id are known only when all have been read.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.cad.language.grammar import Grammar
from pipeline.cad.language.program import CadProgram
from pipeline.cad.language.settings import Codec
from pipeline.cad.omnicad import documents
from pipeline.cad.omnicad.dataset import SYNTHETIC_ZIP, Dataset, dataset_path
from pipeline.cad.omnicad.listing import Entry, Listing, base_model
from pipeline.cad.omnicad.published import SPLITS
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.parts import describe
from pipeline.cad.solids.settings import Kernel
from pipeline.corpus.duplicates import leave_out_known
from pipeline.corpus.prepare import PrepareTask, model_id, prepare, read_texts
from pipeline.corpus.selection import Selection
from pipeline.corpus.settings import Data
from pipeline.corpus.synthetic import make_synthetic_zip
from pipeline.execution.pool import Failure, Pool
from pipeline.execution.workers import Workers
from pipeline.runtime import interrupt
from pipeline.runtime.atomic import publish
from pipeline.runtime.errors import Reject, UserError
from pipeline.runtime.fingerprint import libraries
from pipeline.runtime.scratch import Journal, clean
from pipeline.shards.building import SHARDS, FinishedShard, kept_rows, write_manifest
from pipeline.shards.manifest import Shard, reasons, write_rejects
from pipeline.shards.seen import write_seen
from pipeline.shards.storage.store import Store, write_place
from pipeline.shards.writer import encode_array, encode_json, write_shard

Record = dict[str, Any]
T = TypeVar("T")


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


def build_corpus(
    data: Data,
    codec: Codec,
    kernel: Kernel,
    seed: int,
    scratch: Path,
    out: Path,
    workers: Workers,
    progress: Callable[[int, int, str], None],
    required: Sequence[str] = SPLITS,
    seen: AbstractSet[str] = frozenset(),
    store: Store | None = None,
) -> dict[str, Any]:
    """Make the corpus in ``scratch`` and publish it to ``out``; tars go to ``store`` where there is one.

    What changes in the dataset meanwhile is made again.

    Args:
        required: splits that may not be empty.
        seen: hashes of programs that networks were trained on before: with ``data.duplicates: drop`` no test.

    Returns:
        The counts: entries, accepted, rejected, by reason and by split, which add up; and how many models of the
        train split have the program of another one.

    Raises:
        UserError: the dataset is none, or EmptySplitError.
    """
    source = _source(data, seed, scratch, progress)
    made, state = scratch / SHARDS, ""
    with Journal(scratch) as journal, workers.pool(prepare, kernel.timeout_s, kernel.memory_mib) as pool:
        while (found := Dataset(source.resolve()).state()) != state:
            state = found
            counts = _make(data, codec, seed, source, made, journal, pool, progress, required, seen, store)
    if data.source == "synthetic":
        os.replace(source, made / SYNTHETIC_ZIP)
    publish(made, out)
    clean(scratch)
    return counts


def _make(
    data: Data,
    codec: Codec,
    seed: int,
    source: Path,
    made: Path,
    journal: Journal,
    pool: Pool[PrepareTask, Record],
    progress: Callable[[int, int, str], None],
    required: Sequence[str],
    seen: AbstractSet[str],
    store: Store | None,
) -> dict[str, Any]:
    """Make the corpus of the dataset as it is now in the folder ``made``; its counts."""
    dataset = Dataset(source.resolve())
    entries = dataset.listing(data.limit)
    rejects, selection = entries.rejects, Selection()
    listed = len(entries) + len(rejects)
    work = _Preparation(data, codec, journal, pool, selection, rejects)
    read = _shown(entries, len(entries), "models read, built and encoded", progress)
    work.prepare_all(read_texts(dataset, read, rejects), is_prefix=False)
    selection.assign_splits(data.split, seed, dataset.published_split())
    assert sum(selection.counts().values()) + len(rejects) == listed, "all that is listed is accepted or rejected"
    if data.prefixes:
        work.prepare_prefixes(entries, progress)
    if data.duplicates == "drop":
        leave_out_known(selection, seen, rejects)
    counts = _counts(selection, rejects)
    if empty := [split for split in required if not counts["splits"][split]]:
        raise EmptySplitError(empty, counts)
    _write(selection, journal, rejects, counts, codec, data, made, store)
    return counts


def _source(data: Data, seed: int, scratch: Path, progress: Callable[[int, int, str], None]) -> Path:
    """The dataset: the user's, or one that is made here."""
    source = dataset_path(data, scratch)
    if data.source == "synthetic" and not source.is_file():
        progress(0, data.synthetic.num_models, f"making {data.synthetic.num_models} synthetic parts")
        make_synthetic_zip(source, data, seed)
    return source


def _shown(items: Iterable[T], total: int, text: str, progress: Callable[[int, int, str], None]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        progress(number, total, text)
        yield item


@dataclass(frozen=True, slots=True)
class _Preparation:
    """From models to what is known of them: records in the journal, in the selection what can be used, and rejects."""

    data: Data
    codec: Codec
    journal: Journal
    pool: Pool[PrepareTask, Record]
    selection: Selection
    rejects: Rejects

    def prepare_all(self, texts: Iterable[tuple[Entry, bytes]], is_prefix: bool) -> None:
        """Prepare models, as workers are free for them; those whose records the journal has are not made again."""
        for task, answer in self.pool.as_completed(self._missing(texts, is_prefix)):
            record: Record
            if isinstance(answer, Failure):
                record = {"id": task.entry.id, "reason": answer.reason, "detail": answer.detail}
            else:
                record = answer
            self.journal.add(task.identity, record)
            self._keep(task.identity, record, is_prefix)
            interrupt.check()

    def prepare_prefixes(self, entries: Listing, progress: Callable[[int, int, str], None]) -> None:
        """Prepare how the train split's models begin, where the dataset has no entry for it."""
        identities = self.selection.identities("train", prefixes=False)
        number = self.selection.counts()["train"]
        train = _shown(identities, number, "models' prefixes built and encoded", progress)
        prefixes = _prefixes((self.journal[identity] for identity in train), self.data.prefixes)
        new = ((entry, text) for entry, text in prefixes if not (entry.id in self.rejects or entry.id in entries))
        self.prepare_all(new, is_prefix=True)

    def _missing(self, texts: Iterable[tuple[Entry, bytes]], is_prefix: bool) -> Iterator[PrepareTask]:
        bits, tolerance, most = self.codec.bits, self.codec.tolerance, self.data.max_program_tokens
        for entry, text in texts:
            task = PrepareTask(entry, text, bits, tolerance, most)
            if task.identity in self.journal:
                self._keep(task.identity, self.journal[task.identity], is_prefix)
                interrupt.check()
            else:
                yield task

    def _keep(self, identity: str, record: Record, is_prefix: bool) -> None:
        if "tokens" in record:
            self.selection.add(record, identity, is_prefix)
        else:
            self.rejects.add(Reject(record["id"], "corpus", record["reason"], record["detail"]))


def _counts(selection: Selection, rejects: Rejects) -> dict[str, Any]:
    splits = selection.counts()
    accepted = sum(splits.values())
    return {
        "entries": accepted + len(rejects),
        "accepted": accepted,
        "rejected": len(rejects),
        "reasons": reasons(rejects),
        "splits": splits,
        "duplicates_within_train": splits["train"] - sum(1 for _ in selection.programs("train")),
    }


def _prefixes(records: Iterable[Record], most: int) -> Iterator[tuple[Entry, bytes]]:
    """For each model, up to ``most`` of its proper prefixes, evenly spread, as JSON; none twice.

    Args:
        records: in order of id; of two prefixes that are called the same, that of the later model is taken.
    """
    for base, versions in groupby(records, key=lambda record: base_model(record["id"])):
        made: dict[str, tuple[Entry, bytes]] = {}
        for record in versions:
            program = documents.from_document(record["program"])
            lengths = range(1, len(program.extrudes))
            for length in sorted({lengths[len(lengths) * i // most] for i in range(most)}) if lengths else ():
                prefix = CadProgram(program.extrudes[:length])
                entry = Entry(model_id(base, prefix), describe.sentence(prefix))
                made[entry.id] = entry, documents.dumps(prefix).encode()
        yield from made.values()


def _write(
    selection: Selection,
    journal: Journal,
    rejects: Rejects,
    counts: dict[str, Any],
    codec: Codec,
    data: Data,
    folder: Path,
    store: Store | None,
) -> None:
    """Shards, index, rejects, manifest, and which programs the train split has."""
    shards = _write_shards(selection, journal, data.shard_size, folder, store)
    if store is not None:
        write_place(folder, store.url)
    write_rejects(folder, rejects)
    write_seen(folder, selection.programs("train"))
    fields = {"program.npy": {"shape": [None], "dtype": "uint16"}}
    details = {
        "codec": {**codec.model_dump(mode="json"), "vocabulary_size": Grammar(codec.bits).size},
        "source": data.source,
        "counts": counts,
        "libraries": libraries(__name__),
    }
    write_manifest(folder, "corpus", fields, details, shards, kept_rows)


def _write_shards(selection: Selection, journal: Journal, size: int, folder: Path, store: Store | None) -> list[Shard]:
    """All samples, split by split in order of id. Of what a kill has left, shards of the same records stay."""
    shards = []
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        identities, numbers = selection.identities(split), count()
        while chunk := list(islice(identities, size)):
            interrupt.check()
            path = folder / f"{split}-{next(numbers):06d}.tar"
            source = hashlib.sha256("".join(chunk).encode()).hexdigest()
            finished = FinishedShard.read(path, source, store)
            if finished is None:
                records = map(journal.__getitem__, chunk)
                finished = FinishedShard(write_shard(path, ((r["key"], members_of(r)) for r in records)), ())
                finished.write(path, source, store)
            shards.append(finished.shard)
    for path in set(folder.iterdir()) - {folder / shard.name for shard in shards}:
        path.unlink()
    return shards


def members_of(record: Record) -> dict[str, bytes]:
    """What a shard has of a model."""
    document = {name: value for name, value in record.items() if name not in ("tokens", "key")}
    return {"json": encode_json(document), "program.npy": encode_array(np.array(record["tokens"], np.uint16))}
