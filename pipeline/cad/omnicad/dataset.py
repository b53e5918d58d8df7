"""Omni-CAD as published, a folder or a zip read in place: captions, models, and where there, clouds and images."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.cad.omnicad.listing import Entry, Listing
from pipeline.cad.omnicad.published import SPLIT_FILE, read_split
from pipeline.cad.omnicad.raw_files import RawFile, open_raw, view_name
from pipeline.cad.omnicad.rejects import Rejects
from pipeline.cad.omnicad.settings import Source
from pipeline.runtime.errors import Reject, RejectError, UserError

MODEL = re.compile(r"[^/]+/[^/]+\.json")
SYNTHETIC_ZIP = "synthetic-omnicad.zip"


class Dataset:
    """What is below the dataset's root.

    Raises:
        UserError: the path is not Omni-CAD, and what was looked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = open_raw(path)

    @property
    def root(self) -> Path:
        """The folder with ``json/`` and ``txt/``, or the zip."""
        return self._files.root

    def read(self, name: str) -> bytes:
        """One file's bytes.

        Raises:
            RejectError: ``unreadable_file``.
        """
        file = self._files.find(name)
        if file is None:
            raise RejectError("unreadable_file", f"{name} does not exist")
        return file.read()

    def check(self) -> None:
        """See that what was read is of the dataset as it was opened.

        Raises:
            UserError: its zip is another one now.
        """
        self._files.check()

    def state(self) -> str:
        """Sha256 that changes with models, captions and the split: with all that a corpus is made from."""
        split = self._files.find(SPLIT_FILE)
        return f"{self._files.state(('json', 'txt'))} {split and split.told}"

    def listing(self, limit: int | None = None) -> Listing:
        """Captions that have a model, and what does not fit together.

        Every caption and every model is in exactly one of the two.

        Args:
            limit: so many captions and models in order of id; all if None.
        """
        found = Listing()
        for name in self._files.names("json", 1):
            if MODEL.fullmatch(name):
                found.add_model(name.removesuffix(".json"))
            elif name.endswith("/") or name.lower().endswith(".json"):
                found.rejects.add(Reject(f"json/{name}", "corpus", "misplaced", "a model is json/<folder>/<id>.json"))
        for name in self._files.names("txt", 0):
            if name.endswith(".json"):
                for position, row in enumerate(self._captions(f"txt/{name}", found.rejects)):
                    found.add_caption(row, f"txt/{name}[{position}]")
        found.finish(limit)
        return found

    def _captions(self, name: str, rejects: Rejects) -> Iterable[Any]:
        try:
            rows = json.loads(self.read(name))
            if not isinstance(rows, list):
                raise ValueError("not a list")
        except (ValueError, RecursionError, RejectError) as error:
            rejects.add(Reject(name, "corpus", "malformed_captions", str(error)))
            return []
        return rows

    def published_split(self) -> Iterator[tuple[str, str]]:
        """As ``read_split``, where the dataset has its split file.

        Raises:
            UserError: that is damaged.
        """
        file = self._files.find(SPLIT_FILE)
        if file is None:
            return
        try:
            yield from read_split(file.read())
        except (ValueError, RecursionError, RejectError) as error:
            raise UserError(f"{self.path}: {SPLIT_FILE} is damaged: {error}") from error

    def point_file(self, entry_id: str) -> RawFile | None:
        """The user's own cloud for a model, where there is one."""
        found = (self._files.find(f"pcd/{entry_id}{suffix}") for suffix in (".npy", ".npz"))
        return next((file for file in found if file is not None), None)

    def image_files(self, entry_id: str) -> dict[int, RawFile]:
        """The user's own views of a model by their number, in order; empty where there are none."""
        found = {view: self._files.find(view_name(entry_id, view)) for view in range(8)}
        return {view: file for view, file in found.items() if file is not None}

    @property
    def has_own_files(self) -> bool:
        """Whether there are clouds or views of any model."""
        return self._files.holds("pcd") or self._files.holds("img")

    def own_files(self, entry_id: str) -> list[RawFile]:
        """The user's own cloud and views of a model, where there are any."""
        cloud = self.point_file(entry_id)
        return [*([] if cloud is None else [cloud]), *self.image_files(entry_id).values()]

    def version(self, entries: Iterable[Entry]) -> str:
        """Sha256 that changes with these captions, models, clouds and views."""
        digest = hashlib.sha256()
        for entry in entries:
            model = self._files.find(f"json/{entry.id}.json")
            told = [file.told for file in (model, *self.own_files(entry.id)) if file is not None]
            digest.update(json.dumps([entry.id, entry.caption, told]).encode())
        return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def open_dataset(path: Path) -> Dataset:
    """The dataset at ``path``, opened once in each process."""
    return Dataset(path)


def dataset_path(data: Source, corpus: Path) -> Path:
    """Where the source models are: the user's dataset, or the zip that the corpus stage made."""
    return Path(data.path) if data.source == "omnicad" else corpus / SYNTHETIC_ZIP
