"""``.npy`` bytes to arrays, for files of strangers too: nothing is unpickled, and a header is believed no further than
there are bytes behind it.
"""

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np

Order = Literal["C", "F"]
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_HEADER = 1 << 16  # bytes; numpy itself reads no more than 10,000


def parse_array(data: bytes) -> np.ndarray:
    """The array in ``.npy`` bytes, its own copy.

    Raises:
        ValueError: they are none, hold objects, or less than their header says.
    """
    shape, order, dtype, offset = _header(data[:MOST_HEADER], len(data))
    return np.ndarray(shape, dtype, data, offset, order=order).copy(order="K")


def map_array(path: Path) -> np.ndarray:
    """The array in a ``.npy`` file, mapped: memory is taken by the rows that are looked at.

    Raises:
        ValueError, OSError: as ``parse_array``.
    """
    with open(path, "rb") as file:
        shape, order, dtype, offset = _header(file.read(MOST_HEADER), path.stat().st_size)
    mapped: np.ndarray = np.memmap(path, dtype, "r", offset, shape, order)
    return mapped.view(np.ndarray)  # numpy's own class for maps takes twice as long for a row


def _header(start: bytes, size: int) -> tuple[tuple[int, ...], Order, np.dtype, int]:
    """Shape, order, dtype, and where the numbers begin, of a file of so many bytes."""
    file = io.BytesIO(start)
    try:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # Python's own parser reads it, and raises whatever the damage leads to
        raise ValueError(f"its header is damaged: {type(error).__name__}: {error}"[:200]) from error
    if dtype.hasobject:
        raise ValueError("it holds objects, which would have to be unpickled")
    if any(isinstance(length, bool) or length < 0 for length in shape) or dtype.itemsize == 0:
        raise ValueError(f"its header is damaged: shape {shape} of {dtype}"[:200])
    if math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"it is cut off: shape {shape} of {dtype} in {size:,} bytes"[:200])
    return shape, "F" if fortran else "C", dtype, file.tell()
