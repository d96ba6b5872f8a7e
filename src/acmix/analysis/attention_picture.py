"""Draws where a network looks: attention over the image, and the responses of the two paths beside it."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from acmix.analysis.attention import LayerView
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
from acmix.analysis.scene import Scene

__all__ = ["draw_heads", "draw_overview"]

# Inches.
_CELL, _GAP, _MARGIN, _LABEL, _NOTE = 1.9, 0.14, 0.25, 1.6, 0.34

_LEGEND = (
    "Each row below is a layer of the network.",
    "Orange: how much the marked pixel attends to each place, mean of the heads.",
    "Full colour is the largest weight, which is written below.",
    "Dashed: the window that the pixel can see.",
    "Blue to yellow: strength of each path's output (norm over its channels, rate",
    "included), from 0 to the largest, which is written below.",
)
_LEGEND_WIDTH = 4.9


def draw_overview(scene: Scene, views: Sequence[LayerView], path: Path) -> None:
    """Draws one row per layer: attention of each pixel over the image (mean of the heads), then the two responses.

    Args:
        scene: the image and its query pixels.
        views: what the layers did on this scene, from `look_inside`.
        path: the PNG file to write.
    """
    image = scene.image
    width, height = _cell(image)
    columns = len(scene.pixels) + 2
    body = max(columns * (width + _GAP), width + _GAP + _LEGEND_WIDTH)
    body_top = _MARGIN + max(height, 1.3) + 0.6
    sheet = Sheet(2 * _MARGIN + _LABEL + body, body_top + len(views) * (height + _NOTE) + _MARGIN / 2)
    lefts = [_MARGIN + _LABEL + column * (width + _GAP) for column in range(columns)]

    sheet.write(_MARGIN, _MARGIN, _describe_image(scene))
    panel = sheet.panel(lefts[0], _MARGIN, width, height)
    draw_image(panel, image)
    for number, (y, x) in enumerate(scene.pixels):
        draw_pixel(panel, image, number, y, x)
    sheet.write(lefts[1], _MARGIN, "\n".join(_LEGEND), size=8.5, color=SOFT)
    for number, label in enumerate(scene.labels):
        sheet.write(lefts[number], body_top - 0.23, f"{number + 1}: {label}", color=mark(number))
    for left, words in zip(lefts[-2:], ("attention path", "convolution path"), strict=True):
        sheet.write(left, body_top - 0.23, words)
    for row, view in enumerate(views):
        top = body_top + row * (height + _NOTE)
        sheet.write(_MARGIN, top, _describe_layer(view))
        for number, left in enumerate(lefts[:-2]):
            weights = None if view.attention is None else view.attention[:, number].mean(0)
            _draw_look(sheet, (left, top), image, view, number, weights)
        for left, response in zip(lefts[-2:], (view.attention_response, view.convolution_response), strict=True):
            _draw_response(sheet, (left, top), image, response)
    sheet.figure.savefig(path, format="png")


def draw_heads(scene: Scene, view: LayerView, path: Path) -> None:
    """Draws one row per pixel and one column per head of a single layer.

    Args:
        scene: the image and its query pixels.
        view: what the layer did on this scene, from `look_inside`.
        path: the PNG file to write.

    Raises:
        ValueError: the layer has no attention path.
    """
    if view.attention is None:
        raise ValueError(f"{view.layer.name} has no attention path, so it has no heads to draw")
    image = scene.image
    width, height = _cell(image)
    heads, body_top = view.attention.shape[0], _MARGIN + 0.3
    sheet = Sheet(
        2 * _MARGIN + _LABEL + (1 + heads) * (width + _GAP),
        body_top + max(len(scene.pixels) * (height + _NOTE), 1.2) + _MARGIN / 2,
    )
    lefts = [_MARGIN + _LABEL + column * (width + _GAP) for column in range(1 + heads)]
    sheet.write(_MARGIN, _MARGIN, _describe_layer(view))
    for head, left in enumerate(lefts[1:], start=1):
        sheet.write(left, _MARGIN, f"head {head}")
    for number, ((y, x), label) in enumerate(zip(scene.pixels, scene.labels, strict=True)):
        top = body_top + number * (height + _NOTE)
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


def _describe_image(scene: Scene) -> str:
    seen = tuple(scene.image.shape[-2:])
    lines = ["image", _size(scene.original_size)] + ([f"seen at {_size(seen)}"] if seen != scene.original_size else [])
    return "\n".join(lines)


def _describe_layer(view: LayerView) -> str:
    module = view.layer.module
    before, after = _size(view.input_size), _size(tuple(view.responses[0].shape))
    rates = [
        f"{word} {rate:.2f}"
        for word, rate in zip(("alpha", "beta"), module.rate_values(), strict=True)
        if rate is not None
    ]
    size = f"map {after}" if before == after else f"map {before}\nto {after}"
    return "\n".join([f"layer {view.layer.index}", view.layer.name, size, *rates])


def _size(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _draw_look(
    sheet: Sheet, place: tuple[float, float], image: Tensor, view: LayerView, number: int, weights: Tensor | None
) -> None:
    """One pixel's attention; `weights` [H, W] are a head's or the mean's, None where there is no attention path."""
    if weights is None:
        _say_missing(sheet, place, image)
        return
    panel = sheet.panel(*place, *_cell(image))
    draw_attention(panel, image, weights)
    zoom = draw_query(panel, image, view, number)
    note = f"largest {float(weights.max()):.2g}" + (f", {zoom:.1f} x closer" if zoom > 1 else "")
    sheet.write(place[0], place[1] + _cell(image)[1] + 0.05, note, size=8, color=SOFT)


def _draw_response(sheet: Sheet, place: tuple[float, float], image: Tensor, response: Tensor | None) -> None:
    if response is None:
        _say_missing(sheet, place, image)
        return
    draw_response(sheet.panel(*place, *_cell(image)), image, response)
    note = f"mean {float(response.mean()):.2g}, largest {float(response.max()):.2g}"
    sheet.write(place[0], place[1] + _cell(image)[1] + 0.05, note, size=8, color=SOFT)


def _say_missing(sheet: Sheet, place: tuple[float, float], image: Tensor) -> None:
    panel = sheet.panel(*place, *_cell(image))
    panel.text(0.5, 0.5, "no such path", ha="center", va="center", fontsize=8, color=SOFT, transform=panel.transAxes)
