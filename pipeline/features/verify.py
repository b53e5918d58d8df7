"""Checking a folder of shards, from the tars themselves: against its manifest and its index, and against the corpus
whose samples it holds. Tars in object storage are fetched whole, one for each worker at a time.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file
from pipeline.shards.embeddings import restore
from pipeline.shards.index import INDEX, open_index, rows_of, same_rows
from pipeline.shards.manifest import Manifest, Shard, read_rejects
from pipeline.shards.reader import CorpusReader
from pipeline.shards.storage.store import Store, fetched, store_of
from pipeline.shards.tars import TarFile, decode_array, scan


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a shard, or with the index, which rebuilding it mends."""

    shard: str
    text: str


def verify_folder(
    folder: Path, num_workers: int, corpus: Path | None = None, upstream: tuple[Path, ...] = ()
) -> list[Fault]:
    """All faults of a folder of shards: counts, names, sizes, sha256, shapes, dtypes, finiteness, keys, order, index.

    Args:
        corpus: where given, each shard must hold the keys of the corpus' shard, in its order, less what is rejected.
        upstream: folders on the way from the corpus, whose rejects are missing here too.

    Raises:
        UserError: there is no manifest to check against.
    """
    manifest = Manifest.read(folder)
    expected = _expected_keys(folder, corpus, upstream) if corpus is not None else None
    store = store_of(folder)
    faults: list[Fault] = []
    rows: list[np.ndarray | None] = [None] * len(manifest.shards)
    try:
        index = open_index(folder, manifest)
        rows = [index[end - shard.count : end] for shard, end in zip(manifest.shards, manifest.ends, strict=True)]
    except UserError as error:
        faults.append(Fault(INDEX, str(error)))
    with ThreadPoolExecutor(num_workers) as pool:
        check = functools.partial(_verify_shard, folder, store, manifest, expected)
        found = pool.map(check, manifest.shards, rows)
        faults += [Fault(s.name, text) for s, texts in zip(manifest.shards, found, strict=True) for text in texts]
    known = {shard.name for shard in manifest.shards}
    unknown = sorted(set(expected or ()) - known)
    faults += [Fault(name, "is missing, and the manifest does not know it") for name in unknown]
    foreign = (path.name for path in sorted(folder.glob("*.tar")) if path.name not in known)
    return faults + [Fault(name, "is not in the manifest: `cadmllm features` did not write it") for name in foreign]


def _expected_keys(folder: Path, corpus: Path, upstream: tuple[Path, ...]) -> dict[str, tuple[list[str], set[str]]]:
    """For each shard its keys in order, and those that may be missing."""
    rejected = {r.id.replace("/", "") for place in (folder, *upstream) for r in read_rejects(place)}
    reader = CorpusReader(corpus)
    keys = {shard.name: reader.keys(shard.name) for shard in reader.manifest.shards}
    return {name: (listed, rejected.intersection(listed)) for name, listed in keys.items()}


def _verify_shard(
    folder: Path,
    store: Store | None,
    manifest: Manifest,
    expected: dict[str, tuple[list[str], set[str]]] | None,
    shard: Shard,
    rows: np.ndarray | None,
) -> list[str]:
    if not ((folder / shard.name).is_file() if store is None else store.has(shard)):
        return ["is missing"]
    with fetched(folder, store, shard) as path:
        return _faults(path, shard, manifest, rows, expected)


def _faults(
    path: Path,
    shard: Shard,
    manifest: Manifest,
    rows: np.ndarray | None,
    expected: dict[str, tuple[list[str], set[str]]] | None,
) -> list[str]:
    size, digest = path.stat().st_size, sha256_file(path)
    if digest != shard.sha256:
        owner = next((other.name for other in manifest.shards if other.sha256 == digest), None)
        if owner is not None:
            return [f"holds what belongs into {owner}"]
        cut = f": {size} bytes of {shard.bytes}" if size != shard.bytes else ""
        return [f"has changed since it was written (sha256 differs{cut})"]
    try:
        samples = scan(path)
        found = rows_of(path, samples)
    except UserError as error:
        return [str(error)]
    faults = [] if len(samples) == shard.count else [f"holds {len(samples)} samples of {shard.count}"]
    if rows is not None and not same_rows(rows, found):
        faults.append(f"is not what {INDEX} says")
    if expected is not None:
        faults += _key_faults(list(samples), *expected.get(shard.name, ([], set())))
    file = TarFile(path)
    for key, places in samples.items():
        for name, field in manifest.fields.items():
            data = file.read(places[name]) if name in places else None
            faults += [f"{key} has no {name}"] if data is None else _array_faults(data, f"{key}.{name}", field)
    return faults


def _key_faults(present: list[str], keys: list[str], rejected: set[str]) -> list[str]:
    here = set(present)
    missing = [key for key in keys if key not in here and key not in rejected]
    surplus = sorted(here - set(keys))
    faults = [f"lacks {missing[0]} (and {len(missing) - 1} more)"] if missing else []
    faults += [f"holds {surplus[0]}, which the corpus' shard does not (and {len(surplus) - 1} more)"] if surplus else []
    if not surplus and present != [key for key in keys if key in here]:
        faults.append("has its samples in another order than the corpus")
    return faults


def _array_faults(data: bytes, name: str, field: dict[str, object]) -> list[str]:
    try:
        array = decode_array(data, name)
    except UserError as error:
        return [str(error)]
    due = field["shape"]
    assert isinstance(due, list)
    fits = len(array.shape) == len(due) and all(d in (None, size) for d, size in zip(due, array.shape, strict=True))
    if not fits or str(array.dtype) != field["dtype"]:
        return [f"{name} is {array.dtype}{list(array.shape)}, not {field['dtype']}{due}"]
    if field.get("encoding") == "bfloat16":
        array = restore(array, None, "bfloat16")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        return [f"{name} has NaN or infinity"]
    return []
