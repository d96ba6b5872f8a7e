"""Pictures of detections: boxes, masks, names and scores."""

import colorsys
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["contact_sheet", "draw_detections"]

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_OPACITY = 0.45
_INK, _PAPER = (40, 40, 40), (255, 255, 255)
_GAP = 8


def draw_detections(
    image: Tensor,
    found: Mapping[str, Tensor],
    class_names: Sequence[str],
    *,
    threshold: float = 0.5,
    least_side: int = 480,
) -> Image.Image:
    """Draws what was found, or what is there, on an image.

    Args:
        image: [3, H, W] in [0, 1].
        found: `boxes` [N, 4] and `labels` [N]; `scores` [N] for detections; `masks` [N, 1, H, W] or [N, H, W] where
            there are masks.
        class_names: Names of the classes; label n is the n-th.
        threshold: Least score of what is drawn; without effect where there are no scores.
        least_side: Smaller images are enlarged until the longer side has about as many pixels, for legible names.

    Returns:
        The picture; the best detections are on top.
    """
    found = {name: value.detach().cpu() for name, value in found.items()}
    kept = torch.arange(len(found["labels"]))
    if "scores" in found:
        kept = found["scores"].argsort(descending=False)
        kept = kept[found["scores"][kept] >= threshold]
    height, width = image.shape[-2:]
    zoom = max(1, round(least_side / max(height, width)))
    picture = _enlarged(image, zoom)
    labels = found["labels"][kept].tolist()
    colours = [_colour(label, len(class_names)) for label in labels]
    if "masks" in found and labels:
        picture = _with_masks(picture, found["masks"][kept].reshape(len(labels), 1, height, width), colours)
    names = [class_names[label - 1] if 0 < label <= len(class_names) else str(label) for label in labels]
    if "scores" in found:
        scores = found["scores"][kept].tolist()
        names = [f"{name}: {100 * score:.0f}%" for name, score in zip(names, scores, strict=True)]
    canvas = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 300))
    font = _font(max(picture.size) / 36)
    boxes = (found["boxes"][kept] * zoom).tolist()
    for (left, top, right, bottom), colour in zip(boxes, colours, strict=True):
        canvas.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=line)
    # Names come last, so that no box crosses them.
    for box, colour, name in zip(boxes, colours, names, strict=True):
        _write(canvas, box, name, colour, font)
    return picture


def contact_sheet(
    images: Sequence[Tensor],
    predictions: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    class_names: Sequence[str],
    *,
    columns: int = 2,
    threshold: float = 0.5,
    side: int = 288,
) -> Image.Image:
    """Puts several images on one picture, detections on the left and ground truth on the right of each pair.

    Args:
        images: [3, H, W] in [0, 1].
        predictions: Their detections, as for `draw_detections`.
        targets: Their objects, as for `draw_detections`.
        class_names: Names of the classes.
        columns: Pairs in a row.
        threshold: Least score of what is drawn.
        side: Height and width of each panel in pixels; images keep their shape within it.

    Returns:
        The picture.
    """
    columns = min(columns, len(images))
    head, font = round(side / 9), _font(side / 16)
    pair = 2 * side + _GAP // 2
    rows = -(-len(images) // columns)
    size = (columns * (pair + 2 * _GAP), head + rows * (side + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    canvas = ImageDraw.Draw(sheet)
    for number, (image, found, target) in enumerate(zip(images, predictions, targets, strict=True)):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (pair + 2 * _GAP), head + row * (side + _GAP)
        for place, (what, word) in enumerate(((found, "predicted"), (target, "ground truth"))):
            start = left + place * (side + _GAP // 2)
            panel = draw_detections(image, what, class_names, threshold=threshold, least_side=side)
            panel.thumbnail((side, side))
            sheet.paste(panel, (start + (side - panel.width) // 2, top + (side - panel.height) // 2))
            if row == 0:
                canvas.text((start + side / 2, head / 2), word, fill=_INK, font=font, anchor="mm")
    return sheet


def _enlarged(image: Tensor, zoom: int) -> Image.Image:
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels)
    return picture if zoom == 1 else picture.resize((picture.width * zoom, picture.height * zoom))


def _with_masks(picture: Image.Image, masks: Tensor, colours: list[tuple[int, int, int]]) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    for mask, colour in zip(masks, colours, strict=True):
        # One by one: a hundred masks of a photograph at once would fill the memory.
        soft = F.interpolate(mask[None].float(), size=pixels.shape[:2], mode="bilinear", align_corners=False)
        inside: NDArray[np.bool_] = (soft[0, 0] > 0.5).numpy()
        pixels[inside] += _OPACITY * (np.array(colour, dtype=np.float32) - pixels[inside])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _write(canvas: ImageDraw.ImageDraw, box: list[float], name: str, colour: tuple[int, int, int], font: _Font) -> None:
    """Writes a name on a plate above the box, or within it where there is no room above."""
    _, _, right, bottom = canvas.textbbox((0, 0), name, font=font, anchor="lt")
    width, height = math.ceil(right) + 4, math.ceil(bottom) + 4
    x = round(min(max(0, box[0]), max(0, canvas.im.size[0] - width)))
    y = round(box[1] - height if box[1] >= height else max(0, box[1]))
    canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    light = 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] > 140
    canvas.text((x + 2, y + 2), name, fill=(0, 0, 0) if light else _PAPER, font=font, anchor="lt")


def _font(size: float) -> _Font:
    return ImageFont.load_default(max(11, round(size)))


def _colour(label: int, classes: int) -> tuple[int, int, int]:
    """A bright colour for a class: hues as far apart as so many classes allow, in three lightnesses beyond a dozen."""
    step = (label - 1) % max(classes, 1)
    hue = (0.02 + step / min(max(classes, 3), 12)) % 1 if classes <= 12 else (0.02 + step * 0.618034) % 1
    value = 0.95 if classes <= 12 else (0.95, 0.75, 0.85)[step % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(255 * red), round(255 * green), round(255 * blue)
