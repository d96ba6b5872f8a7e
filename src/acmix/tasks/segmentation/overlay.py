"""A picture of an image, of its classes laid over it, and of what the colours mean."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_overlay"]

_OPACITY = 0.55
_GAP = 8
_FONT_SIZE = 14
_SWATCH = 14
_WHITE = (255, 255, 255)
_MOST = 20


def draw_overlay(
    image: Image.Image, mask: NDArray[np.uint8], class_names: Sequence[str], colours: NDArray[np.uint8]
) -> Image.Image:
    """The image, the image under the colours of its classes, and a legend, side by side.

    The legend names the classes that occur, the largest first, with their shares of the pixels; at most 20 of them.

    Args:
        image: RGB, of the mask's size.
        mask: Class numbers [H, W].
        class_names: Names by class number.
        colours: Colours by class number, uint8 [K, 3].

    Returns:
        An RGB picture.
    """
    blend = Image.blend(image, Image.fromarray(colours[mask]), _OPACITY)
    legend = _legend(mask, class_names, colours)
    width, height = image.size
    canvas = Image.new("RGB", (2 * width + 2 * _GAP + legend.width, max(height, legend.height)), _WHITE)
    for picture, left in ((image, 0), (blend, width + _GAP), (legend, 2 * (width + _GAP))):
        canvas.paste(picture, (left, 0))
    return canvas


def _legend(mask: NDArray[np.uint8], class_names: Sequence[str], colours: NDArray[np.uint8]) -> Image.Image:
    counts = np.bincount(mask.ravel(), minlength=len(class_names))
    present = [int(number) for number in np.argsort(-counts, kind="stable") if counts[number]]
    rows = [(number, f"{class_names[number]}  {100 * counts[number] / mask.size:.1f} %") for number in present[:_MOST]]
    more = [f"and {len(present) - _MOST} more"] if len(present) > _MOST else []
    font = ImageFont.load_default(_FONT_SIZE)
    step = _SWATCH + _GAP
    width = max(font.getbbox(text)[2] for text in [text for _, text in rows] + more)
    legend = Image.new("RGB", (int(width) + step + 2 * _GAP, step * (len(rows) + len(more)) + _GAP), _WHITE)
    draw = ImageDraw.Draw(legend)
    for place, (number, text) in enumerate(rows):
        top = _GAP + place * step
        draw.rectangle((_GAP, top, _GAP + _SWATCH, top + _SWATCH), fill=tuple(colours[number].tolist()))
        draw.text((_GAP + step, top), text, fill=(0, 0, 0), font=font)
    for text in more:
        draw.text((_GAP, _GAP + len(rows) * step), text, fill=(0, 0, 0), font=font)
    return legend
