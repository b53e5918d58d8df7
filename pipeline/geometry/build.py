"""The geometry stage: points with normals and shaded views of every model in the corpus."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.cad.omnicad.dataset import Dataset, dataset_path
from pipeline.cad.omnicad.settings import Source
from pipeline.cad.solids.settings import Kernel
from pipeline.execution.pool import Failure
from pipeline.execution.workers import Workers
from pipeline.geometry.draw import DrawTask, draw
from pipeline.geometry.settings import Geometry
from pipeline.runtime import interrupt
from pipeline.runtime.errors import Reject
from pipeline.runtime.fingerprint import libraries
from pipeline.shards.building import FinishedShard, publish_shards, shard_by_shard
from pipeline.shards.manifest import Shard, reasons
from pipeline.shards.reader import CorpusReader
from pipeline.shards.storage.store import Store
from pipeline.shards.writer import write_shard


def build_geometry(
    corpus: Path,
    data: Source,
    geometry: Geometry,
    kernel: Kernel,
    seed: int,
    scratch: Path,
    out: Path,
    workers: Workers,
    progress: Callable[[int, int, str], None],
    store: Store | None = None,
) -> dict[str, Any]:
    """Make one geometry shard for each corpus shard in ``scratch`` and publish them to ``out``.

    A model that fails here is left out and listed in ``rejects.csv``. What changes in the dataset meanwhile is made
    again. Tars go to ``store`` where there is one.

    Returns:
        samples, rejected, and the reasons.

    Raises:
        UserError: the dataset's zip changed meanwhile, or a machine of a cluster does not see it.
    """
    reader, path = CorpusReader(corpus), dataset_path(data, corpus).absolute()
    dataset = Dataset(path)

    shared = (dataset.root,) if dataset.has_own_files else ()
    with workers.pool(draw, kernel.timeout_s, kernel.memory_mib, shared) as pool:

        def make(paths: Sequence[Path]) -> Iterator[FinishedShard]:
            rows = (row for path in paths for row in reader.rows_of(path.name))
            answers = pool.map(draw_task(dataset, reader.json(row), geometry, seed) for row in rows)
            for path in paths:  # a slow model of one shard holds up nobody: others begin with the next
                finished = _draw_shard(path, reader, answers)
                dataset.check()
                yield finished

        sources: dict[str, str] = {}
        finished: list[FinishedShard] = []
        while (found := _sources(reader, dataset)) != sources:
            sources = found
            finished = shard_by_shard(scratch, sources, make, progress, store)
            dataset = Dataset(path)  # as it is by now
    fields: dict[str, dict[str, Any]] = {"points.npy": {"shape": [geometry.num_points, 6], "dtype": "float32"}}
    if geometry.num_queries:
        fields["queries.npy"] = {"shape": [geometry.num_queries, 4], "dtype": "float32"}
    details = {"settings": geometry.model_dump(mode="json"), "libraries": libraries(__name__)}
    publish_shards(scratch, out, finished, "geometry", fields, details, store)
    rejects = [reject for each in finished for reject in each.rejects]
    return {"samples": sum(f.shard.count for f in finished), "rejected": len(rejects), "reasons": reasons(rejects)}


def _draw_shard(path: Path, corpus: CorpusReader, answers: Iterator[dict[str, bytes] | Failure]) -> FinishedShard:
    """Write the shard at ``path``: its namesake's models, less those that fail; their answers are the next."""
    rejects: list[Reject] = []

    def drawn() -> Iterator[tuple[str, dict[str, bytes]]]:
        for row in corpus.rows_of(path.name):
            answer = next(answers)
            interrupt.check()
            if isinstance(answer, Failure):
                rejects.append(Reject(corpus.id(row), "geometry", answer.reason, answer.detail))
            else:
                yield corpus.key(row), answer

    return FinishedShard(write_shard(path, drawn()), tuple(rejects))


def _sources(corpus: CorpusReader, dataset: Dataset) -> dict[str, str]:
    """What each shard is made from, by sha256: its models, and the user's own clouds and pictures of them."""

    def source(shard: Shard) -> str:
        own = [file.told for row in corpus.rows_of(shard.name) for file in dataset.own_files(corpus.id(row))]
        return hashlib.sha256(json.dumps([shard.sha256, own]).encode()).hexdigest()

    return {shard.name: source(shard) for shard in corpus.manifest.shards}


def draw_task(dataset: Dataset, sample: dict[str, Any], geometry: Geometry, seed: int) -> DrawTask:
    """What a worker needs to draw a sample of the corpus, given its JSON."""
    entry_id = str(sample["id"])
    points, views = dataset.point_file(entry_id), dataset.image_files(entry_id)
    return DrawTask(entry_id, sample["program"], sample["frame"], points, views, geometry, seed)
