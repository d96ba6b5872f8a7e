"""What all launches need: the tensors' device, a power of two, numbers that fit into 32 bits or are known not to."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["extent_is_wide", "next_power", "on_device_of", "reflected_dilation", "zero_padded_dilation"]

# Elements from which on 32 bits do not count them, less what the last tile may reach beyond them.
_WIDE = 2**31 - 2**20


def next_power(count: int) -> int:
    """The power of two that is not less."""
    return 1 << (count - 1).bit_length()


def extent_is_wide(*tensors: Tensor) -> bool:
    """Whether offsets within the last three axes of a tensor, an image's head or group, take 64 bits."""
    return any(_extent(x) >= _WIDE for x in tensors)


def _extent(x: Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(x.shape[-3:], x.stride()[-3:], strict=True))


def reflected_dilation(x: Tensor, dilation: int) -> int:
    """A dilation with the same keys on [..., H, W]: over n pixels, reflection repeats itself every 2 (n - 1) pixels."""
    period = math.lcm(*(max(2 * (size - 1), 1) for size in x.shape[-2:]))
    return (dilation - 1) % period + 1


def zero_padded_dilation(x: Tensor, dilation: int) -> int:
    """A dilation with the same taps on [..., H, W]: beyond the map's size all but the central one read zeros."""
    return min(dilation, max(x.shape[-2:]))


@contextmanager
def on_device_of(x: Tensor) -> Iterator[None]:
    """Triton launches on the current device."""
    if x.device.type != "cuda":
        yield
        return
    with torch.cuda.device(x.device):
        yield
