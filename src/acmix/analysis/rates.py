"""The two learned rates of every ACmix layer: which path a network came to prefer, and where."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from acmix.analysis.layers import find_layers
from acmix.tables import format_table

__all__ = ["RATES_COLUMNS", "LayerRates", "format_rates", "layer_rates", "write_rates_csv"]

RATES_COLUMNS = ("run", "index", "layer", "stage", "alpha", "beta", "abs_alpha", "abs_beta", "log10_ratio")


@dataclass(frozen=True)
class LayerRates:
    """The rates of one layer: output = alpha * attention + beta * convolution (paper, equation 13).

    Attributes:
        index: position among the network's ACmix layers, from 1.
        layer: the layer's name in the network.
        stage: the stage that the layer stands in.
        alpha: rate of the attention path, None where the layer has no such path.
        beta: rate of the convolution path, None where the layer has no such path.
    """

    index: int
    layer: str
    stage: str
    alpha: float | None
    beta: float | None

    @property
    def abs_alpha(self) -> float | None:
        """Strength of the attention path."""
        return None if self.alpha is None else abs(self.alpha)

    @property
    def abs_beta(self) -> float | None:
        """Strength of the convolution path."""
        return None if self.beta is None else abs(self.beta)

    @property
    def log10_ratio(self) -> float | None:
        """`log10 |alpha / beta|`: above 0 attention is the stronger path, below 0 convolution.

        A rate of exactly zero gives an infinity. None where a path is missing or both rates are zero.
        """
        if self.alpha is None or self.beta is None or self.alpha == self.beta == 0:
            return None
        if self.beta == 0:
            return math.inf
        if self.alpha == 0:
            return -math.inf
        # The quotient itself could overflow.
        return math.log10(abs(self.alpha)) - math.log10(abs(self.beta))


def layer_rates(model: nn.Module) -> list[LayerRates]:
    """Reads alpha and beta of every ACmix layer.

    Args:
        model: a network with ACmix layers.

    Returns:
        One entry per layer in network order; empty for a network without ACmix layers.
    """
    return [
        LayerRates(found.index, found.name, found.stage, *found.module.rate_values()) for found in find_layers(model)
    ]


def write_rates_csv(runs: Mapping[str, Sequence[LayerRates]], path: Path) -> None:
    """Writes the rates of one or more runs as CSV, one line per run and layer, every digit kept.

    Missing values are empty cells and infinities are written `inf` and `-inf`, as pandas and NumPy read them.

    Args:
        runs: the rates under the name of their run.
        path: the file to write; it is replaced if it exists.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(RATES_COLUMNS)
        for run, rates in runs.items():
            for rate in rates:
                numbers = (rate.alpha, rate.beta, rate.abs_alpha, rate.abs_beta, rate.log10_ratio)
                cells = ["" if number is None else repr(number) for number in numbers]
                writer.writerow([run, rate.index, rate.layer, rate.stage, *cells])


def format_rates(rates: Sequence[LayerRates]) -> str:
    """Lays the rates out as a table for the terminal.

    Args:
        rates: the rates of one network.

    Returns:
        Lines of text; `-` stands for what a layer does not have.
    """
    header = ("layer", "name", "alpha", "beta", "|alpha|", "|beta|", "log10|alpha/beta|")
    rows = [
        (
            str(rate.index),
            rate.layer or "(the network)",
            _cell(rate.alpha, "+.4f"),
            _cell(rate.beta, "+.4f"),
            _cell(rate.abs_alpha, ".4f"),
            _cell(rate.abs_beta, ".4f"),
            _cell(rate.log10_ratio, "+.3f"),
        )
        for rate in rates
    ]
    return format_table(header, rows, left=(1,))


def _cell(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)
