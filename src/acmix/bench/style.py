"""What the benchmarks' pictures have in common: colours, axes, names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from acmix.bench.contenders import CONTENDERS, YARDSTICK
from acmix.bench.record import Record
from acmix.bench.report import describe_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["INK", "SOFT", "colour", "finish", "prepare"]

INK, SOFT = "#333333", "#777777"
_FIXED = {"ours": "#d1622b", YARDSTICK: "#8c8c8c"}
_REST = ("#2a6fbb", "#12355b", "#6aa5dd", "#3a8f57", "#8a56b0", "#c9a227", "#7a4a2b", "#4b4b9b")


def colour(name: str) -> str:
    """The colour that belongs to a contender, the same in all pictures; a network has ours."""
    others = [other for other in CONTENDERS if other not in _FIXED]
    if name in others:
        return _REST[others.index(name) % len(_REST)]
    return _FIXED.get(name, _FIXED["ours"])


def prepare(panel: "Axes", title: str) -> None:
    """Gives a panel its title, a light grid and the house's spines."""
    panel.set_title(title, fontsize=11, color=INK)
    panel.grid(visible=True, axis="y", color="#e3e3e3", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=INK, length=3)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#999999")


def finish(figure: "Figure", panels: Sequence["Axes"], record: Record) -> None:
    """Puts one legend below all panels, and above them how the record was made."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=len(found), frameon=False)
    figure.suptitle(describe_run(record), fontsize=7, color=SOFT)
