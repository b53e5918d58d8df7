"""Pictures of points, seen as the views of solids are, and the colours of distances."""

import base64
import functools

import numpy as np

from pipeline.cad.solids.rendering import BACKGROUND, HALF_WIDTH, camera, encode_png

SIZE = 256  # pixels along each side
TICKS = (0.0, 0.05, 0.1, 0.15, 0.2)  # longest half-sides: where the colours' legend has figures
FURTHEST = TICKS[-1]  # has the last colour, as what is further off has
COLOUR_MAP = "viridis_r"  # even steps look even, also in grey and to those who do not tell red from green
NEAR, FAR = (45, 62, 92), (205, 212, 222)  # of a scan's points, by their depth
GAP = (232, 232, 232)  # what stands for the surface between its points
SCAN_DOT, DOT, PATCH = 0.03, 0.07, 0.16  # widths, in longest half-sides; a patch is the surface about a point


@functools.cache
def colour_map() -> np.ndarray:
    """(256, 3) uint8 colours, of no distance to ``FURTHEST``."""
    from matplotlib import colormaps

    return _bytes(colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255)


def gradient() -> str:
    """The colour map in CSS."""
    stops = ", ".join(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colour_map()[::15].tolist())
    return f"linear-gradient(to right, {stops})"


def data_uri(png: bytes) -> str:
    """A PNG that a page holds itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def scan_picture(points: np.ndarray) -> bytes:
    """A cloud in the normalised frame, (N, 3), as PNG: the nearer a point is to the eye, the darker."""
    _, forward, _, _ = camera(0, SIZE)
    share = (points @ forward / np.sqrt(3) + 1) / 2
    shades = np.array(NEAR) + share[:, None] * np.subtract(FAR, NEAR)
    return _dots(points, _bytes(shades), np.full(len(points), SCAN_DOT))


def error_picture(points: np.ndarray, distances: np.ndarray) -> bytes:
    """Points of a surface, (N, 3), as PNG, in the colours of distances (N,); the surface hides what lies behind it."""
    _, forward, _, _ = camera(0, SIZE)
    colours = colour_map()[_bytes(distances / FURTHEST * 255)]
    patches = np.full_like(colours, GAP)
    return _dots(
        np.concatenate([points + PATCH * forward, points]),
        np.concatenate([patches, colours]),
        np.repeat([PATCH, DOT], len(points)),
    )


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _dots(points: np.ndarray, colours: np.ndarray, widths: np.ndarray) -> bytes:
    """A PNG with a disc for each point, the nearest to the eye on top."""
    _, forward, right, up = camera(0, SIZE)
    order = np.argsort(-(points @ forward), kind="stable")
    points, colours = points[order], colours[order]
    scale = SIZE / 2 / HALF_WIDTH
    centres = SIZE / 2 + scale * np.stack([-points @ up, points @ right], axis=1)
    radii = widths[order, None] * scale / 2
    reach = np.arange(-int(radii.max()) - 1, int(radii.max()) + 2)
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    pixels = np.floor(centres).astype(int)[:, None] + offsets  # (N, offsets, 2)
    covered = ((pixels + 0.5 - centres[:, None]) ** 2).sum(axis=-1) <= radii**2
    covered &= ((pixels >= 0) & (pixels < SIZE)).all(axis=-1)
    image = np.full((SIZE, SIZE, 3), BACKGROUND, np.uint8)
    image[tuple(pixels[covered].T)] = colours[np.nonzero(covered)[0]]  # the last one stays
    return encode_png(image)
