"""Tensors out of checkpoint files without running what a pickle asks for."""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.runtime.errors import UserError

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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file or of a file that ``torch.save`` wrote, by dotted name.

    A ``state_dict`` level, as Lightning writes it, is looked into.

    Raises:
        UserError: the file is missing, damaged or holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            loaded: dict[str, Tensor] = load_file(path)
            return loaded
        with zipfile.ZipFile(path) as archive:
            content = _Unpickler.read(archive)
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        ValueError,
        IndexError,
        AttributeError,
    ) as error:
        raise UserError(f"{path} is not a checkpoint that can be read: {type(error).__name__}: {error}") from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise UserError(f"{path} is damaged: {error}") from error
        raise
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = (
        {key: value for key, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    )
    if not tensors:
        raise UserError(f"{path} holds no tensors by name")
    return tensors


class _Inert:
    """Stands for any object that is not a tensor: takes whatever the pickle gives it, does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> "_Inert":
        return self

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...

    def __hash__(self) -> int:
        return id(self)


class _Storage:
    """The name of a storage class, standing for it in a persistent id."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Unpickler(pickle.Unpickler):
    """Knows tensors, storages and ordered dictionaries; everything else becomes inert."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(archive.open(name), encoding="utf-8")
        self._archive = archive
        self._folder = name.removesuffix("data.pkl")

    @classmethod
    def read(cls, archive: zipfile.ZipFile) -> Any:
        name = next((n for n in archive.namelist() if n == "data.pkl" or n.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("no data.pkl in it; was it written by torch.save?")
        return cls(archive, name).load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return _Storage(STORAGE_DTYPES[name])
        return type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, size = pid
        if not isinstance(kind, _Storage):
            raise pickle.UnpicklingError(f"a storage of unknown type {kind}")
        data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        return torch.frombuffer(data, dtype=kind.dtype, count=size) if size else torch.empty(0, dtype=kind.dtype)


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()
