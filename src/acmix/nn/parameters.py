"""A module's parameters past `nn.Module`'s lookup, which takes as long as a small map's attention."""

from typing import Any

from torch import Tensor, nn

__all__ = ["child_of", "parameter_of", "weight_and_bias"]


def child_of(module: nn.Module, name: str) -> nn.Module:
    """`module.name`."""
    child = module._modules.get(name)
    if child is not None:
        return child
    other: nn.Module = getattr(module, name)  # a subclass makes it
    return other


def parameter_of(module: nn.Module, name: str) -> Tensor | None:
    """`module.name`, which may be None."""
    parameters: dict[str, Any] = module._parameters
    if name in parameters:
        parameter: Tensor | None = parameters[name]
        return parameter
    other: Tensor | None = getattr(module, name)  # a parametrization computes it
    return other


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """`module.weight` and `module.bias`."""
    parameters: dict[str, Any] = module._parameters
    if "weight" in parameters and "bias" in parameters:
        return parameters["weight"], parameters["bias"]
    weight: Any = module.weight  # a parametrization computes it
    bias: Any = module.bias
    return weight, bias
