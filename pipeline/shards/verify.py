"""Checking a folder of shards against its manifest: names, counts, sizes, sha256, keys, arrays."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.fingerprint import sha256_file
from pipeline.shards.manifest import Manifest, Shard
from pipeline.shards.reader import TarIndex, decode_array


def verify_folder(folder: Path, num_workers: int) -> list[str]:
    """All faults of a folder of shards, each naming the shard; empty where there is none.

    Raises:
        UserError: there is no manifest to check against.
    """
    manifest = Manifest.read(folder)
    with ThreadPoolExecutor(num_workers) as pool:
        faults = [
            fault
            for found in pool.map(lambda s: _verify_shard(folder, s, manifest), manifest.shards)
            for fault in found
        ]
    known = {shard.name for shard in manifest.shards}
    return faults + [
        f"{path} is not in the manifest" for path in sorted(folder.glob("*.tar")) if path.name not in known
    ]


def _verify_shard(folder: Path, shard: Shard, manifest: Manifest) -> list[str]:
    path = folder / shard.name
    if not path.is_file():
        return [f"{path} is missing"]
    if sha256_file(path) != shard.sha256:
        return [f"{path} has changed since it was written (sha256 differs)"]
    try:
        index = TarIndex(path)
    except UserError as error:
        return [str(error)]
    faults = []
    if len(index.members) != shard.count:
        faults.append(f"{path} holds {len(index.members)} samples, the manifest says {shard.count}")
    for key, members in index.members.items():
        for name, field in manifest.fields.items():
            if name not in members:
                faults.append(f"{path}: {key} has no {name}")
                continue
            array = decode_array(index.read(key, name), f"{path}: {key}.{name}")
            fits = len(array.shape) == len(field["shape"]) and all(
                due in (None, size) for due, size in zip(field["shape"], array.shape, strict=True)
            )
            if not fits or str(array.dtype) != field["dtype"]:
                faults.append(
                    f"{path}: {key}.{name} is {array.dtype}{list(array.shape)}, not {field['dtype']}{field['shape']}"
                )
            elif np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                faults.append(f"{path}: {key}.{name} has NaN or infinity")
    return faults
