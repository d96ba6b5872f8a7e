"""What autocast does to the inputs of an op: the same as to those of `conv2d` and `scaled_dot_product_attention`."""

import torch
from torch import Tensor

__all__ = ["autocast", "is_autocasting"]


def is_autocasting(device: str) -> bool:
    """Whether autocast is on for devices of this type, "cpu" or "cuda"."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def autocast(x: Tensor) -> Tensor:
    """Cast to autocast's dtype where it is on for the tensor's device; float64 stays, as everywhere in torch."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == torch.float64:
        return x  # what is no floating-point tensor, the checks name
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if is_autocasting(device) else x
