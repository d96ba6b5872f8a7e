"""Figures from samples."""

import pytest

from acmix.bench.figures import affine_growth, geometric_mean, log_slope, quartiles


def test_quartiles_of_five_are_the_second_third_and_fourth() -> None:
    assert quartiles([5, 1, 4, 2, 3]) == (2, 3, 4)


def test_one_value_is_all_quartiles() -> None:
    assert quartiles([7.0]) == (7, 7, 7)


def test_quartiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        quartiles([])


def test_twice_and_half_as_long_is_as_long() -> None:
    assert geometric_mean([2, 0.5]) == pytest.approx(1)


def test_slope_is_the_exponent() -> None:
    xs = [10.0, 100, 1000]
    assert log_slope(xs, [3 * x**1.5 for x in xs]) == pytest.approx(1.5)


def test_growth_of_a_straight_line_has_no_deviation() -> None:
    growth = affine_growth([1, 2, 4], [13, 16, 22])
    assert growth == pytest.approx((10, 3, 0))


def test_a_point_off_the_line_is_told_as_a_share_of_its_value() -> None:
    assert affine_growth([0, 1, 2], [10, 25, 30]).deviation == pytest.approx(0.2)
