"""Examples that are ready to click: made parts that no corpus has, in words, as a scan, in a picture."""

import tempfile
import threading
from pathlib import Path

from pipeline.cad.exchange.files import ConvertTask, WriteOptions
from pipeline.cad.parts import synthesis
from pipeline.serving import words
from pipeline.serving.service import Service

SEED = 2**31 + 1  # corpora begin with other numbers
SAID = ("flange", "l_bracket", "link")
SCANNED = ("bearing_block", "clevis")
PICTURED = ("pulley",)


class Examples:
    """Made once, when they are first asked for."""

    def __init__(self, service: Service) -> None:
        self.service, self._lock = service, threading.Lock()
        self._made: list[words.Example] = []

    def listed(self) -> list[words.Example]:
        """All of them. A scan or picture is among the uploads, as if a user had sent it."""
        with self._lock:
            uploads = self.service.uploads
            if not all(each.upload is None or uploads.has(each.upload.id) for each in self._made):
                self._made = []  # forgotten, since others needed the room
            views, points = self.service.views, "point_cloud" in self.service.config.features
            self._made = self._made or [
                *(self._said(family) for family in SAID),
                *(self._sent(family, "scan of a", ".stl") for family in SCANNED if points),
                *(self._sent(family, "picture of a", ".png") for family in PICTURED if views),
            ]
            return self._made

    def _said(self, family: str) -> words.Example:
        return words.Example(title=_name(family), caption=_part(family).caption)

    def _sent(self, family: str, title: str, suffix: str) -> words.Example:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / f"{family}{suffix}"
            self.service.pool.run(ConvertTask(_part(family).program, target, WriteOptions(num_views=1)))
            upload = self.service.upload(target.name, target.read_bytes())
        return words.Example(title=f"{title} {_name(family)}", caption="", upload=upload)


def _part(family: str) -> synthesis.Part:
    return synthesis.make_part(SEED, 3, (family,))


def _name(family: str) -> str:
    return family.removeprefix("l_").replace("_", " ")
