"""Files that users sent, read once and kept in memory under the digest of their bytes."""

import hashlib
import io
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from PIL import Image

from pipeline.cad.exchange.formats import GLTF, PROGRAMS, SCANS, SOLIDS, Unit
from pipeline.cad.exchange.scans import Scan
from pipeline.cad.language.program import CadProgram
from pipeline.cad.solids.rendering import KINDS, UNREADABLE, read_image
from pipeline.execution.sandbox import cores
from pipeline.runtime.errors import RejectError, UserError
from pipeline.serving.pool import KernelPool, never
from pipeline.serving.tasks import ReadTask

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ACCEPTED = (*PROGRAMS, *SCANS, *PICTURES)
MAX_PIXELS, KEPT_PIXELS = 25_000_000, 1024  # of a picture that is sent; along a side of what is kept
NUM_POINTS = 8192  # of a surface, where the checkpoint does not say


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was read.

    Attributes:
        content: a program in metres, points, or a picture.
        size: bytes, of the file or of what was read, whichever are more.
    """

    id: str
    name: str
    content: CadProgram | Scan | Image.Image
    size: int

    @property
    def kind(self) -> Literal["program", "scan", "picture"]:
        """``program``, ``scan`` or ``picture``."""
        match self.content:
            case CadProgram():
                return "program"
            case Scan():
                return "scan"
        return "picture"


class Uploads:
    """Uploads by id, the latest ``most_bytes`` of them.

    Args:
        pool: reads what could hang or crash.
        num_points: drawn from a surface.
    """

    def __init__(self, pool: KernelPool, most_bytes: int, num_points: int = NUM_POINTS) -> None:
        self.pool, self.most_bytes, self.num_points = pool, most_bytes, num_points
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()
        self._drawing = threading.Semaphore(cores())  # a large picture takes 300 MB while it is read

    def add(self, name: str, data: bytes, unit: Unit = Unit.M, is_gone: Callable[[], bool] = never) -> Upload:
        """Read a file.

        Args:
            name: of the file; its suffix says what it is.
            unit: of the numbers in a cloud or a mesh; glTF and STEP have their own.
            is_gone: whether nobody waits for it any more.

        Raises:
            UserError, RejectError: it cannot be used.
        """
        suffix = PurePath(name).suffix.lower()
        if suffix not in ACCEPTED:
            raise UserError(f"{name[-80:]}: one of {', '.join(dict.fromkeys(ACCEPTED))} is needed")
        if not data:
            raise UserError(f"{name[-80:]} is empty")
        upload_id = hashlib.sha256(f"{suffix} {unit}\n".encode() + data).hexdigest()[:32]
        with self._lock:
            if upload_id in self._kept:
                self._kept.move_to_end(upload_id)
                return replace(self._kept[upload_id], name=PurePath(name).name)  # another may have called it otherwise
        content = self._read(name, suffix, data, is_gone)
        if isinstance(content, Scan) and suffix not in SOLIDS + GLTF:
            content = content.measured_in(unit)
        size = max(len(data), _size(content))
        upload = Upload(upload_id, PurePath(name).name, content, size)
        with self._lock:
            self._kept[upload_id] = upload
            while len(self._kept) > 1 and sum(each.size for each in self._kept.values()) > self.most_bytes:
                self._kept.popitem(last=False)
        return upload

    def _read(
        self, name: str, suffix: str, data: bytes, is_gone: Callable[[], bool]
    ) -> CadProgram | Scan | Image.Image:
        if suffix in PICTURES:
            with self._drawing:
                return _picture(name, data)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"upload{suffix}"
            path.write_bytes(data)
            try:
                found: CadProgram | Scan = self.pool.run(ReadTask(path, self.num_points), is_gone)
            except RejectError as error:
                detail = error.detail.replace(str(path), name).replace(path.name, name)
                raise RejectError(error.reason, detail if name in detail else f"{name}: {detail}") from error
        return found

    def has(self, upload_id: str) -> bool:
        """Whether an upload is here."""
        return upload_id in self._kept

    def content(self, upload_id: str) -> CadProgram | Scan | Image.Image:
        """What is in an upload; raises as ``scan``."""
        return self._get(upload_id).content

    def scan(self, upload_id: str) -> Scan:
        """The points of an upload.

        Raises:
            UserError: it is not, or no longer, here, or is something else.
        """
        content = self._get(upload_id).content
        if not isinstance(content, Scan):
            raise UserError(f"upload {upload_id} is no scan, mesh or solid")
        return content

    def picture(self, upload_id: str) -> Image.Image:
        """The picture of an upload; raises as ``scan``."""
        content = self._get(upload_id).content
        if not isinstance(content, Image.Image):
            raise UserError(f"upload {upload_id} is no picture")
        return content

    def _get(self, upload_id: str) -> Upload:
        with self._lock:
            if upload_id not in self._kept:
                raise UserError(f"upload {upload_id[:40]} is not here, or no longer; send the file again")
            self._kept.move_to_end(upload_id)
            return self._kept[upload_id]


def _picture(name: str, data: bytes) -> Image.Image:
    """A picture, small: encoders look at no more. Its size is looked at before it is unpacked."""
    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as image:
            width, height = image.size
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise RejectError("bad_image", f"{name} is no picture of a kind that is known") from error
    if width * height > MAX_PIXELS:
        raise UserError(f"{name} has {width} x {height} pixels; {MAX_PIXELS / 1e6:g} million are read at most")
    picture = Image.fromarray(read_image(data, name, None))
    picture.thumbnail((KEPT_PIXELS, KEPT_PIXELS))
    return picture


def _size(content: CadProgram | Scan | Image.Image) -> int:
    """Bytes in memory, about."""
    match content:
        case CadProgram():
            return 400 * content.num_curves
        case Scan():
            return int(content.points.nbytes)
    return content.width * content.height
