"""Pictures of records, read back."""

from pathlib import Path

import numpy as np
import pytest

from acmix.bench.drawing import draw_record
from acmix.bench.record import Record
from acmix.bench.style import colour
from analysis.pictures import painted, read_png
from bench.made import layers, sizes


def drawn(record: Record, path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    draw_record(record, path)
    return read_png(path)


def test_a_slower_contender_has_a_higher_bar(tmp_path: Path) -> None:
    picture = drawn(layers({"ours": 3.0, "torch": 30.0}), tmp_path / "a.png")
    half = picture.shape[0] // 2
    tops = [painted(picture[:half], colour(name), 5)[:, 0].min() for name in ("ours", "torch")]
    assert tops[1] < tops[0] - 20


def test_a_faster_contender_hangs_below_the_line(tmp_path: Path) -> None:
    picture = drawn(layers({"ours": 0.6, "torch": 3.0}), tmp_path / "a.png")
    half = picture.shape[0] // 2
    ours, others = (painted(picture[:half], colour(name), 5)[:, 0] for name in ("ours", "torch"))
    assert ours.min() >= others.max() - 3


def test_both_modes_and_all_cases_are_drawn(tmp_path: Path) -> None:
    picture = drawn(layers({"ours": 3.0}), tmp_path / "a.png")
    rows, columns = painted(picture, colour("ours"), 5).T
    halves = set(zip((rows * 2 // picture.shape[0]).tolist(), (columns * 2 // picture.shape[1]).tolist(), strict=True))
    assert halves == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_curves_are_in_all_six_panels(tmp_path: Path) -> None:
    picture = drawn(sizes(1.2), tmp_path / "a.png")
    rows, columns = painted(picture, colour("ours"), 5).T
    places = set(zip((rows * 2 // picture.shape[0]).tolist(), (columns * 3 // picture.shape[1]).tolist(), strict=True))
    assert places == {(row, column) for row in range(2) for column in range(3)}


@pytest.mark.parametrize("topic", ["layers", "sizes", "networks", "windows"])
def test_nothing_timed_is_refused(topic: str, tmp_path: Path) -> None:
    empty = Record(**{**vars(layers({"ours": 1.0})), "topic": topic, "rows": []})
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_record(empty, tmp_path / "a.png")
