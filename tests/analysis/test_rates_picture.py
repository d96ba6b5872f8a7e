from pathlib import Path

import pytest

from acmix.analysis.rates import LayerRates
from acmix.analysis.rates_picture import COLOURS, draw_rates
from analysis.pictures import painted, read_png


def run(*pairs: tuple[float | None, float | None]) -> list[LayerRates]:
    return [LayerRates(i, f"layer{i}.0.conv2", f"layer{i}", *pair) for i, pair in enumerate(pairs, start=1)]


def test_the_picture_is_wide_and_has_the_line_in_all_three_panels(tmp_path: Path) -> None:
    draw_rates({"a": run((0.5, 0.4), (0.3, 0.6))}, tmp_path / "rates.png")
    picture = read_png(tmp_path / "rates.png")
    assert picture.shape == (507, 1638, 3)
    thirds = painted(picture, COLOURS[0])[:, 1] * 3 // picture.shape[1]
    assert set(thirds.tolist()) == {0, 1, 2}


def test_a_larger_rate_stands_higher(tmp_path: Path) -> None:
    draw_rates({"a": run((0.1, 1.0), (0.9, 1.0))}, tmp_path / "rates.png")
    rows, columns = painted(read_png(tmp_path / "rates.png"), COLOURS[0]).T
    in_first_panel = columns < 500
    left = rows[columns == columns.min()].mean()
    right = rows[columns == columns[in_first_panel].max()].mean()
    assert right < left - 200


def test_runs_have_colours_of_their_own(tmp_path: Path) -> None:
    one, other = run((0.5, 0.4), (0.3, 0.6)), run((0.2, 0.8), (0.7, 0.1), (0.6, 0.6))
    draw_rates({"a": one}, tmp_path / "one.png")
    draw_rates({"a": one, "b": other}, tmp_path / "two.png")
    assert len(painted(read_png(tmp_path / "one.png"), COLOURS[1])) == 0
    assert len(painted(read_png(tmp_path / "two.png"), COLOURS[1])) > 1000


def test_a_zero_rate_is_drawn_at_the_edge_of_the_ratio(tmp_path: Path) -> None:
    finite, zero = run((0.5, 0.5), (0.5, 0.5)), run((0.5, 0.5), (0.0, 0.5))
    draw_rates({"a": finite}, tmp_path / "finite.png")
    draw_rates({"a": zero}, tmp_path / "zero.png")

    def lowest_ratio(name: str) -> int:
        rows, columns = painted(read_png(tmp_path / name), COLOURS[0]).T
        return int(rows[columns > 1150].max())

    assert lowest_ratio("zero.png") > lowest_ratio("finite.png") + 150


@pytest.mark.parametrize(
    "pairs",
    [((0.5, None),), ((None, 0.5), (None, 0.2)), ((0.0, 0.0),), ((1e-30, 1e30),)],
    ids=["attention", "convolution", "both zero", "extreme"],
)
def test_odd_networks_are_drawn(tmp_path: Path, pairs: tuple[tuple[float | None, float | None], ...]) -> None:
    draw_rates({"a": run(*pairs)}, tmp_path / "rates.png")
    assert len(painted(read_png(tmp_path / "rates.png"), COLOURS[0])) > 20


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rates to draw"):
        draw_rates({"a": []}, tmp_path / "rates.png")
