"""The picture that belongs to a record."""

from pathlib import Path

from acmix.bench.bars import draw_ratios
from acmix.bench.curves import draw_curves
from acmix.bench.record import Record

__all__ = ["draw_record"]


def draw_record(record: Record, path: Path) -> None:
    """Draws bars of ratios for layers, attention and networks, curves for sizes and windows.

    Args:
        record: what to draw.
        path: the PNG file to write.

    Raises:
        ValueError: nothing was timed.
    """
    draw = draw_curves if record.topic in ("sizes", "windows") else draw_ratios
    draw(record, path)
