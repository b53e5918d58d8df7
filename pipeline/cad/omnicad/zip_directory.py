"""A zip's directory read file by file (APPNOTE.TXT 4.3): Python's own keeps some 700 bytes for each, of 4.5 million."""

import struct
import zipfile
from collections.abc import Iterator
from typing import IO, NamedTuple

END = struct.Struct("<4s8xLL2x")  # bytes and place of the directory
END64_LOCATOR = struct.Struct("<4s16x")
END64 = struct.Struct("<4s36xQQ")
HEADER = struct.Struct("<4s4xHH4xLLLHHH8xL")
MAX_COMMENT = 0xFFFF
ZIP64_FIELD = 1
UTF8 = 0x800
WHOLE = 0xFFFFFFFF  # of a number that stands in the ZIP64 field


class Member(NamedTuple):
    """Where a zip has a file, as its directory says."""

    offset: int
    packed: int
    size: int
    crc: int
    method: int
    flags: int


def read_directory(file: IO[bytes]) -> Iterator[tuple[str, Member]]:
    """Names and places of all files, in the order of the directory. The zip may lie behind something else.

    Raises:
        zipfile.BadZipFile: it is none.
    """
    start, end, shift = _place(file)
    file.seek(start)
    while start < end:
        header = _exactly(file, HEADER.size)
        signature, flags, method, crc, packed, size, *lengths, offset = HEADER.unpack(header)
        if signature != b"PK\1\2":
            raise zipfile.BadZipFile("its directory is damaged")
        name, extra, _ = (_exactly(file, length) for length in lengths)
        start += len(header) + sum(lengths)
        size, packed, offset = _wide([size, packed, offset], extra)
        text = name.decode("utf-8" if flags & UTF8 else "cp437", "replace")
        yield text.partition("\0")[0], Member(offset + shift, packed, size, crc, method, flags)


def _place(file: IO[bytes]) -> tuple[int, int, int]:
    """Start and end of the directory, and how many bytes lie before the zip."""
    length = file.seek(0, 2)
    at = max(0, length - END.size - MAX_COMMENT)
    file.seek(at)
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < END.size:
        raise zipfile.BadZipFile("it has no directory")
    _, size, offset = END.unpack_from(tail, found)
    end = at + found
    if end >= END64_LOCATOR.size + END64.size:
        file.seek(end - END64_LOCATOR.size - END64.size)
        wide, locator = _exactly(file, END64.size), _exactly(file, END64_LOCATOR.size)
        if locator.startswith(b"PK\6\7") and wide.startswith(b"PK\6\6"):
            _, size, offset = END64.unpack(wide)
            end -= END64_LOCATOR.size + END64.size
    shift = end - size - offset
    if shift < 0:
        raise zipfile.BadZipFile("its directory lies elsewhere than it says")
    return end - size, end, shift


def _wide(values: list[int], extra: bytes) -> list[int]:
    """Sizes and place; those that are too large for their field stand in that of ZIP64."""
    if WHOLE not in values:
        return values
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == ZIP64_FIELD and length >= 8 * values.count(WHOLE):
            wide = iter(struct.unpack_from(f"<{values.count(WHOLE)}Q", extra, 4))
            return [next(wide) if value == WHOLE else value for value in values]
        extra = extra[4 + length :]
    return values  # this file cannot be read, others can


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise zipfile.BadZipFile("its directory is cut off")
    return data
