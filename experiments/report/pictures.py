"""Pictures as part of the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from experiments.errors import UserError


class Picture(NamedTuple):
    """A picture that is part of the page.

    Attributes:
        path: of the file.
        alt: what it shows.
        source: the picture as a data URI.
        size: width and height in pixels.
    """

    path: Path
    alt: str
    source: str
    size: tuple[int, int]


def read_picture(path: Path, alt: str) -> Picture:
    """A picture in 256 colours, which plots look the same in at a third of the size.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            opaque = Image.new("RGBA", image.size, "white")
            opaque.alpha_composite(image.convert("RGBA"))
            written = io.BytesIO()
            opaque.convert("RGB").quantize().save(written, "PNG", optimize=True)
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: Pillow's for broken chunks
        raise UserError(f"{path}: the picture cannot be read ({error})") from error
    encoded = base64.b64encode(written.getvalue()).decode()
    return Picture(path, alt, f"data:image/png;base64,{encoded}", opaque.size)
