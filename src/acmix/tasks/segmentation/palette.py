"""Colours that tell classes apart."""

import colorsys

import numpy as np
from numpy.typing import NDArray

__all__ = ["class_colours"]

# Hues a golden angle apart stay apart, however many there are.
_GOLDEN = 0.618033988749895
_TONES = ((0.75, 0.95), (0.95, 0.65), (0.45, 0.85))


def class_colours(count: int) -> NDArray[np.uint8]:
    """A colour for each class, always the same ones; none of them is black.

    Args:
        count: Number of classes.

    Returns:
        Red, green and blue, uint8 [count, 3].
    """
    colours = [colorsys.hsv_to_rgb(number * _GOLDEN % 1, *_TONES[number % len(_TONES)]) for number in range(count)]
    return np.round(255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)
