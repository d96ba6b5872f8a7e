"""The picture of a run: loss and metrics per epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from acmix.tasks.metric_names import SHOWN, is_percent, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves"]

_PARTS = {"train": ("#7f7f7f", "training"), "val": ("#d1495b", "validation")}


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws the loss, and the task's metrics (accuracy, mIoU, AP), over the epochs.

    Args:
        rows: One mapping per epoch with `epoch` and some of `train/loss`, `val/loss`, `train/top1`, `val/map_50`, ...
        path: The PNG file to write.
    """
    # A figure of its own, not pyplot's: no window system and no state is touched.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = [name for name in ("loss", *SHOWN) if any(f"{part}/{name}" in row for part in _PARTS for row in rows)]
    figure = Figure(figsize=(4.6 * len(names), 3.4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _draw(axes, rows, name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path)


def _draw(axes: "Axes", rows: Sequence[Mapping[str, float]], name: str) -> None:
    scale = 100.0 if is_percent(name) else 1.0
    axes.set_title(f"{label(name)} in %" if is_percent(name) else name, fontsize=10, loc="left")
    for part, (color, word) in _PARTS.items():
        points = [(row["epoch"], scale * row[f"{part}/{name}"]) for row in rows if f"{part}/{name}" in row]
        if points:
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), color=color, label=word, marker=marker, markersize=3)
