"""The rates of one or more runs drawn over the layers, in the manner of the paper's Figure 5."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acmix.analysis.rates import LayerRates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "draw_rates"]

COLOURS = ("#2a6fbb", "#d1622b", "#3a8f57", "#8a56b0", "#5c5c5c")
_INK, _SOFT = "#333333", "#777777"
_MOST_STAGE_NAMES = 6
_Value = Callable[[LayerRates], float | None]


def draw_rates(runs: Mapping[str, Sequence[LayerRates]], path: Path) -> None:
    """Draws |alpha|, |beta| and log10 |alpha / beta| over the layer index, one line per run.

    The paper's Figure 5 takes the logarithm to base 10 for one network and to base 2 for the other; here it is
    always base 10. A layer whose rate is exactly zero has an infinite ratio: it is drawn as a triangle at the
    panel's edge. The stages are marked where all runs have the same.

    Args:
        runs: the rates under the name of their run; runs of different networks may be drawn together.
        path: the PNG file to write.

    Raises:
        ValueError: no run has an ACmix layer.
    """
    from matplotlib.figure import Figure

    runs = {name: rates for name, rates in runs.items() if rates}
    if not runs:
        raise ValueError("there are no rates to draw: none of the networks has an ACmix layer")
    depth = max(len(rates) for rates in runs.values())
    figure = Figure(figsize=(12.6, 3.9 if len(runs) == 1 else 4.2), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3)
    contents: list[tuple[str, _Value]] = [
        (r"attention rate  $|\alpha|$", lambda rate: rate.abs_alpha),
        (r"convolution rate  $|\beta|$", lambda rate: rate.abs_beta),
        (r"$\log_{10}\,|\alpha / \beta|$", lambda rate: rate.log10_ratio),
    ]
    for panel, (title, value) in zip(panels, contents, strict=True):
        _prepare(panel, title, depth)
        _draw_stages(panel, runs)
        _draw_lines(panel, runs, value)
    strengths, ratios = [], []
    for rate in itertools.chain.from_iterable(runs.values()):
        strengths += [number for number in (rate.abs_alpha, rate.abs_beta) if number is not None]
        ratios += [] if rate.log10_ratio is None else [rate.log10_ratio]
    top = max((number for number in strengths if math.isfinite(number)), default=0.0)
    for panel in panels[:2]:
        panel.set_ylim(0, 1.06 * top or 1.0)
    _finish_ratio(panels[2], ratios)
    if len(runs) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, format="png")


def _prepare(panel: "Axes", title: str, depth: int) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_title(title, fontsize=12, color=_INK, pad=22)
    panel.set_xlabel("ACmix layer", color=_INK)
    panel.set_xlim(0.5, depth + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    panel.grid(visible=True, axis="y", color="#e3e3e3", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_INK, length=3)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#999999")


def _draw_stages(panel: "Axes", runs: Mapping[str, Sequence[LayerRates]]) -> None:
    layouts = {tuple(rate.stage for rate in rates) for rates in runs.values()}
    if len(layouts) > 1:
        return
    start = 1
    stages = [(stage, len(list(members))) for stage, members in itertools.groupby(layouts.pop())]
    for number, (stage, count) in enumerate(stages):
        left, right = start - 0.5, start + count - 0.5
        if number % 2:
            panel.axvspan(left, right, color="#f4f4f1", linewidth=0, zorder=-2)
        if len(stages) <= _MOST_STAGE_NAMES:
            panel.text(
                (left + right) / 2,
                1.015,
                stage,
                transform=panel.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=8,
                color=_SOFT,
            )
        start += count


def _draw_lines(panel: "Axes", runs: Mapping[str, Sequence[LayerRates]], value: _Value) -> None:
    drawn = False
    for number, (name, rates) in enumerate(runs.items()):
        points = [(rate.index, value(rate)) for rate in rates]
        xs = [x for x, y in points if y is not None]
        ys = [y for _, y in points if y is not None]
        finite = [y if math.isfinite(y) else math.nan for y in ys]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.8, "markersize": 5}
        panel.plot(xs, finite, marker="o", linestyle="-" if number < len(COLOURS) else "--", label=name, **style)
        for x, y in zip(xs, ys, strict=True):
            if math.isinf(y):
                edge, marker = (0.97, "^") if y > 0 else (0.03, "v")
                panel.plot([x], [edge], marker=marker, transform=panel.get_xaxis_transform(), linestyle="", **style)
        drawn = drawn or bool(xs)
    if not drawn:
        panel.text(0.5, 0.5, "no such path", transform=panel.transAxes, ha="center", va="center", color=_SOFT)
        panel.set_yticks([])


def _finish_ratio(panel: "Axes", ratios: Sequence[float]) -> None:
    """Puts equal strength in the middle, and says which side is whose."""
    reach = 1.15 * max((abs(ratio) for ratio in ratios if math.isfinite(ratio)), default=1.0)
    panel.set_ylim(-max(reach, 0.1), max(reach, 0.1))
    panel.set_ylabel("convolution stronger  |  attention stronger", fontsize=8, color=_SOFT)
    if ratios:
        panel.axhline(0, color="#999999", linewidth=1, zorder=0)
    if any(math.isinf(ratio) for ratio in ratios):
        panel.set_xlabel("ACmix layer (triangle: one rate is zero)", color=_INK)
