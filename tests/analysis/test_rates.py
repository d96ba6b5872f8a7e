import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from acmix.analysis.rates import RATES_COLUMNS, LayerRates, format_rates, layer_rates, write_rates_csv
from acmix.nn import ACmix


def rates(alpha: float | None, beta: float | None) -> LayerRates:
    return LayerRates(1, "layer1.0.conv2", "layer1", alpha, beta)


@pytest.mark.parametrize(
    ("alpha", "beta", "ratio"),
    [
        (0.5, 0.5, 0.0),
        (-10.0, 0.1, 2.0),
        (0.0, 0.3, -math.inf),
        (0.3, 0.0, math.inf),
        (1e300, 1e-300, 600.0),
        (0.0, 0.0, None),
        (None, 0.5, None),
        (0.5, None, None),
    ],
)
def test_log_ratio_is_base_10_and_defined_for_zero_rates(
    alpha: float | None, beta: float | None, ratio: float | None
) -> None:
    assert rates(alpha, beta).log10_ratio == (None if ratio is None else pytest.approx(ratio))


def test_rates_are_read_from_the_layers() -> None:
    network = nn.Sequential(ACmix(8, 8), ACmix(8, 8, paths="attention"), ACmix(8, 8, paths="convolution"))
    with torch.no_grad():
        network[0].alpha.fill_(-0.25)
    assert [(rate.alpha, rate.beta) for rate in layer_rates(network)] == [(-0.25, 0.5), (0.5, None), (None, 0.5)]


def test_table_shows_signs_strengths_and_gaps() -> None:
    first, second = format_rates([rates(-0.25, 2.5), rates(0.5, None)]).splitlines()[2:]
    assert first.split() == ["1", "layer1.0.conv2", "-0.2500", "+2.5000", "0.2500", "2.5000", "-1.000"]
    assert second.split() == ["1", "layer1.0.conv2", "+0.5000", "-", "0.5000", "-", "-"]


def test_csv_keeps_every_digit_of_every_run(tmp_path: Path) -> None:
    alpha = float(torch.rand(()))
    write_rates_csv({"a": [rates(alpha, 0.0)], "b": [rates(None, 0.5)]}, tmp_path / "rates.csv")
    with (tmp_path / "rates.csv").open() as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == RATES_COLUMNS
    assert (first["run"], float(first["alpha"]), float(first["log10_ratio"])) == ("a", alpha, math.inf)
    assert (second["run"], second["alpha"], second["abs_beta"], second["log10_ratio"]) == ("b", "", "0.5", "")
