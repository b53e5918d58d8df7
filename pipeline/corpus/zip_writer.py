"""A zip written file by file (APPNOTE.TXT 4.3): Python's own keeps 360 bytes for each file until the end."""

import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from pipeline.cad.omnicad.zip_directory import UTF8, WHOLE, ZIP64_FIELD

EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same bytes
DATE = 1 << 5 | 1  # as the directory has it: years since 1980, month, day
ENTRY = struct.Struct("<4s4B4HL2L5H2L")
END64 = struct.Struct("<4sQ2H2L4Q")
END64_LOCATOR = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")
ZIP64_OFFSET = struct.Struct("<HHQ")
ZIP64_VERSION = 45
PERMISSIONS = 0o600 << 16


@contextmanager
def zip_writer(file: IO[bytes]) -> Iterator[Callable[[str, bytes], None]]:
    """Give what writes a deflated file to a zip, which is whole when the block ends well. Its bytes are ``zipfile``'s.

    The directory waits in a temporary file.

    Args:
        file: to write to, at its beginning.
    """
    count = 0
    with tempfile.TemporaryFile() as directory:

        def add(name: str, data: bytes) -> None:
            nonlocal count
            deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            packed = deflate.compress(data) + deflate.flush()
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type, info.CRC, info.header_offset = zipfile.ZIP_DEFLATED, zlib.crc32(data), file.tell()
            info.file_size, info.compress_size = len(data), len(packed)
            file.write(info.FileHeader() + packed)
            directory.write(_entry(info))
            count += 1

        yield add
        start, size = file.tell(), directory.tell()
        directory.seek(0)
        shutil.copyfileobj(directory, file)
    if count > zipfile.ZIP_FILECOUNT_LIMIT or max(start, size) > zipfile.ZIP64_LIMIT:
        wide = END64.size - 12, ZIP64_VERSION, ZIP64_VERSION, 0, 0, count, count, size, start
        file.write(END64.pack(b"PK\6\6", *wide) + END64_LOCATOR.pack(b"PK\6\7", 0, start + size, 1))
        count, size, start = min(count, 0xFFFF), min(size, WHOLE), min(start, WHOLE)
    file.write(END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0))


def _entry(info: zipfile.ZipInfo) -> bytes:
    """What the directory says of a file."""
    name, extra, offset, version = info.filename.encode(), b"", info.header_offset, info.extract_version
    if offset > zipfile.ZIP64_LIMIT:
        extra, offset, version = ZIP64_OFFSET.pack(ZIP64_FIELD, 8, offset), WHOLE, ZIP64_VERSION
    made = version, info.create_system, version, 0
    how = 0 if name.isascii() else UTF8, info.compress_type, 0, DATE
    sizes = info.CRC, info.compress_size, info.file_size, len(name), len(extra)
    return ENTRY.pack(b"PK\1\2", *made, *how, *sizes, 0, 0, 0, PERMISSIONS, offset) + name + extra
