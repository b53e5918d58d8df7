"""Where each sample of a folder of shards lies: ``index.npy`` beside the tars, which readers map and do not read.

It is one array with a row for each sample, in the order of the manifest's shards and of their samples. Its fields:

- ``key``, and ``digest``, the key's (``pipeline.runtime.seeds``), which what is drawn for the sample follows from;
- for each member (``json``, ``image.npy``, …) its place in the tar: offset and size; -1 where a sample lacks it;
- where samples have a program: ``id``, ``program_tokens``, ``num_extrudes``, ``num_curves``, and the place of the
  ``caption`` within ``json``.

All of it follows from the tars. The manifest has its sha256.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.runtime.atomic import atomic_open
from pipeline.runtime.errors import UserError
from pipeline.runtime.fingerprint import sha256_file
from pipeline.runtime.seeds import digest
from pipeline.shards.arrays import map_array
from pipeline.shards.manifest import MANIFEST, Manifest, Shard
from pipeline.shards.tars import Place, TarFile, decode_array, scan
from pipeline.shards.writer import encode_json

INDEX = "index.npy"
COUNTS = ("program_tokens", "num_extrudes", "num_curves")
ABSENT = (-1, -1)


def shard_rows(path: Path) -> np.ndarray:
    """The rows of one tar.

    Raises:
        UserError: it is missing or damaged.
    """
    return rows_of(path, scan(path))


def rows_of(path: Path, samples: Mapping[str, Mapping[str, Place]]) -> np.ndarray:
    """The rows of a tar, given what ``scan`` finds in it."""
    columns: dict[str, np.ndarray] = {
        "key": np.array([key.encode() for key in samples], "S"),
        "digest": np.array([digest(key) for key in samples], "<u8"),
    }
    for member in sorted({member for places in samples.values() for member in places}):
        columns[member] = np.array([places.get(member, ABSENT) for places in samples.values()], "<i8")
    if "program.npy" in columns:
        columns |= _program_columns(path, samples)
    rows = np.zeros(len(samples), [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    return rows


def _program_columns(path: Path, samples: Mapping[str, Mapping[str, Place]]) -> dict[str, np.ndarray]:
    """The columns that only the corpus has."""
    file, ids, counts, captions = TarFile(path), [], [], []
    for key, places in samples.items():
        try:
            text, program = file.read(places["json"]), file.read(places["program.npy"])
            document = json.loads(text)
            caption = encode_json(document["caption"])
            ids.append(document["id"].encode())
            statistics = document["statistics"]
            length = len(decode_array(program, f"{path}: {key}.program.npy"))
            counts.append((length, statistics["num_extrudes"], statistics["num_curves"]))
            captions.append((text.index(caption), len(caption)))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: {key} is no sample of a corpus ({error!r}); run its pipeline stage again"
            ) from error
    columns = dict(zip(COUNTS, np.array(counts, "<i4").T, strict=True))
    return {"id": np.array(ids, "S"), **columns, "caption": np.array(captions, "<i4")}


def write_index(folder: Path, shards: Sequence[Shard], rows_by: Callable[[Path], np.ndarray] = shard_rows) -> str:
    """Write the index of finished shards, with no more memory than one of them takes.

    Args:
        rows_by: gives the rows of a tar, as ``shard_rows`` does.

    Returns:
        The sha256 of the index.
    """
    dtype, number = _joined([]), sum(shard.count for shard in shards)
    with tempfile.TemporaryFile() as each, atomic_open(folder / INDEX, "wb") as file:
        for shard in shards:  # all of them have to be seen before it is known how wide a row is
            rows = rows_by(folder / shard.name)
            np.save(each, rows, allow_pickle=False)
            dtype = _joined([dtype, rows.dtype])
        each.seek(0)
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (number,)}
        np.lib.format.write_array_header_1_0(file, described)
        for _ in shards:
            file.write(_widened(np.load(each, allow_pickle=False), dtype).tobytes())
    return sha256_file(folder / INDEX)


def _joined(dtypes: Iterable[np.dtype]) -> np.dtype:
    """All fields that any of them has, names as wide as the longest."""
    fields = {"key": np.dtype("S1"), "digest": np.dtype("<u8")}
    for dtype in dtypes:
        for name in dtype.names or ():
            fields[name] = max(fields.get(name, dtype[name]), dtype[name], key=lambda field: field.itemsize)
    return np.dtype(sorted(fields.items()))


def same_rows(stored: np.ndarray, found: np.ndarray) -> bool:
    """Whether rows of an index are those that ``shard_rows`` found in a tar."""
    dtype = _joined([stored.dtype, found.dtype])
    return len(stored) == len(found) and bool((_widened(stored, dtype) == _widened(found, dtype)).all())


def _widened(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows as ``_joined`` has them; members that none of them has are absent."""
    widened = np.zeros(len(rows), dtype)
    for name in dtype.names or ():
        widened[name] = rows[name] if name in (rows.dtype.names or ()) else ABSENT[0]
    return widened


def open_index(folder: Path, manifest: Manifest) -> np.ndarray:
    """The index of a folder, mapped: memory is taken by the rows that are looked at.

    Raises:
        UserError: it is missing, damaged, or not of the manifest's shards.
    """
    path = folder / INDEX
    try:
        if sha256_file(path) == manifest.index_sha256:
            index = map_array(path)
            _check_columns(index, manifest)
            return index
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run its pipeline stage again") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); run its pipeline stage again") from error
    raise UserError(f"{path} is damaged, or not of the shards in {MANIFEST} beside it; run its pipeline stage again")


def _check_columns(index: np.ndarray, manifest: Manifest) -> None:
    """Raise ``ValueError`` where an index is not the table that readers take it for."""
    if index.shape != (manifest.num_samples,) or not index.dtype.names:
        raise ValueError(f"shape {index.shape} for {manifest.num_samples} samples")
    if missing := {"key", "digest"} - set(index.dtype.names):
        raise ValueError(f"no column {min(missing)}")
    for name in index.dtype.names:
        kind, shape = index.dtype[name].base, index.dtype[name].shape
        texts = name in ("key", "id") and kind.kind == "S" and shape == ()
        numbers = name in ("digest", *COUNTS) and kind.kind in "iu" and shape == ()
        if not (texts or numbers or (kind.kind == "i" and shape == (2,))):
            raise ValueError(f"a column {name!r:.40} of {index.dtype[name]}")
