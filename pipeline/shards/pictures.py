"""Pictures as shards store them."""

import io
import struct

from PIL import Image

from pipeline.runtime.errors import UserError

MAX_PIXELS = 4096 * 4096  # of a stored view
UNREADABLE = (
    OSError, ValueError, SyntaxError, IndexError, TypeError, EOFError, struct.error, Image.DecompressionBombError
)  # fmt: skip


def decode_png(data: bytes) -> Image.Image:
    """A stored view.

    Raises:
        UserError: it is no picture.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels")
        image.load()
    except UNREADABLE as error:
        raise UserError(f"a stored view is damaged ({error}); run the stage `geometry` again") from error
    return image
