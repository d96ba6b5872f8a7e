"""What the tests of the layers share: a layer's outputs and gradients by name, and twins to compare them with."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from acmix import ACmix

Results = dict[str, Tensor]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def scrambled(*args: Any, seed: int = 0, dtype: torch.dtype = torch.float64, **kwargs: Any) -> ACmix:
    """A layer whose parameters are all random: shift kernels and rates at their start hide mistakes."""
    layer = ACmix(*args, dtype=torch.float64, **kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = max(parameter[0].numel(), 1)
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
    return layer.to(dtype)


def twin(layer: ACmix, impl: str = "reference", dtype: torch.dtype | None = None) -> ACmix:
    """The same layer with another backend and, if asked for, in another dtype."""
    other = copy.deepcopy(layer)
    other.impl = impl
    return other if dtype is None else other.to(dtype)


def results(layer: ACmix, x: Tensor) -> Results:
    """Output `y`, input gradient `dx` and every parameter's gradient `d.<name>` for one fixed cotangent.

    A parameter without a gradient raises: `torch.autograd.grad` is not allowed to find unused ones.
    """
    x = x.detach().requires_grad_()
    y = layer(x)
    cotangent = randn(*y.shape, seed=99, dtype=torch.float64).to(y)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    grad_x, *grads = torch.autograd.grad((y * cotangent).sum(), [x, *parameters])
    return {"y": y.detach(), "dx": grad_x} | {f"d.{name}": grad for name, grad in zip(names, grads, strict=True)}


def worst_difference(ours: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> tuple[float, str]:
    """Largest difference over all tensors, in units of the truth's largest entry (or of 1 where that is smaller)."""
    assert ours.keys() == truth.keys()
    worst = (0.0, "")
    for name, expected in truth.items():
        assert ours[name].shape == expected.shape, name
        if expected.numel() == 0:
            continue
        scale = max(1.0, expected.abs().max().item())
        difference = (ours[name].double() - expected.double()).abs().max().item() / scale
        # A NaN must not lose the comparison.
        worst = max(worst, (difference if difference == difference else float("inf"), name))
    return worst


def assert_same_results(layer: ACmix, x: Tensor, tolerance: float = 1e-11) -> None:
    """The layer's output and gradients equal the reference's on the same weights."""
    difference, name = worst_difference(results(layer, x), results(twin(layer), x))
    assert difference <= tolerance, f"{name} differs by {difference}"
