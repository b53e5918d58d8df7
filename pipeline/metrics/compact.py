"""Meshes, points and distances as text, for lines of JSON and the report's viewer: base64 of small integers.

Lengths are in the normalised frame, in steps of 1/8192; integers are little-endian.
"""

import base64

import numpy as np

from pipeline.cad.solids.mesh import Surface

STEPS = 8192  # of the longest half-side
MAX_TRIANGLES = 6000  # of a solid that can be turned in the report: some 75 kB of text
MAX_POINTS = 2048  # of a cloud that can be: some 16 kB


def packed_mesh(surface: Surface) -> dict[str, str] | None:
    """A mesh as ``positions``, as ``packed`` has them, and uint16 ``indices``; None for one that is too large."""
    if len(surface.triangles) > MAX_TRIANGLES or len(surface.vertices) > np.iinfo(np.uint16).max:
        return None
    indices = surface.triangles.astype("<u2")
    return {"positions": packed(surface.vertices), "indices": base64.b64encode(indices.tobytes()).decode()}


def packed(lengths: np.ndarray) -> str:
    """Lengths of any shape as int16 steps; what is further off than 4 is brought to 4."""
    steps = np.clip(np.round(lengths * STEPS), -32767, 32767).astype("<i2")
    return base64.b64encode(steps.tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """The lengths in a text of ``packed``, (N,) float64."""
    return np.frombuffer(base64.b64decode(text), "<i2") / STEPS
