"""Checking a folder of shards: against its manifest, and against the corpus whose samples it holds."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file
from pipeline.shards.embeddings import restore
from pipeline.shards.manifest import Manifest, Shard, read_rejects
from pipeline.shards.reader import TarIndex, decode_array, read_index


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a shard, which rebuilding it mends."""

    shard: str
    text: str


def verify_folder(
    folder: Path, num_workers: int, corpus: Path | None = None, upstream: tuple[Path, ...] = ()
) -> list[Fault]:
    """All faults of a folder of shards: counts, names, sizes, sha256, shapes, dtypes, finiteness, keys, order.

    Args:
        corpus: where given, each shard must hold the keys of the corpus' shard, in its order, less what is rejected.
        upstream: folders on the way from the corpus, whose rejects are missing here too.

    Raises:
        UserError: there is no manifest to check against.
    """
    manifest = Manifest.read(folder)
    expected = _expected_keys(folder, corpus, upstream) if corpus is not None else None
    with ThreadPoolExecutor(num_workers) as pool:
        found = pool.map(lambda s: _verify_shard(folder, s, manifest, expected), manifest.shards)
        faults = [Fault(s.name, text) for s, texts in zip(manifest.shards, found, strict=True) for text in texts]
    known = {shard.name for shard in manifest.shards}
    unknown = sorted(set(expected or ()) - known)
    faults += [Fault(name, "is missing, and the manifest does not know it") for name in unknown]
    foreign = (path.name for path in sorted(folder.glob("*.tar")) if path.name not in known)
    return faults + [Fault(name, "is not in the manifest: no stage wrote it here") for name in foreign]


def _expected_keys(folder: Path, corpus: Path, upstream: tuple[Path, ...]) -> dict[str, tuple[list[str], set[str]]]:
    """For each shard its keys in order, and those that may be missing."""
    rejected = {r.id.replace("/", "") for place in (folder, *upstream) for r in read_rejects(place)}
    keys: dict[str, list[str]] = defaultdict(list)
    for row in read_index(corpus):
        keys[row.shard].append(row.key)
    return {name: (listed, rejected.intersection(listed)) for name, listed in keys.items()}


def _verify_shard(
    folder: Path, shard: Shard, manifest: Manifest, expected: dict[str, tuple[list[str], set[str]]] | None
) -> list[str]:
    path = folder / shard.name
    if not path.is_file():
        return ["is missing"]
    size, digest = path.stat().st_size, sha256_file(path)
    if digest != shard.sha256:
        owner = next((other.name for other in manifest.shards if other.sha256 == digest), None)
        if owner is not None:
            return [f"holds what belongs into {owner}"]
        cut = f": {size} bytes of {shard.bytes}" if size != shard.bytes else ""
        return [f"has changed since it was written (sha256 differs{cut})"]
    try:
        index = TarIndex(path)
    except UserError as error:
        return [str(error)]
    faults = [] if len(index.rows) == shard.count else [f"holds {len(index.rows)} samples of {shard.count}"]
    if expected is not None:
        faults += _key_faults(list(index.rows), *expected.get(shard.name, ([], set())))
    for key in index.rows:
        for name, field in manifest.fields.items():
            faults += _array_faults(index, key, name, field)
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


def _array_faults(index: TarIndex, key: str, name: str, field: dict[str, object]) -> list[str]:
    if name not in index.extensions(key):
        return [f"{key} has no {name}"]
    try:
        array = decode_array(index.read(key, name), f"{key}.{name}")
    except UserError as error:
        return [str(error)]
    due = field["shape"]
    assert isinstance(due, list)
    fits = len(array.shape) == len(due) and all(d in (None, size) for d, size in zip(due, array.shape, strict=True))
    if not fits or str(array.dtype) != field["dtype"]:
        return [f"{key}.{name} is {array.dtype}{list(array.shape)}, not {field['dtype']}{due}"]
    if field.get("encoding") == "bfloat16":
        array = restore(array, None, "bfloat16")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        return [f"{key}.{name} has NaN or infinity"]
    return []
