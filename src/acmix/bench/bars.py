"""Ratios to the yardstick as bars: cases side by side, a bar for each contender."""

from pathlib import Path
from typing import TYPE_CHECKING

from acmix.bench.record import Record, Row
from acmix.bench.settings import Mode
from acmix.bench.style import INK, SOFT, colour, finish, prepare
from acmix.bench.summary import contenders_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_ratios"]

_WIDTH, _WIDEST = 0.86, 0.3
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_ROOM = 1.35
_RANGE = (0.5, 2.0)
"""What is always in sight, so that a difference of little looks like little."""


def draw_ratios(record: Record, path: Path) -> None:
    """Draws, for each mode, the time over the yardstick's with its quartiles, on a logarithmic scale, and a line at 1.

    Args:
        record: of layers, attention, networks or backbones.
        path: the PNG file to write.

    Raises:
        ValueError: nothing was timed beside the yardstick.
    """
    from matplotlib.figure import Figure

    modes = record.conditions.modes
    if not any(_rows(record, mode, case.name) for mode in modes for case in record.cases):
        raise ValueError("there is nothing to draw: no contender was timed")
    figure = Figure(figsize=(12.6, 3.2 * len(modes) + 1.0), dpi=130, layout="constrained")
    panels = list(figure.subplots(len(modes), 1, squeeze=False)[:, 0])
    networks = record.topic in ("networks", "backbones")
    whose = "the second network's" if networks else " or ".join(dict.fromkeys(record.yardsticks.values()))
    for panel, mode in zip(panels, modes, strict=True):
        prepare(panel, f"{mode.capitalize()}: time over {whose if networks else f'that of {whose}'}")
        _draw(panel, record, mode, labelled=not networks)
    finish(figure, panels, record)
    figure.savefig(path, format="png")


def _rows(record: Record, mode: Mode, case: str) -> list[Row]:
    """What is drawn for a case, in the same order everywhere."""
    there = {row.contender: row for row in record.rows if (row.case, row.mode, row.status) == (case, mode, "timed")}
    names = (name for name in contenders_of(record) if name != record.yardsticks[case])
    return [there[name] for name in names if name in there]


def _draw(panel: "Axes", record: Record, mode: Mode, *, labelled: bool) -> None:
    seen: set[str] = set()
    bottoms, tops = ([end] for end in _RANGE)
    for place, case in enumerate(record.cases):
        rows = _rows(record, mode, case.name)
        width = min(_WIDTH / max(len(rows), 1), _WIDEST)
        for number, row in enumerate(rows):
            if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
                continue
            x = place + (number - (len(rows) - 1) / 2) * width
            # Bars stand on the line at 1: what is faster hangs below it.
            bar = panel.bar(x, row.ratio - 1, 0.92 * width, bottom=1, color=colour(row.contender))
            if labelled and row.contender not in seen:
                bar.set_label(row.contender)
                seen.add(row.contender)
            panel.vlines(x, row.ratio_low, row.ratio_high, color=INK, linewidth=1)
            above = row.ratio >= 1
            edge = row.ratio_high if above else row.ratio_low
            panel.annotate(
                _label(row.ratio),
                (x, edge),
                (0, 2 if above else -2),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=6.5,
                color=SOFT,
            )
            tops.append(row.ratio_high)
            bottoms.append(row.ratio_low)
    panel.set_yscale("log")
    low, high = min(bottoms) / _ROOM, max(tops) * _ROOM
    panel.set_ylim(low, high)
    panel.set_yticks([tick for tick in _TICKS if low <= tick <= high])
    panel.set_yticks([], minor=True)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xticks(range(len(record.cases)), [case.name for case in record.cases])
    panel.set_xlim(-0.5, len(record.cases) - 0.5)
    panel.axhline(1, color=INK, linewidth=1.2, zorder=3)


def _label(ratio: float) -> str:
    """Short enough to stand above a bar."""
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
