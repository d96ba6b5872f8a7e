"""A module with its inputs, and the two passes that are measured on them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from acmix.bench.settings import Mode
from acmix.bench.timing import Call

__all__ = ["Contestant", "cotangents", "make_call", "outputs_of", "without_graph"]


class Contestant(NamedTuple):
    """What is run: `module(*inputs)`."""

    module: nn.Module
    inputs: tuple[Tensor, ...]

    def held(self) -> list[Tensor]:
        """What is there before it runs: inputs, parameters, buffers."""
        return [*self.inputs, *self.module.parameters(), *self.module.buffers()]


def outputs_of(contestant: Contestant) -> list[Tensor]:
    """Runs it; a network of features has several outputs."""
    out = contestant.module(*contestant.inputs)
    return list(out) if isinstance(out, list | tuple) else [out]


def cotangents(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients to begin the backward pass with: random, and the same for outputs of the same shapes."""
    generator = torch.Generator().manual_seed(99)
    return [torch.randn(out.shape, generator=generator).to(out) for out in outputs]


def make_call(contestant: Contestant, mode: Mode) -> Call:
    """The pass that is measured.

    Args:
        contestant: module and inputs; inputs that require a gradient get one.
        mode: "inference" without autograd, "training" for forward and backward up to parameters and those inputs.

    Returns:
        A function without arguments; what it returns keeps nothing alive.
    """
    return _training(contestant) if mode == "training" else _inference(contestant)


def _inference(contestant: Contestant) -> Call:
    def call() -> None:
        with torch.inference_mode():
            outputs_of(contestant)

    return call


def _training(contestant: Contestant) -> Call:
    targets = [x for x in (*contestant.inputs, *contestant.module.parameters()) if x.requires_grad]
    begin: list[Tensor] = []

    def call() -> None:
        outputs = outputs_of(contestant)
        if not begin:
            begin.extend(cotangents(outputs))
        # The authors' code has parameters that no output depends on.
        torch.autograd.grad(outputs, targets, begin, allow_unused=True)

    return call


def without_graph(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values in float64, by themselves."""
    return [tensor.detach().double() for tensor in tensors]
