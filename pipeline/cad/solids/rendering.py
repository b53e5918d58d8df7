"""Shaded views of a solid by ray casting: no display, no GL, the same pixels everywhere.

Eight cameras look at the origin from the corners of a cube, at a distance that is fixed in the normalised
frame, so that sizes can be read from the images.
"""

import functools
import hashlib
import io
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.cad.solids.mesh import Mesh
from pipeline.cad.solids.rays import RayScene
from pipeline.runtime.errors import RejectError

if TYPE_CHECKING:
    from PIL import Image

# The signs of the direction in which each view looks.
VIEW_DIRECTIONS = tuple(itertools.product((-1.0, 1.0), repeat=3))
HALF_WIDTH = 1.78  # orthographic; sqrt(3) holds the whole frame
BACKGROUND, EDGE = 255, 30
KINDS = ("PNG", "JPEG", "WEBP", "BMP")  # others are never tried: some start programs, as EPS does
MAX_PIXELS = 50_000_000  # of a picture; the copies that are made of it take 12 bytes each
UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, IndexError, TypeError, EOFError)  # what Pillow raises
COMPARED = 64  # pixels along each side of what is compared
SHOWN = 245  # a grey value below it shows something: JPEG's white is not quite white
CREASE = np.cos(np.radians(15))  # neighbours on two faces that turn by more are drawn as an edge


@functools.lru_cache(maxsize=32)
def camera(view: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ray origins (size * size, 3), forward, right and up of a view."""
    forward = np.array(VIEW_DIRECTIONS[view]) / np.sqrt(3)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    steps = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(steps * HALF_WIDTH, -steps * HALF_WIDTH)
    origins = x.reshape(-1, 1) * right + y.reshape(-1, 1) * up - 4 * forward
    return origins, forward, right, up


def render_views(mesh: Mesh, num_views: int, size: int) -> np.ndarray:
    """Shaded views with the edges of the solid.

    Args:
        mesh: in the normalised frame.
        num_views: 1 to 8; fewer take the first of an order that starts with opposite corners.
        size: pixels along each side.

    Returns:
        (num_views, size, size) uint8 grey values, white background.
    """
    scene = RayScene.of(mesh)
    return np.stack([_view(scene, mesh.faces, view, size) for view in view_order(num_views)])


def view_order(num_views: int) -> list[int]:
    """Indices into ``VIEW_DIRECTIONS``: all eight as published, or fewer that face each other."""
    return list(range(8)) if num_views == 8 else [0, 7, 3, 4, 5, 2, 6, 1][:num_views]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures that solids are compared with.

    Attributes:
        grey: (P, ``COMPARED``, ``COMPARED``) uint8.
        views: what each shows, as indices into ``VIEW_DIRECTIONS``.
    """

    grey: np.ndarray
    views: tuple[int, ...]

    @classmethod
    def of(cls, images: "Sequence[Image.Image]", num_views: int, numbers: Sequence[int] | None = None) -> "Pictures":
        """Grey pictures of any size.

        Args:
            numbers: of each among ``num_views`` views; None: the first ones.
        """
        order = view_order(num_views)
        views = [order[number] for number in (range(len(images)) if numbers is None else numbers)]
        return cls(np.stack([_small(image) for image in images]), tuple(views))

    @property
    def source(self) -> str:
        """Sha256 of all of it."""
        return hashlib.sha256(f"{self.views}/".encode() + self.grey.tobytes()).hexdigest()

    def misfit(self, mesh: Mesh) -> float:
        """How badly a solid in the normalised frame explains them: 0 where they show it, 1 at most.

        The mean difference of grey values, over all pixels in which either shows something.
        """
        from PIL import Image

        scene, found = RayScene.of(mesh), []
        for shown, view in zip(self.grey, self.views, strict=True):
            seen = _small(Image.fromarray(_view(scene, mesh.faces, view, 2 * COMPARED)))
            either = (shown < SHOWN) | (seen < SHOWN)
            difference = np.abs(shown.astype(int) - seen)[either].sum()
            found.append(difference / BACKGROUND / max(int(either.sum()), 1))
        return float(np.mean(found))


def _small(image: "Image.Image") -> np.ndarray:
    from PIL import Image

    return np.asarray(image.resize((COMPARED, COMPARED), Image.Resampling.BOX))


def _view(scene: RayScene, faces: np.ndarray, view: int, size: int) -> np.ndarray:
    origins, forward, right, up = camera(view, size)
    hit = scene.first_hits(origins, forward).reshape(size, size)
    inside = hit >= 0
    # Shaded once for each triangle: a pixel looks up what it hit.
    facing = -np.sign(scene.face_normals @ forward)[:, None] * scene.face_normals
    # A key light over the left shoulder; no face is black.
    light = -forward * 0.62 - right * 0.35 + up * 0.7
    shade = (70 + 160 * np.clip(facing @ (light / np.linalg.norm(light)), 0, 1)).astype(np.uint8)
    image = np.where(inside, shade[hit], np.uint8(BACKGROUND))
    face = np.where(inside, faces[hit], -1)
    edge = np.zeros((size, size), bool)
    for axis in (0, 1):
        here, there = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        first, second, drawn = hit[here], hit[there], edge[here]
        at = np.nonzero(face[here] != face[there])
        a, b = first[at], second[at]
        drawn[at] |= (a < 0) | (b < 0) | ((facing[a] * facing[b]).sum(axis=-1) < CREASE)
    image[edge] = EDGE
    return image


def contact_sheet(views: np.ndarray, columns: int = 4) -> bytes:
    """Views (V, H, W), side by side in rows, as PNG."""
    number, height, width = views.shape
    columns = min(columns, number)
    sheet = np.full((-(-number // columns) * height, columns * width), BACKGROUND, np.uint8)
    for i, view in enumerate(views):
        row, column = divmod(i, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = view
    return encode_png(sheet)


def encode_png(image: np.ndarray) -> bytes:
    """A uint8 image, (H, W) or (H, W, 3), as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def read_image(data: bytes, name: str, size: int | None) -> np.ndarray:
    """A user's picture as uint8 grey values on white, (size, size), or as large as it is where ``size`` is None.

    Raises:
        RejectError: ``bad_image``.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=KINDS) as image:
            if image.width * image.height > MAX_PIXELS:  # known before it is unpacked
                pixels = f"{image.width} x {image.height} pixels"
                raise ValueError(f"{pixels}; {MAX_PIXELS / 1e6:g} million are read at most")
            grey = on_white(image)
    except UnidentifiedImageError as error:
        raise RejectError("bad_image", f"{name} is no picture of a kind that is known") from error
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise RejectError("bad_image", f"{name}: {error}"[:200]) from error
    if size is None:
        return grey
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC))


def on_white(image: "Image.Image") -> np.ndarray:
    """A picture as (H, W) uint8 grey values, what is transparent as white."""
    from PIL import Image

    rgba = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("L"))
