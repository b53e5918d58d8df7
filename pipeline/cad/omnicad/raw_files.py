"""Files of a dataset, in a folder or a zip: their names, listed once, and each by itself, for a worker to read.

Links are followed as the system follows them: a dataset, its folders and files may all be links. Nothing is listed
deeper than Omni-CAD's layout goes, so a link back up leads to nothing new.
"""

import hashlib
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.cad.omnicad.documents import MAX_BYTES
from pipeline.cad.omnicad.zip_directory import Member, read_directory
from pipeline.runtime.errors import RejectError, UserError
from pipeline.runtime.scratch import temporary_tables

FOLDERS = ("json", "txt", "pcd", "img")
LAYOUT = "json/0000/<id>.json and txt/0000.json are looked for"
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field (APPNOTE.TXT 4.3.7)
ENCRYPTED = 1
DOWN = re.compile(r"((?:[^/]+/)?)(json|txt)/")
UNREADABLE = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def view_name(entry_id: str, view: int) -> str:
    """The file of one of a model's views."""
    return f"img/{entry_id}_{view:03d}.png"


class NoDatasetError(UserError):
    """No dataset is at a path."""


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a dataset. Reading it looks at nothing else of the dataset, not even at the zip's directory.

    Attributes:
        name: within the dataset.
        path: the file itself, or the zip.
        size: bytes.
        version: nanoseconds of the last modification, in a zip the CRC-32: with the size it tells other contents.
        member: in a zip, its place.
    """

    name: str
    path: Path
    size: int
    version: int
    member: Member | None = None

    @property
    def told(self) -> tuple[str, int, int]:
        """What tells a changed file from an unchanged one, without reading it."""
        return self.name, self.size, self.version

    def read(self) -> bytes:
        """The contents.

        Raises:
            RejectError: ``unreadable_file``.
        """
        try:
            if self.size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
            if not self.path.is_file():
                raise ValueError("not a file" if self.path.exists() else "is not there, or a link that leads nowhere")
            with open(self.path, "rb") as file:
                return file.read() if self.member is None else _unpack(file, self.name, self.member)
        except UNREADABLE as error:
            raise RejectError("unreadable_file", f"{self.name}: {error}") from error


def _unpack(file: IO[bytes], name: str, member: Member) -> bytes:
    """A zip's file by its place alone; its checksum is compared."""
    if member.flags & ENCRYPTED:
        raise ValueError("encrypted")
    file.seek(member.offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile("the zip has no file where its directory says")
    _, name_length, extra_length = LOCAL_HEADER.unpack(header)
    file.seek(name_length + extra_length, os.SEEK_CUR)
    info = zipfile.ZipInfo(name)
    info.compress_type, info.compress_size = member.method, member.packed
    info.file_size, info.CRC = member.size, member.crc
    with zipfile.ZipExtFile(file, "r", info) as unpacked:
        data = unpacked.read(member.size)  # never more, whatever it would unpack to
    if len(data) < member.size:
        raise EOFError(f"{len(data)} of {member.size} bytes are there")
    return data


class RawFolder:
    """A dataset in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = frozenset(name for name in FOLDERS if (root / name).is_dir())

    def holds(self, folder: str) -> bool:
        """Whether there is such a folder."""
        return folder in self.folders

    def names(self, folder: str, depth: int) -> Iterator[str]:
        """Names so many folders below one of the dataset's, relative to it; of a folder found there, with a slash.

        Files on the way down are named too. Hidden ones are not: systems leave them.
        """
        yield from _names(self.root / folder, "", depth)

    def check(self) -> None:
        """Nothing: a folder is looked at anew for each file."""

    def state(self, folders: Sequence[str]) -> str:
        """Sha256 that changes with a model, a caption, or whatever else lies two folders deep in some of these."""
        digest = hashlib.sha256()
        for folder in sorted(self.folders & set(folders)):
            for name in self.names(folder, 1):
                file = self.find(f"{folder}/{name}")
                digest.update(repr(file and file.told).encode(errors="surrogateescape"))
        return digest.hexdigest()

    def find(self, name: str) -> RawFile | None:
        """The file of a name; None where there is none. A link that leads nowhere is found, and cannot be read."""
        if name.partition("/")[0] not in self.folders and "/" in name:
            return None
        path = self.root / name
        try:
            found = path.stat()
        except OSError:
            lost = os.path.lexists(path) or _leads_nowhere(path.parent)
            return RawFile(name, path, 0, 0) if lost else None
        return RawFile(name, path, found.st_size, found.st_mtime_ns)


def _names(folder: Path, place: str, depth: int) -> Iterator[str]:
    for entry, is_folder in _listed(folder):
        if is_folder and depth:
            yield from _names(folder / entry.name, f"{place}{entry.name}/", depth - 1)
        else:
            yield f"{place}{entry.name}{'/' * is_folder}"


def _listed(folder: Path) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """What a folder holds, by name, and whether it is a folder; hidden ones are left out."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself
            is_folder = False
        yield entry, is_folder


def _leads_nowhere(folder: Path) -> bool:
    return folder.is_symlink() and not folder.exists()


class RawZip:
    """A dataset in a zip; it may lie one folder down, as it does in its own.

    The zip's directory is kept in a temporary file, not in memory.
    """

    def __init__(self, path: Path) -> None:
        self.root = path
        schema = "CREATE TABLE members (name TEXT PRIMARY KEY, offset, packed, size, crc, method, flags) WITHOUT ROWID"
        self._tables = temporary_tables(self, schema)
        tops: dict[str, set[str]] = {"json": set(), "txt": set()}
        try:
            self._listed = _state(path)
            with open(path, "rb") as file:
                for written, member in read_directory(file):
                    name = written.replace("\\", "/")  # some systems write it so
                    if name.endswith("/") or name.startswith("__MACOSX"):  # hidden copies of a system's own
                        continue
                    self._tables.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?, ?)", (name, *member))
                    if found := DOWN.match(name):
                        tops[found[2]].add(found[1])
        except (zipfile.BadZipFile, OSError, OverflowError) as error:
            kind = UserError if path.suffix.lower() == ".zip" else NoDatasetError
            raise kind(f"{path} is neither a folder nor a readable zip ({error})") from error
        both = tops["json"] & tops["txt"]
        if len(both) != 1:
            raise NoDatasetError(f"{path} is not an Omni-CAD dataset: {LAYOUT}")
        self._top = both.pop()

    def holds(self, folder: str) -> bool:
        """As ``RawFolder.holds``."""
        return next(self.names(folder, 0), None) is not None

    def names(self, folder: str, depth: int) -> Iterator[str]:
        """As ``RawFolder.names``."""
        query = "SELECT name FROM members WHERE name > ? AND name < ? ORDER BY name"
        place, last = f"{self._top}{folder}/", ""
        for (name,) in self._tables.execute(query, (place, f"{place}\U0010ffff")):
            parts = name.removeprefix(place).split("/")
            if not any(part.startswith(".") for part in parts):
                shown = "/".join(parts[: depth + 1]) + "/" * (len(parts) > depth + 1)
                if shown != last:
                    yield shown
                last = shown

    def find(self, name: str) -> RawFile | None:
        """As ``RawFolder.find``."""
        query = "SELECT offset, packed, size, crc, method, flags FROM members WHERE name = ?"
        row = self._tables.execute(query, (self._top + name,)).fetchone()
        if row is None:
            return None
        member = Member(*row)
        return RawFile(name, self.root, member.size, member.crc, member)

    def state(self, _folders: Sequence[str]) -> str:
        """As ``RawFolder.state``, of all that is in the zip."""
        return repr(_state(self.root))

    def check(self) -> None:
        """See that the zip is the one that was listed; in another one, files lie elsewhere.

        Raises:
            UserError: it is not.
        """
        if not self.root.is_file() or _state(self.root) != self._listed:
            raise UserError(f"{self.root} changed while it was read; run the command again when it is whole")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def open_raw(path: Path) -> RawFolder | RawZip:
    """The dataset at a path: its folder or zip, or a folder that holds one of them.

    Raises:
        NoDatasetError: there is none. UserError: it is damaged, or there are several.
    """
    if path.is_file():
        return RawZip(path)
    if not path.is_dir():
        lost = f"is a link to {path.readlink()}, which is not there" if path.is_symlink() else "does not exist"
        raise NoDatasetError(f"{path} {lost}; data.path names Omni-CAD's folder or zip")
    if _has_layout(path):
        return RawFolder(path)
    inside = [each for each in sorted(path.iterdir()) if not each.name.startswith((".", "__MACOSX"))]
    folders = [each for each in inside if each.is_dir() and _has_layout(each)]
    found = folders or [each for each in inside if each.suffix.lower() == ".zip"]
    if not found:
        raise NoDatasetError(f"{path} is not an Omni-CAD dataset: {LAYOUT}")
    if len(found) > 1:
        raise UserError(f"{path} holds {' and '.join(each.name for each in found)}: name one of them")
    return RawFolder(found[0]) if folders else RawZip(found[0])


def _has_layout(folder: Path) -> bool:
    for name in FOLDERS:
        if _leads_nowhere(folder / name):
            raise UserError(f"{folder / name} is a link to {(folder / name).readlink()}, which is not there")
    return (folder / "json").is_dir() and (folder / "txt").is_dir()


def inner_links(path: Path, folders: Sequence[str] = FOLDERS) -> list[Path]:
    """Folders that are links, of those that these of the dataset's folders are read through, below ``path``."""
    if path.is_file() or (root := open_raw(path).root).is_file():
        return []
    parts = [root / name for name in folders if (root / name).is_dir()]
    inside = [Path(entry.path) for part in parts for entry, is_folder in _listed(part) if is_folder]
    return [link for link in (*[root] * (root != path), *parts, *sorted(inside)) if link.is_symlink()]
