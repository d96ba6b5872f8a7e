"""Reads written pictures back."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def read_png(path: Path) -> NDArray[np.uint8]:
    """The picture as [H, W, 3], after checking that the file is a PNG."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def painted(picture: NDArray[np.uint8], color: str, tolerance: int = 30) -> NDArray[np.intp]:
    """Rows and columns of the pixels of about this colour, given as `#rrggbb`: [n, 2]."""
    wanted = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
    return np.argwhere((np.abs(picture.astype(int) - wanted) <= tolerance).all(axis=-1))
