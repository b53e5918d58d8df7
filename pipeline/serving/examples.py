"""Examples that are ready to click: held-out parts in words, as a scan, in a picture.

They are of the corpus that a checkpoint was trained on, where that lies in the project; else those in the package,
which ``cadmllm pretrain ship examples`` takes from a corpus that no shipped network was trained on.
"""

import io
import itertools
import json
import re
import textwrap
import threading
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.model.checkpoint_folder import LINEAGE, read_json
from pipeline.runtime.atomic import atomic_folder, write_text
from pipeline.runtime.fingerprint import sha256_file
from pipeline.serving import words
from pipeline.serving.service import Service
from pipeline.settings.places import CORPUS, GEOMETRY, SHIPPED
from pipeline.shards.manifest import MANIFEST
from pipeline.shards.reader import CorpusReader, ShardReader

LIST = "examples.json"
SHOWN = ("text", "point_cloud", "image", "text", "point_cloud", "text")  # one after the other, as many as there are
# What captions begin with: "Create a CAD model with a ".
OPENING = re.compile(r"\w+ an? (?:\w+ )?(?:model|part|design|object) (?:with|of|featuring|having|that has) (?:an? )?")
SHORT = 64  # characters of a title
BEFORE = {"text": "", "point_cloud": "scan: ", "image": "picture: "}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One part, as one modality shows it.

    Attributes:
        modality: ``text``, ``point_cloud`` or ``image``.
        file: what a user would send, a cloud in metres (``.npy``) or a picture; None: the caption is all.
    """

    modality: str
    caption: str
    file: tuple[str, bytes] | None

    @property
    def title(self) -> str:
        """What the caption begins to describe, and how it is shown."""
        described = OPENING.sub("", self.caption, count=1) if OPENING.match(self.caption) else self.caption
        return BEFORE[self.modality] + textwrap.shorten(described, SHORT, placeholder=" …")


def held_out(corpus: Path, geometry: Path, seen: Container[str] = frozenset()) -> list[HeldOut]:
    """Some models of a corpus' test split, from all over it, each shown in another way.

    Args:
        seen: hashes of programs that are none of them.

    Raises:
        UserError: the shards are damaged.
    """
    reader, drawn = CorpusReader(corpus), ShardReader(geometry, "geometry")
    rows = reader.rows("test")
    here = iter(_spread(rows[drawn.find(reader.index["key"][rows]) >= 0].tolist()))
    unseen = (row for row in here if reader.caption(row) and not (seen and reader.json(row)["program_hash"] in seen))
    chosen = sorted(itertools.islice(unseen, len(SHOWN)))
    found = [_shown(reader, drawn, row, modality) for row, modality in zip(chosen, SHOWN)]
    return sorted(found, key=lambda each: list(BEFORE).index(each.modality))


def _spread(rows: list[int]) -> list[int]:
    """The same, in an order in which the first ones are from all over them."""
    ends = {at * (len(rows) - 1) // (len(SHOWN) - 1): None for at in range(len(SHOWN))} if rows else {}
    return [rows[at] for at in (*ends, *(at for at in range(len(rows)) if at not in ends))]


def _shown(reader: CorpusReader, drawn: ShardReader, row: int, modality: str) -> HeldOut:
    key = reader.key(row)
    file = None
    if modality == "point_cloud":
        frame, points = reader.json(row)["frame"], drawn.array(drawn.row(key), "points.npy").astype(np.float32)
        points[:, :3] = points[:, :3] * frame["scale"] + np.asarray(frame["centre"])
        stream = io.BytesIO()
        np.save(stream, points, allow_pickle=False)
        file = (f"{key}.npy", stream.getvalue())
    elif modality == "image":
        file = (f"{key}.png", drawn.bytes(drawn.row(key), "view0.png"))
    return HeldOut(modality, reader.caption(row), file)


def write_examples(folder: Path, examples: Sequence[HeldOut]) -> None:
    """A folder of them, with a list."""
    listed = []
    with atomic_folder(folder) as made:
        for each in examples:
            name, data = each.file or (None, b"")
            if name is not None:
                (made / name).write_bytes(data)
            listed.append({"modality": each.modality, "caption": each.caption, "file": name})
        write_text(made / LIST, json.dumps(listed, indent=1) + "\n")


def read_examples(folder: Path = SHIPPED / "examples") -> list[HeldOut]:
    """What ``write_examples`` wrote."""
    return [
        HeldOut(
            each["modality"], each["caption"], each["file"] and (each["file"], (folder / each["file"]).read_bytes())
        )
        for each in json.loads((folder / LIST).read_text(encoding="utf-8"))
    ]


def examples_of(checkpoint: Path) -> list[HeldOut]:
    """What a checkpoint has not been trained on: of the project's corpus where it is its own, else of the package."""
    learnt = read_json(checkpoint / LINEAGE).get("inputs_sha256", {}).get("corpus")
    shards = [folder / MANIFEST for folder in (CORPUS, GEOMETRY)]
    is_its_own = all(path.is_file() for path in shards) and sha256_file(shards[0]) == learnt
    return (held_out(CORPUS, GEOMETRY) if is_its_own else []) or read_examples()


class Examples:
    """Read once, when they are first asked for.

    Args:
        found: gives them.
    """

    def __init__(self, service: Service, found: Callable[[], list[HeldOut]]) -> None:
        self.service, self.found, self._lock = service, found, threading.Lock()
        self._listed: list[words.Example] = []

    def listed(self) -> list[words.Example]:
        """Those that the checkpoint can read. A scan or picture is among the uploads, as if a user had sent it."""
        with self._lock:
            uploads, known = self.service.uploads, {"text", *self.service.config.features}
            if not all(each.upload is None or uploads.has(each.upload.id) for each in self._listed):
                self._listed = []  # forgotten, since others needed the room
            self._listed = self._listed or [self._example(each) for each in self.found() if each.modality in known]
            return self._listed

    def _example(self, each: HeldOut) -> words.Example:
        if each.file is None:
            return words.Example(title=each.title, caption=each.caption)
        return words.Example(title=each.title, caption="", upload=self.service.upload(*each.file))
