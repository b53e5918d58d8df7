"""Writing one shard: a WebDataset tar with the same bytes for the same samples."""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runtime.atomic import atomic_open
from pipeline.runtime.fingerprint import sha256_file
from pipeline.shards.manifest import Shard


def encode_array(array: np.ndarray) -> bytes:
    """An array as ``.npy`` bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def encode_json(value: Any) -> bytes:
    """A value as compact JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> Shard:
    """Write samples (key, member extension -> bytes) as one tar that appears when it is whole."""
    import webdataset  # and with it torch: workers that write no shard do without

    count = 0
    # mtime 0: the bytes depend on the samples alone. And the writer is closed, too, whatever happens: a stream that is
    # left open writes into a closed file when it is collected.
    with (
        atomic_open(path, "wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0, user="", group="") as writer,
    ):
        for key, members in samples:
            writer.write({"__key__": key, **members})
            count += 1
    return Shard(path.name, count, os.path.getsize(path), sha256_file(path))
