"""A small drawing board over matplotlib: pixel maps, stages, arrows, and text that is checked not to overlap."""

import pathlib
from itertools import combinations

import matplotlib as mpl
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from torch import Tensor

INK, MUTED, RULE, PAPER_SHADE = "#1f2933", "#616e7c", "#cbd2d9", "#dde2e8"
CONVOLUTION, ATTENTION, SHARED, NEGATIVE = "#2b6cb0", "#c05621", "#5f4bb6", "#c43d5d"
HEADS = ("#2a9d8f", "#e9a23b", "#d1495b", "#4c6fbf")


def blend(color: str, amount: float) -> tuple[float, float, float]:
    """White at 0, the colour at 1."""
    red, green, blue = (1 + (part - 1) * min(1.0, amount) for part in to_rgb(color))
    return red, green, blue


class Canvas:
    """A page of `width` x `height` units, ten to the inch, y downwards."""

    def __init__(self, width: float, height: float) -> None:
        mpl.rc("font", family="DejaVu Sans")
        mpl.rc("mathtext", fontset="dejavusans")
        mpl.rc("svg", fonttype="path", hashsalt="acmix")  # the salt and the missing date: same drawing, same bytes
        self.figure = Figure(figsize=(width / 10, height / 10))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        self.axes.set_axis_off()

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 9.5,
        color: str = INK,
        align: str = "center",
        bold: bool = False,
    ) -> None:
        weight = "bold" if bold else "normal"
        self.axes.text(x, y, words, size=size, color=color, ha=align, va="center", weight=weight, linespacing=1.35)

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: object = "white",
        edge: str = RULE,
        line: float = 0.8,
    ) -> None:
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=line))

    def box(self, x: float, y: float, width: float, height: float, words: str, *, color: str) -> None:
        """A rounded box that names an operation."""
        style = "round,pad=0,rounding_size=0.8"
        shape = FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor="white", edgecolor=color, linewidth=1.2)
        self.axes.add_patch(shape)
        self.text(x + width / 2, y + height / 2, words, color=color)

    def stage(self, x: float, y: float, width: float, height: float, *, title: str, note: str, color: str) -> None:
        """A tinted panel with a title above and a note below what it holds."""
        style = "round,pad=0,rounding_size=1.2"
        fill = blend(color, 0.07)
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=fill, edgecolor="none"))
        self.text(x + width / 2, y + 2.2, title, color=color, size=10.5, bold=True)
        self.text(x + width / 2, y + height - 2.6, note, color=MUTED, size=8.5)

    def tile(
        self,
        x: float,
        y: float,
        values: Tensor,
        cell: float,
        *,
        colors: tuple[str, str] = (CONVOLUTION, NEGATIVE),
        grey: Tensor | None = None,
    ) -> None:
        """A map [H, W], one square a pixel: positive values in the first colour, negative in the second, zero blank."""
        height, width = values.shape
        self.rectangle(x, y, width * cell, height * cell, edge="none")
        if grey is not None:
            self._squares(x, y, grey, cell, PAPER_SHADE)
        for value in values.unique().tolist():
            if abs(value) > 0.01:
                self._squares(x, y, values == value, cell, blend(colors[value < 0], abs(value)))
        self.rectangle(x, y, width * cell, height * cell, fill="none", edge=MUTED, line=0.9)

    def mark(self, x: float, y: float, pixel: tuple[int, int], cell: float) -> None:
        """A frame around one pixel (row, column) of a tile drawn at the same place."""
        self.rectangle(x + pixel[1] * cell, y + pixel[0] * cell, cell, cell, fill="none", edge=INK, line=1.8)

    def _squares(self, x: float, y: float, where: Tensor, cell: float, fill: object) -> None:
        squares = [
            Path.unit_rectangle().transformed(Affine2D().scale(cell).translate(x + column * cell, y + row * cell))
            for row, column in where.nonzero().tolist()
        ]
        if squares:
            one_path = Path.make_compound_path(*squares)
            self.axes.add_patch(PathPatch(one_path, facecolor=fill, edgecolor="white", linewidth=0.3))

    def arrow(self, start: tuple[float, float], end: tuple[float, float], *, curve: str = "arc3") -> None:
        style = "-|>,head_length=4,head_width=2.4"
        patch = FancyArrowPatch(
            start, end, arrowstyle=style, connectionstyle=curve, color=MUTED, linewidth=1.2, shrinkA=0, shrinkB=0
        )
        self.axes.add_patch(patch)

    def save(self, path: pathlib.Path) -> None:
        """Write the drawing as SVG; stop if a text covers another one or leaves the page."""
        boxes = [(item.get_text(), item.get_window_extent()) for item in self.axes.texts]
        for words, box in boxes:
            if not (box.x0 >= 0 and box.y0 >= 0 and box.x1 <= self.figure.bbox.x1 and box.y1 <= self.figure.bbox.y1):
                raise ValueError(f"{path.name}: the text {words!r} leaves the page")
        for (one, a), (other, b) in combinations(boxes, 2):
            if a.overlaps(b):
                raise ValueError(f"{path.name}: the texts {one!r} and {other!r} overlap")
        self.figure.savefig(path, metadata={"Date": None, "Creator": None})
