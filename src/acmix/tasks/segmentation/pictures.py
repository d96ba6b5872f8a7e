"""Several images on one picture: what a network sees in them, and what is there."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from acmix.tasks.segmentation.palette import class_colours

__all__ = ["segmentation_sheet"]

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GAP = 8
_SWATCH = 14
_FONT_SIZE = 14
_PAPER, _INK, _IGNORED, _BACKGROUND = (255, 255, 255), (20, 20, 20), (0, 0, 0), (225, 225, 225)
_WORDS = ("image", "predicted", "ground truth")


def segmentation_sheet(
    images: Sequence[Tensor],
    predictions: Sequence[Tensor],
    targets: Sequence[Tensor],
    class_names: Sequence[str],
    *,
    side: int = 240,
) -> Image.Image:
    """Draws image, predicted classes and ground truth side by side, a row an image, two rows beside each other.

    Args:
        images: [3, H, W] in [0, 1].
        predictions: Class of each pixel [H, W].
        targets: The same of the ground truth; pixels of classes that have no name, the ignored ones, are black.
        class_names: Names of the classes.
        side: Height and width of each panel in pixels; images keep their shape within it.

    Returns:
        The picture, with a legend of the classes below.
    """
    font = ImageFont.load_default(_FONT_SIZE)
    colours = np.vstack([class_colours(len(class_names)), np.array([_IGNORED], dtype=np.uint8)])
    if class_names[0] == "background":
        colours[0] = _BACKGROUND
    columns = min(2, len(images))
    block = len(_WORDS) * (side + _GAP) + _GAP
    rows = -(-len(images) // columns)
    head = _FONT_SIZE + 2 * _GAP
    legend = _legend(class_names, colours, columns * block, font)
    sheet = Image.new("RGB", (columns * block, head + rows * (side + _GAP) + legend.height), _PAPER)
    canvas = ImageDraw.Draw(sheet)
    for number, (image, found, target) in enumerate(zip(images, predictions, targets, strict=True)):
        row, column = divmod(number, columns)
        for place, (word, panel) in enumerate(zip(_WORDS, _panels(image, found, target, colours), strict=True)):
            left, top = column * block + place * (side + _GAP), head + row * (side + _GAP)
            factor = side / max(panel.size)
            panel = panel.resize((round(panel.width * factor), round(panel.height * factor)), Image.Resampling.NEAREST)
            sheet.paste(panel, (left + (side - panel.width) // 2, top + (side - panel.height) // 2))
            if row == 0:
                canvas.text((left + side / 2, head / 2), word, fill=_INK, font=font, anchor="mm")
    sheet.paste(legend, (0, sheet.height - legend.height))
    return sheet


def _panels(image: Tensor, found: Tensor, target: Tensor, colours: NDArray[np.uint8]) -> list[Image.Image]:
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    classes = [np.minimum(each.cpu().numpy(), len(colours) - 1) for each in (found, target)]
    return [Image.fromarray(np.ascontiguousarray(each)) for each in (pixels, *(colours[part] for part in classes))]


def _legend(class_names: Sequence[str], colours: NDArray[np.uint8], width: int, font: _Font) -> Image.Image:
    """The classes with their colours, in as many lines as they need."""
    places, left, line = list[tuple[int, int]](), _GAP, 0
    for name in class_names:
        taken = _SWATCH + 2 * _GAP + round(font.getlength(name))
        if left + taken > width:
            left, line = _GAP, line + 1
        places.append((left, line * (_SWATCH + _GAP)))
        left += taken
    legend = Image.new("RGB", (width, (line + 1) * (_SWATCH + _GAP) + _GAP), _PAPER)
    canvas = ImageDraw.Draw(legend)
    for name, colour, (x, y) in zip(class_names, colours.tolist(), places, strict=False):
        canvas.rectangle((x, y + _GAP, x + _SWATCH, y + _GAP + _SWATCH), fill=tuple(colour))
        canvas.text((x + _SWATCH + _GAP / 2, y + _GAP), name, fill=_INK, font=font)
    return legend
