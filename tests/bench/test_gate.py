"""The gate lets right answers through, and no others."""

import math

import pytest
import torch
from torch import Tensor, nn

from acmix.bench.gate import Answers, answers, judge
from acmix.bench.passes import Contestant, cotangents

EPS = torch.finfo(torch.float32).eps


def answer(*values: float, gradient: float = 1.0) -> Answers:
    return Answers([torch.tensor(values, dtype=torch.float64)], [torch.tensor([gradient], dtype=torch.float64)])


TRUTH = answer(1, -2)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (answer(1, -2), 0),
        (answer(1, -2.5), 0.25),
        (answer(1, -2, gradient=1.5), 0.5),
        (answer(1, math.nan), math.inf),
        (answer(1, -2, gradient=math.nan), math.inf),
        (answer(1, -2, 3), math.inf),
    ],
    ids=["right", "output", "gradient", "nan", "gradient-nan", "shape"],
)
def test_error_is_the_largest_in_units_of_the_largest_entry(given: Answers, error: float) -> None:
    assert judge(given, TRUTH, TRUTH, torch.float32).error == error


def test_tolerance_is_four_errors_of_eager_and_four_roundings() -> None:
    verdict = judge(TRUTH, answer(1, -2.2), TRUTH, torch.float32)
    assert verdict.tolerance == pytest.approx(4 * 0.1 + 4 * EPS)


@pytest.mark.parametrize(("off", "passed"), [(3.9, True), (4.1, False)])
def test_the_tolerance_divides(off: float, passed: bool) -> None:
    assert judge(answer(1, -2 - 2 * off * EPS), TRUTH, TRUTH, torch.float32).passed is passed


def test_a_nan_of_eager_lets_nothing_through() -> None:
    assert not judge(answer(1, math.nan), answer(1, math.nan), TRUTH, torch.float32).passed


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


def test_training_compares_gradients_of_the_input_too() -> None:
    x = torch.tensor([1.0, 3.0])
    given = answers(Contestant(Square(), (x,)), "training")
    (begin,) = cotangents([x])
    assert torch.equal(given.gradients[0], (2 * x * begin).double())


def test_inference_compares_outputs_alone() -> None:
    assert answers(Contestant(Square(), (torch.ones(2),)), "inference").gradients == []
