"""The single panels of the attention pictures: an image, attention over it, a response; and a sheet to lay them on."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acmix.analysis.attention import LayerView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["INK", "SOFT", "Sheet", "draw_attention", "draw_image", "draw_pixel", "draw_query", "draw_response", "mark"]

INK, SOFT = "#2b2b2b", "#707070"
_MARKS = ("#0b84c6", "#2a9d5c", "#8b5bd0", "#c2437a", "#7a6a00")
_GLOW = (0.91, 0.35, 0.05)
# A panel that comes closer shows this many window sides, and does so where things get this much larger.
_ROOM, _WORTH_ZOOM = 2.5, 1.4


def mark(number: int) -> str:
    """The colour that belongs to the query pixel of that number."""
    return _MARKS[number % len(_MARKS)]


class Sheet:
    """A page on which panels are placed in inches from the upper left corner, so that nothing can overlap.

    Args:
        width: of the page.
        height: of the page.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width, height), dpi=140, facecolor="white")

    def panel(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Places an empty panel without ticks."""
        bottom = self.height - top - height
        axes = self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color("#bbbbbb")
            spine.set_linewidth(0.6)
        return axes

    def write(self, left: float, top: float, words: str, *, size: float = 9, color: str = INK) -> None:
        """Writes words whose first line begins at that place."""
        self.figure.text(
            left / self.width,
            1 - top / self.height,
            words,
            fontsize=size,
            color=color,
            ha="left",
            va="top",
            linespacing=1.45,
        )


def draw_image(axes: "Axes", image: Tensor, *, faint: bool = False) -> None:
    """Shows an image of 1 or 3 channels; the faint form is grey and pale, a ground to draw on."""
    height, width = image.shape[-2:]
    shown = image.detach().float().cpu().clamp(0, 1)
    if faint:
        grey = (
            shown.mean(0)
            if shown.shape[0] != 3
            else (shown * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
        )
        shown = (0.30 + 0.65 * grey)[None]
    pixels = shown[:3] if shown.shape[0] >= 3 else shown[:1].expand(3, -1, -1)
    axes.imshow(pixels.permute(1, 2, 0).numpy(), extent=(0, width, height, 0), interpolation="nearest", aspect="auto")


def draw_attention(axes: "Axes", image: Tensor, weights: Tensor) -> None:
    """Lays attention weights [H, W] over the faint image: the larger the weight, the more opaque the colour."""
    draw_image(axes, image, faint=True)
    height, width = image.shape[-2:]
    overlay = torch.empty(*weights.shape, 4)
    overlay[..., :3] = torch.tensor(_GLOW)
    overlay[..., 3] = 0.92 * weights / weights.max().clamp_min(torch.finfo(torch.float32).tiny)
    axes.imshow(overlay.numpy(), extent=(0, width, height, 0), interpolation="nearest", aspect="auto")


def draw_query(axes: "Axes", image: Tensor, view: LayerView, number: int) -> float:
    """Outlines the query's cell and, dashed, the window that it can see; comes closer where the window is small.

    Returns:
        How many times larger than the whole image things are drawn, at least 1.
    """
    if view.attention is None:
        raise ValueError(f"{view.layer.name} has no attention path")
    rows, columns = view.attention.shape[-2:]
    height, width = image.shape[-2:]
    cell_height, cell_width = height / rows, width / columns
    window, (y, x) = view.windows[number], view.queries[number]
    window_height, window_width = (window.bottom - window.top) * cell_height, (window.right - window.left) * cell_width
    corner = (window.left * cell_width, window.top * cell_height)
    _outline(axes, corner, (window_width, window_height), color=mark(number), dashed=True)
    _outline(axes, (x * cell_width, y * cell_height), (cell_width, cell_height), color=mark(number))
    zoom = 1 / (_ROOM * max(window_height / height, window_width / width))
    if zoom < _WORTH_ZOOM:
        return 1.0
    left = _slide(corner[0] + window_width / 2, width / zoom, width)
    top = _slide(corner[1] + window_height / 2, height / zoom, height)
    axes.set_xlim(left, left + width / zoom)
    axes.set_ylim(top + height / zoom, top)
    return zoom


def _slide(centre: float, part: float, whole: float) -> float:
    """Where a part of that length begins, so that it lies around its centre but within the whole."""
    return min(max(centre - part / 2, 0.0), whole - part)


def draw_pixel(axes: "Axes", image: Tensor, number: int, y: int, x: int) -> None:
    """Marks a query pixel on the image, with a frame that stays visible on large images, and its number."""
    height, width = image.shape[-2:]
    side = max(1.0, 0.06 * max(height, width))
    _outline(axes, (x + 0.5 - side / 2, y + 0.5 - side / 2), (side, side), color=mark(number))
    right = x < 0.8 * width
    axes.text(
        x + 0.5 + (0.8 if right else -0.8) * side,
        y + 0.5,
        str(number + 1),
        color="white",
        fontsize=8,
        fontweight="bold",
        ha="left" if right else "right",
        va="center",
        bbox={"boxstyle": "round,pad=0.18", "facecolor": mark(number), "edgecolor": "none"},
    )


def draw_response(axes: "Axes", image: Tensor, response: Tensor) -> None:
    """Shows a path's response [H', W'] stretched over the image's frame, on a scale from 0 to its largest value."""
    height, width = image.shape[-2:]
    axes.imshow(
        response.numpy(),
        extent=(0, width, height, 0),
        interpolation="nearest",
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=float(response.max()) or 1.0,
    )


def _outline(
    axes: "Axes", corner: tuple[float, float], size: tuple[float, float], *, color: str, dashed: bool = False
) -> None:
    """A frame with a pale rim, so that it shows on any ground."""
    from matplotlib.patches import Rectangle

    for line_width, line_color in ((3.0, "white"), (1.6, color)):
        axes.add_patch(
            Rectangle(
                corner,
                *size,
                fill=False,
                linewidth=line_width * (0.8 if dashed else 1),
                edgecolor=line_color,
                linestyle=(0, (3, 2)) if dashed else "-",
                clip_on=False,
            )
        )
