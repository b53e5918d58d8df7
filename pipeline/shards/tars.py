"""What lies where in a tar: its members are found once, when it is written or checked, and read at their places."""

import io
import os
import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.runtime.errors import UserError
from pipeline.shards.arrays import parse_array

Place = tuple[int, int]  # offset and size of a member's bytes


class TarFile:
    """An open file that is read at any place, and closed when it is dropped.

    Raises:
        UserError: it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; run its pipeline stage again") from error
        self.size = os.fstat(self.fd).st_size

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def read(self, place: Place) -> bytes:
        """The bytes of one place.

        Raises:
            UserError: the file ends before.
        """
        offset, size = place
        if offset < 0 or not 0 <= size <= self.size:  # no room is made for what cannot be there
            raise UserError(f"{self.path} has no such place ({offset}, {size}); run its pipeline stage again")
        # Read, not mapped: pages of a map would count as this process' memory.
        data = os.pread(self.fd, size, offset)
        if len(data) < size:
            raise UserError(f"{self.path} is cut off; run its pipeline stage again")
        return data

    def read_many(self, places: np.ndarray) -> list[bytes]:
        """The bytes of each of some places (n, 2)."""
        return list(map(self.read, places.tolist()))


def scan(path: Path) -> dict[str, dict[str, Place]]:
    """The members of each sample of a tar, by key and extension.

    Raises:
        UserError: the file is missing or no tar.
    """
    samples: dict[str, dict[str, Place]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    raise ValueError(f"{member.name!r:.80} is a link, a folder or a device")
                key, _, extension = member.name.partition(".")
                samples.setdefault(key, {})[extension] = member.offset_data, member.size
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run its pipeline stage again") from error
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); run its pipeline stage again") from error
    return samples


def decode_array(data: bytes, name: str) -> np.ndarray:
    """The array in ``.npy`` bytes.

    Raises:
        UserError: the bytes are not an array.
    """
    try:
        return parse_array(data)
    except ValueError as error:
        raise UserError(f"{name} is damaged: {error}") from error


@lru_cache
def header_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """How many bytes stand before the numbers of such an array in ``.npy``."""
    header = io.BytesIO()
    described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.tell()
