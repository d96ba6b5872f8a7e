"""Figures from samples: quartiles, geometric means, growth."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Growth", "Quartiles", "affine_growth", "geometric_mean", "log_slope", "quartiles"]


class Quartiles(NamedTuple):
    """The middle of a sample and what half of it lies between."""

    low: float
    median: float
    high: float


class Growth(NamedTuple):
    """A straight line `fixed + rate * x`, and how far off it the points lie at most, as a share of their values."""

    fixed: float
    rate: float
    deviation: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """First quartile, median and third quartile; a single value is all three.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("quartiles of no values")
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low, median, high)


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of ratios."""
    return statistics.geometric_mean(values)


def log_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Slope of log y over log x by least squares: the exponent `p` of `y ~ x ** p`."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope


def affine_growth(xs: Sequence[float], ys: Sequence[float]) -> Growth:
    """The line through the points of least and of largest x, and the largest deviation of any point from it."""
    points = sorted(zip(xs, ys, strict=True))
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    rate = (last_y - first_y) / (last_x - first_x)
    fixed = first_y - rate * first_x
    return Growth(fixed, rate, max(abs(y - fixed - rate * x) / y for x, y in points))
