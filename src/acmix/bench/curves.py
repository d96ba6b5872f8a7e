"""Time and memory against the side of the map, or against the window."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from acmix.bench.case import Case
from acmix.bench.record import Record, Row
from acmix.bench.settings import Mode
from acmix.bench.style import INK, colour, finish, prepare
from acmix.bench.summary import contenders_of, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves"]

_MIB = 2**20


_Value = Callable[[Row], float | None]


class _Panel(NamedTuple):
    """What a panel shows of each row: a value and, where there are any, its quartiles."""

    title: str
    value: _Value
    quartiles: tuple[_Value, _Value] | None = None


def draw_curves(record: Record, path: Path) -> None:
    """Draws, for each mode, time, time over the yardstick's, and memory; a line for each contender.

    Args:
        record: of sizes or windows.
        path: the PNG file to write.

    Raises:
        ValueError: nothing was timed.
    """
    from matplotlib.figure import Figure

    names = contenders_of(record)
    if not names:
        raise ValueError("there is nothing to draw: nothing was timed")
    modes = record.conditions.modes
    figure = Figure(figsize=(12.6, 3.6 * len(modes) + 0.8), dpi=130, layout="constrained")
    grid = figure.subplots(len(modes), 3, squeeze=False)
    for row, mode in zip(grid, modes, strict=True):
        for panel, content in zip(row, _contents(record, mode), strict=True):
            prepare(panel, f"{mode.capitalize()}: {content.title}")
            for name in names:
                _draw(panel, record, name, rows_of(record, mode, name), content)
            _scale(panel, record)
        row[1].axhline(1, color=INK, linewidth=1.2, zorder=1)
    finish(figure, [panel for row in grid for panel in row], record)
    figure.savefig(path, format="png")


def _contents(record: Record, mode: Mode) -> list[_Panel]:
    yardstick = " or ".join(dict.fromkeys(record.yardsticks.values()))
    memory = (
        _Panel("MiB kept for backward", lambda row: _mebibytes(row.saved_bytes))
        if mode == "training"
        else _Panel("MiB at the peak", lambda row: _mebibytes(row.peak_bytes))
    )
    time_ends: tuple[_Value, _Value] = (lambda row: _ms(row.low_s), lambda row: _ms(row.high_s))
    ratio_ends: tuple[_Value, _Value] = (lambda row: row.ratio_low, lambda row: row.ratio_high)
    return [
        _Panel("ms", lambda row: _ms(row.median_s), time_ends),
        _Panel(f"time over that of {yardstick}", lambda row: row.ratio, ratio_ends),
        memory,
    ]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / _MIB


def _place(record: Record, case: Case) -> int:
    return case.window if record.topic == "windows" else case.size


def _draw(panel: "Axes", record: Record, name: str, rows: dict[str, Row], content: _Panel) -> None:
    points = [(_place(record, case), rows[case.name]) for case in record.cases if case.name in rows]
    drawn = [(x, value, row) for x, row in points if (value := content.value(row)) is not None]
    if not drawn:
        return
    xs = [x for x, _, _ in drawn]
    # Ours lies on top and is thinner, so that a line below it still shows.
    width, height = (1.4, 3) if name == "ours" else (2.6, 2)
    style: dict[str, Any] = {"color": colour(name), "linewidth": width, "markersize": 4, "zorder": height}
    panel.plot(xs, [y for _, y, _ in drawn], marker="o", label=name, **style)
    if content.quartiles is not None:
        lows, highs = ([end(row) or math.nan for *_, row in drawn] for end in content.quartiles)
        panel.fill_between(xs, lows, highs, color=colour(name), alpha=0.2, linewidth=0)


def _scale(panel: "Axes", record: Record) -> None:
    """Logarithmic scales, on which what grows with the pixels is a straight line; windows are few and lie evenly."""
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    places = [_place(record, case) for case in record.cases]
    if record.topic == "sizes":
        panel.set_xscale("log")
        panel.set_xticks([], minor=True)
    panel.set_xticks(places, [str(place) for place in places])
    panel.set_xlabel("side of the map" if record.topic == "sizes" else "side K of the window", color=INK)
