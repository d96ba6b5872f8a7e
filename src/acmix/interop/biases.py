"""Biases of the convolution path that the authors' forks have, where a network was made without such parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from acmix.interop.official_names import AuthorsLayer
from acmix.nn import ShiftedWindowACmix

__all__ = ["load_folded"]


def load_folded(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Loads a state dict; biases that `model` has no place for go where another parameter carries them.

    The layers themselves would make a parameter of a bias `b` that is not zero. Added to the output as `beta * b`, it
    is the same to every pixel: in ResNet the running mean of the norm behind the layer takes it in, exactly and in
    training too, where the norm removes it anyway; in Swin `b * beta / alpha` joins the output projection's bias. The
    network keeps its parameters, so that a file of its weights loads into any network of its name.

    Args:
        model: a network, changed in place. One that was made with `conv_bias=True` keeps its biases as they are.
        state: what fits it, names within ACmix layers the authors' or this library's.

    Returns:
        Whether the network has the parameters that it had. If not, one of the biases has nowhere to go (alpha is zero,
        or no bottleneck's norm follows), and the layers have got a parameter for theirs.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, AuthorsLayer)]
    without = [(name, layer) for name, layer in layers if _bias(layer) is None]
    model.load_state_dict(dict(state), strict=True)
    given = [(name, layer) for name, layer in without if _bias(layer) is not None]
    moves = [_carrier(model, name, layer) for name, layer in given]
    if any(move is None for move in moves):
        return False
    for (_, layer), move in zip(given, moves, strict=True):
        if move is not None:
            tensor, value = move
            tensor.copy_(value)
            layer.shift.bias = None
    return True


def _bias(layer: AuthorsLayer) -> Tensor | None:
    return None if layer.paths == "attention" else layer.shift.bias


@torch.no_grad()
def _carrier(model: nn.Module, name: str, layer: AuthorsLayer) -> tuple[Tensor, Tensor] | None:
    """The tensor that takes the bias of `layer` in, without its gradient, and its value then; None if there is none."""
    alpha, beta = layer.rate_values()
    bias = layer.shift.bias
    if bias is None or beta is None:
        return None
    added = bias.detach().double() * beta
    if isinstance(layer, ShiftedWindowACmix):
        tensor = None if layer.proj is None or not alpha else layer.proj.bias.detach()
        value = None if tensor is None or not alpha else tensor.double() + added / alpha
    else:
        block = model.get_submodule(name.rpartition(".")[0])
        # By name, as timm's and torchvision's are two classes; in other blocks a norm may stand before the layer.
        behind = name.endswith("conv2") and any(base.__name__ == "Bottleneck" for base in type(block).__mro__)
        norm = getattr(block, "bn2", None) if behind else None
        tensor = norm.running_mean if isinstance(norm, nn.BatchNorm2d) else None
        value = None if tensor is None else tensor.double() - added
    if tensor is None or value is None or not value.to(tensor.dtype).isfinite().all():
        return None
    return tensor, value
