"""What a layer gives in one pass forward and back, and how far off that is."""

from typing import Any

import torch
from torch import Tensor

from acmix import ACmix

__all__ = ["answers", "errors", "made"]

EPS = torch.finfo(torch.float32).eps


def made(channels: int, options: dict[str, Any]) -> ACmix:
    torch.manual_seed(0)
    layer = ACmix(channels, channels, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in ("alpha", "beta"):
                parameter.uniform_(-1, 1)
            elif "shift" in name:
                parameter.normal_(std=0.3)
    return layer


def answers(layer: ACmix, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """The output and all gradients."""
    x = x.detach().requires_grad_()
    out = layer(x)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    grads = torch.autograd.grad(out, (x, *parameters), grad)
    return dict(zip(("out", "x", *names), (out.detach(), *grads), strict=True))


def errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """Largest error over the largest entry, in units of float32; of what has a true value."""
    largest = {name: float(x.abs().max()) for name, x in truth.items()}
    return {
        name: float((x.double() - truth[name]).abs().max()) / largest[name] / EPS
        for name, x in found.items()
        if largest[name] > 1e-9
    }
