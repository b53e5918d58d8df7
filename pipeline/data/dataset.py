"""Omni-CAD as published, a folder or a zip read in place: captions, models, and where there, clouds and images."""

import functools
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cad.omnicad import MAX_BYTES
from pipeline.errors import RejectError, UserError
from pipeline.params import Data
from pipeline.shards.manifest import Reject

ID = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9]+_[0-9]+")
SYNTHETIC_ZIP = "synthetic-omnicad.zip"
SPLIT_FILE = "raw_train_test_split.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One caption with its model."""

    id: str
    caption: str

    @property
    def key(self) -> str:
        """The sample's key in shards: the id without its slash."""
        return self.id.replace("/", "")


def base_model(entry_id: str) -> str:
    """The base model that an id is a version or prefix of: ``0000/00000071_00005`` -> ``0000/00000071``."""
    return entry_id.rpartition("_")[0]


class Dataset:
    """Names and bytes below the dataset's root.

    Raises:
        UserError: the path is not Omni-CAD, and what was looked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            names = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        elif path.is_file():
            try:
                self._zip = zipfile.ZipFile(path)
            except zipfile.BadZipFile as error:
                raise UserError(f"data.path: {path} is neither a folder nor a readable zip ({error})") from error
            names = {name for name in self._zip.namelist() if not name.endswith("/")}
        else:
            raise UserError(f"data.path: {path} does not exist; Omni-CAD's folder or zip belongs there")
        # The dataset may lie one folder down, as it does in its own zip.
        prefixes = {name.partition("json/")[0] for name in names if re.match(r"([^/]+/)?json/[^/]+/[^/]+\.json$", name)}
        if len(prefixes) != 1 or not any(name.startswith(f"{next(iter(prefixes))}txt/") for name in names):
            raise UserError(
                f"data.path: {path} is not an Omni-CAD dataset: json/0000/<id>.json and txt/0000.json are looked for"
            )
        self._prefix = prefixes.pop()
        self.names = {name.removeprefix(self._prefix) for name in names if name.startswith(self._prefix)}

    def read(self, name: str) -> bytes:
        """One file's bytes.

        Raises:
            RejectError: ``unreadable_file``.
        """
        try:
            if self._zip is None:
                return (self.path / self._prefix / name).read_bytes()
            if self._zip.getinfo(self._prefix + name).file_size > MAX_BYTES:
                raise RejectError("unreadable_file", f"{name} is larger than {MAX_BYTES >> 20} MiB")
            return self._zip.read(self._prefix + name)
        except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
            raise RejectError("unreadable_file", f"{name}: {error}") from error
        except Exception as error:
            if type(error).__module__ == "zlib":
                raise RejectError("unreadable_file", f"{name}: {error}") from error
            raise

    def stamp(self, name: str) -> str:
        """What tells a changed file from an unchanged one, without reading it."""
        if self._zip is not None:
            info = self._zip.getinfo(self._prefix + name)
            return f"{info.file_size} {info.CRC}"
        try:
            found = (self.path / self._prefix / name).stat()
        except OSError:
            return "unreadable"
        return f"{found.st_size} {found.st_mtime_ns}"

    def entries(self) -> tuple[list[Entry], list[Reject]]:
        """Captions that have a model, in order of id, and what does not fit together.

        Every caption and every model is in exactly one of the two.
        """
        entries: dict[str, Entry] = {}
        rejects: list[Reject] = []
        models = {name[5:-5] for name in self.names if name.startswith("json/") and name.endswith(".json")}
        seen: set[str] = set()
        for name in sorted(n for n in self.names if re.fullmatch(r"txt/[^/]+\.json", n)):
            for position, row in enumerate(self._captions(name, rejects)):
                checked = _check_caption(row, f"{name}[{position}]", models, seen)
                if isinstance(checked, Reject):
                    rejects.append(checked)
                else:
                    entries[checked.id] = checked
                    seen.add(checked.id)
        captioned = seen | {reject.id for reject in rejects}
        rejects += [Reject(model, "corpus", "caption_missing") for model in sorted(models - captioned)]
        return [entries[key] for key in sorted(entries)], rejects

    def _captions(self, name: str, rejects: list[Reject]) -> Iterable[Any]:
        try:
            rows = json.loads(self.read(name))
            if not isinstance(rows, list):
                raise ValueError("not a list")
        except (ValueError, RecursionError, RejectError) as error:
            rejects.append(Reject(name, "corpus", "malformed_captions", str(error)))
            return []
        return rows

    def published_split(self) -> dict[str, str]:
        """Base model -> ``train``, ``validation`` or ``test``, where the dataset has its split file."""
        if SPLIT_FILE not in self.names:
            return {}
        try:
            document = json.loads(self.read(SPLIT_FILE))
            return {str(base): split for split in ("train", "validation", "test") for base in document.get(split, [])}
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{self.path}: {SPLIT_FILE} is damaged: {error}") from error

    def point_file(self, entry_id: str) -> str | None:
        """The user's own cloud for a model, where there is one."""
        return next((n for n in (f"pcd/{entry_id}.npy", f"pcd/{entry_id}.npz") if n in self.names), None)

    def image_files(self, entry_id: str) -> list[str]:
        """The user's own views of a model, in order; empty where there are none."""
        candidates = (f"img/{entry_id}_{view:03d}.png" for view in range(8))
        return [name for name in candidates if name in self.names]


def _check_caption(row: Any, place: str, models: set[str], seen: set[str]) -> Entry | Reject:
    entry_id = row.get("id") if isinstance(row, dict) else None
    if not isinstance(entry_id, str) or not ID.fullmatch(entry_id):
        return Reject(place, "corpus", "bad_id", f"{entry_id!r:.80} is not like 0000/00000071_00005")
    caption = row.get("text caption")
    if entry_id in seen:
        return Reject(entry_id, "corpus", "duplicate_id", place)
    if not isinstance(caption, str) or not caption.strip():
        return Reject(entry_id, "corpus", "bad_caption", f"{caption!r:.80} is not a text")
    if entry_id not in models:
        return Reject(entry_id, "corpus", "model_missing", f"json/{entry_id}.json does not exist")
    return Entry(entry_id, caption.strip())


@functools.lru_cache(maxsize=2)
def open_dataset(path: Path) -> Dataset:
    """The dataset at ``path``, opened once in each process."""
    return Dataset(path)


def dataset_path(data: Data, corpus: Path) -> Path:
    """Where the source models are: the user's dataset, or the zip that the corpus stage made."""
    return Path(data.path) if data.source == "omnicad" else corpus / SYNTHETIC_ZIP
