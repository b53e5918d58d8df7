"""Solids as the report's viewer takes them."""

import base64

import numpy as np

from pipeline.cad.solids.mesh import Surface

MAX_TRIANGLES = 3000  # of a solid that can be turned in the report: some 40 kB of text


def packed(surface: Surface) -> dict[str, str] | None:
    """A mesh as text for the report's viewer: base64 of int16 positions in 1/8192 and of uint32 indices, little-endian.

    None for one that would make the page large.
    """
    if len(surface.triangles) > MAX_TRIANGLES:
        return None
    steps = np.clip(np.round(surface.vertices * 8192), -32767, 32767).astype("<i2")
    indices = surface.triangles.astype("<u4")
    return {
        "positions": base64.b64encode(steps.tobytes()).decode(),
        "indices": base64.b64encode(indices.tobytes()).decode(),
    }
