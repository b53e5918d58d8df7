"""Tensors out of checkpoint files without running what a pickle asks for."""

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.encoders.pickles import Stored, read_pickle
from pipeline.runtime.errors import UserError
from pipeline.runtime.state_dicts import read_safetensors

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

MOST_VIEWS = 4  # tensors may share numbers: all of them together take so many times the file's bytes at most
# What zipfile, pickletools and torch raise, whatever the damage leads to.
DAMAGE = (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError,
          OverflowError, struct.error)  # fmt: skip


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file or of a file that ``torch.save`` wrote, by dotted name.

    A ``state_dict`` level, as Lightning writes it, is looked into.

    Raises:
        UserError: the file is missing, damaged or holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with zipfile.ZipFile(path) as file:
            archive = _Archive(file, path.stat().st_size)
            content = archive.content()
            if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
                content = content["state_dict"]
            stored = content.items() if isinstance(content, dict) else ()
            tensors = {key: archive.tensor(value) for key, value in stored if isinstance(value, Stored)}
    except DAMAGE as error:
        detail = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{path} is not a checkpoint that can be read: {detail}") from error
    if not tensors:
        raise UserError(f"{path} holds no tensors by name")
    return tensors


class _Archive:
    """The storages of a zip that ``torch.save`` wrote, each read once: together no more than the file has bytes."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        self._storages: dict[str, Tensor] = {}
        self._unread, self._left = size, MOST_VIEWS * size
        self._folder = ""

    def content(self) -> Any:
        """What was saved, with ``Stored`` in place of tensors."""
        name = next((n for n in self._archive.namelist() if n == "data.pkl" or n.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("no data.pkl in it; was it written by torch.save?")
        self._folder = name.removesuffix("data.pkl")
        return read_pickle(self._bytes(name))

    def tensor(self, stored: Stored) -> Tensor:
        """A tensor, its own copy.

        Raises:
            ValueError, LookupError: it lies outside of its storage.
        """
        _, kind, key, _, number = stored.pid
        dtype = STORAGE_DTYPES[kind.name]
        name = f"{self._folder}data/{key}"
        if name not in self._storages:
            data = bytearray(self._bytes(name))
            self._storages[name] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        storage, sizes, strides = self._storages[name], tuple(stored.size), tuple(stored.stride)
        if not all(type(n) is int and n >= 0 for n in (stored.offset, *sizes, *strides)) or len(sizes) != len(strides):
            raise ValueError(f"a tensor of size {sizes} and stride {strides}"[:200])
        last = stored.offset + sum((n - 1) * step for n, step in zip(sizes, strides))
        count = math.prod(sizes)
        self._left -= count * dtype.itemsize
        if storage.dtype != dtype or (count and last >= len(storage)) or self._left < 0:
            raise ValueError(f"a tensor of {count} numbers in a storage of {len(storage)}, {number} as it says"[:200])
        return torch.as_strided(storage, sizes, strides, stored.offset if count else 0).clone()

    def _bytes(self, name: str) -> bytes:
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch.save never does")
        self._unread -= info.file_size
        if self._unread < 0:
            raise ValueError(f"{name} lies where other files do")
        return self._archive.read(info)
