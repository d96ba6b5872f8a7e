"""The gate before the clock: whoever does not compute the operator is not timed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acmix.bench.passes import Contestant, cotangents, outputs_of, without_graph
from acmix.bench.settings import Mode

__all__ = ["Answers", "Verdict", "answers", "judge"]

_EAGER_ERRORS, _ROUNDINGS = 4, 4


@dataclass(frozen=True)
class Answers:
    """What a module gave for fixed inputs, in float64: outputs and, in training, gradients of the inputs."""

    outputs: list[Tensor]
    gradients: list[Tensor]


@dataclass(frozen=True)
class Verdict:
    """How far the answers lie from those in float64, and how far they may.

    Attributes:
        error: largest difference over outputs and input gradients, each in units of its largest entry.
        tolerance: the largest error that passes.
    """

    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the answers are right."""
        # Where plain operators overflow there is nothing to be compared with.
        return self.error <= self.tolerance < math.inf


def answers(contestant: Contestant, mode: Mode) -> Answers:
    """Runs a module; in training, differentiates it by its inputs too."""
    if mode == "inference":
        with torch.inference_mode():
            return Answers(without_graph(outputs_of(contestant)), [])
    inputs = tuple(x.detach().requires_grad_() for x in contestant.inputs)
    outputs = outputs_of(Contestant(contestant.module, inputs))
    gradients = torch.autograd.grad(outputs, inputs, cotangents(outputs))
    return Answers(without_graph(outputs), without_graph(gradients))


def judge(given: Answers, eager: Answers, truth: Answers, dtype: torch.dtype) -> Verdict:
    """Compares answers with the truth.

    The error may be four times that of the plain operators in the same dtype, plus four roundings of that dtype.

    Args:
        given: the contender's answers.
        eager: the reference's in the dtype of the run.
        truth: the reference's in float64.
        dtype: dtype of the run.
    """
    tolerance = _EAGER_ERRORS * _error(eager, truth) + _ROUNDINGS * torch.finfo(dtype).eps
    return Verdict(_error(given, truth), tolerance)


def _error(given: Answers, truth: Answers) -> float:
    pairs = [(given.outputs, truth.outputs), (given.gradients, truth.gradients)]
    return max(_difference(ours, expected) for ours, expected in pairs)


def _difference(given: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    worst = 0.0
    for ours, expected in zip(given, truth, strict=True):
        if ours.shape != expected.shape:
            return math.inf
        scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        difference = ((ours - expected).abs().max() / scale).item()
        # A NaN must not lose the comparison.
        worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst
