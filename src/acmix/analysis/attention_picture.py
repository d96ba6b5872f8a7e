"""Draws where a network looks: attention over the image, and the responses of the two paths beside it."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from acmix.analysis.attention import LayerView, Pixel
from acmix.analysis.panels import (
    SOFT,
    Sheet,
    draw_attention,
    draw_image,
    draw_pixel,
    draw_query,
    draw_response,
    mark,
)

__all__ = ["draw_heads", "draw_overview"]

# Inches.
_CELL, _GAP, _MARGIN, _LABEL, _NOTE = 1.9, 0.14, 0.25, 1.6, 0.34

_LEGEND = (
    "Each row below is a layer of the network.",
    "Orange: how much the marked pixel attends to each place, mean of the heads.",
    "Full colour is the largest weight, which is written below.",
    "Dashed: the window that the pixel can see.",
    "Green to yellow: strength of each path's output (norm over its channels,",
    "rate included), both paths of a layer on one scale.",
)
_LEGEND_WIDTH = 4.9


def draw_overview(
    image: Tensor,
    pixels: Sequence[Pixel],
    views: Sequence[LayerView],
    path: Path,
    *,
    labels: Sequence[str] = (),
) -> None:
    """Draws one row per layer: attention of each pixel over the image (mean of the heads), then the two responses.

    Both responses of a layer share one colour scale, so that they can be compared.

    Args:
        image: the image as a person sees it, [C, H, W] with 1 or 3 channels, values from 0 to 1.
        pixels: the query pixels on the image.
        views: what the layers did, from `look_inside`.
        path: the PNG file to write.
        labels: what the pixels are called (default: their rows and columns).
    """
    width, height = _cell(image)
    columns = len(pixels) + 2
    body = max(columns * (width + _GAP), width + _GAP + _LEGEND_WIDTH)
    body_top = _MARGIN + max(height, 1.3) + 0.6
    sheet = Sheet(2 * _MARGIN + _LABEL + body, body_top + len(views) * (height + _NOTE) + _MARGIN / 2)
    lefts = [_MARGIN + _LABEL + column * (width + _GAP) for column in range(columns)]

    sheet.write(_MARGIN, _MARGIN, f"image\n{_size(image)}")
    _draw_image_with_pixels(sheet, lefts[0], image, pixels)
    sheet.write(lefts[1], _MARGIN, "\n".join(_LEGEND), size=8.5, color=SOFT)
    for number, label in enumerate(labels or _labels(pixels)):
        sheet.write(lefts[number], body_top - 0.23, f"{number + 1}: {label}", color=mark(number))
    for left, words in zip(lefts[-2:], ("attention path", "convolution path"), strict=True):
        sheet.write(left, body_top - 0.23, words)
    for row, view in enumerate(views):
        top = body_top + row * (height + _NOTE)
        sheet.write(_MARGIN, top, _describe(view))
        for number, left in enumerate(lefts[:-2]):
            weights = None if view.attention is None else view.attention[:, number].mean(0)
            _draw_look(sheet, (left, top), image, view, number, weights)
        _draw_responses(sheet, lefts[-2:], top, image, view)
    sheet.figure.savefig(path, format="png")


def draw_heads(
    image: Tensor, pixels: Sequence[Pixel], view: LayerView, path: Path, *, labels: Sequence[str] = ()
) -> None:
    """Draws one row per pixel and one column per head of a single layer.

    Args:
        image: the image as a person sees it, [C, H, W] with 1 or 3 channels, values from 0 to 1.
        pixels: the query pixels on the image.
        view: what the layer did, from `look_inside`.
        path: the PNG file to write.
        labels: what the pixels are called (default: their rows and columns).

    Raises:
        ValueError: the layer has no attention path.
    """
    if view.attention is None:
        raise ValueError(f"{view.layer.name} has no attention path, so it has no heads to draw")
    width, height = _cell(image)
    heads = view.attention.shape[0]
    sheet = Sheet(
        2 * _MARGIN + _LABEL + (1 + heads) * (width + _GAP),
        _MARGIN + 0.3 + len(pixels) * (height + _NOTE) + _MARGIN / 2,
    )
    lefts = [_MARGIN + _LABEL + column * (width + _GAP) for column in range(1 + heads)]
    sheet.write(_MARGIN, _MARGIN, _describe(view))
    for head, left in enumerate(lefts[1:], start=1):
        sheet.write(left, _MARGIN, f"head {head}")
    for number, ((y, x), label) in enumerate(zip(pixels, labels or _labels(pixels), strict=True)):
        top = _MARGIN + 0.3 + number * (height + _NOTE)
        panel = sheet.panel(lefts[0], top, width, height)
        draw_image(panel, image)
        draw_pixel(panel, image, number, y, x)
        sheet.write(lefts[0], top + height + 0.05, label, size=8, color=mark(number))
        for head, left in enumerate(lefts[1:]):
            _draw_look(sheet, (left, top), image, view, number, view.attention[head, number])
    sheet.figure.savefig(path, format="png")


def _cell(image: Tensor) -> tuple[float, float]:
    """Width and height of a panel in the image's proportions; very long images are shown squeezed."""
    aspect = min(max(image.shape[-2] / image.shape[-1], 0.5), 2.0)
    return (_CELL, _CELL * aspect) if aspect <= 1 else (max(_CELL / aspect, 1.3), _CELL)


def _labels(pixels: Sequence[Pixel]) -> list[str]:
    return [f"pixel {y},{x}" for y, x in pixels]


def _size(map_: Tensor) -> str:
    return f"{map_.shape[-2]} x {map_.shape[-1]}"


def _describe(view: LayerView) -> str:
    module = view.layer.module
    rates = [
        f"{word} {float(rate.detach()):.2f}"
        for word, rate in (("alpha", module.alpha), ("beta", module.beta))
        if rate is not None
    ]
    return "\n".join([f"layer {view.layer.index}", view.layer.name, f"map {_size(view.responses[0])}", *rates])


def _draw_image_with_pixels(sheet: Sheet, left: float, image: Tensor, pixels: Sequence[Pixel]) -> None:
    panel = sheet.panel(left, _MARGIN, *_cell(image))
    draw_image(panel, image)
    for number, (y, x) in enumerate(pixels):
        draw_pixel(panel, image, number, y, x)


def _draw_look(
    sheet: Sheet, place: tuple[float, float], image: Tensor, view: LayerView, number: int, weights: Tensor | None
) -> None:
    """One pixel's attention; `weights` [H, W] are a head's or the mean's, None where there is no attention path."""
    panel = sheet.panel(*place, *_cell(image))
    if weights is None:
        panel.text(0.5, 0.5, "no attention path", ha="center", va="center", fontsize=8, color=SOFT)
        return
    draw_attention(panel, image, weights)
    zoom = draw_query(panel, image, view, number)
    note = f"largest {float(weights.max()):.2g}" + (f", {zoom:.1f} x closer" if zoom > 1 else "")
    sheet.write(place[0], place[1] + _cell(image)[1] + 0.05, note, size=8, color=SOFT)


def _draw_responses(sheet: Sheet, lefts: Sequence[float], top: float, image: Tensor, view: LayerView) -> None:
    width, height = _cell(image)
    brightest = max(float(response.max()) for response in view.responses) or 1.0
    for left, response, word in zip(
        lefts, (view.attention_response, view.convolution_response), ("attention", "convolution"), strict=True
    ):
        panel = sheet.panel(left, top, width, height)
        if response is None:
            panel.text(0.5, 0.5, f"no {word} path", ha="center", va="center", fontsize=8, color=SOFT)
            continue
        draw_response(panel, image, response, brightest)
        note = f"mean {float(response.mean()):.2g}, scale 0 to {brightest:.2g}"
        sheet.write(left, top + height + 0.05, note, size=8, color=SOFT)
