"""What all launches need: the tensors' device, a power of two, offsets that fit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["extent_is_wide", "next_power", "on_device_of"]

# Elements from which on 32 bits do not count them.
_WIDE = 2**31


def next_power(count: int) -> int:
    """The power of two that is not less."""
    return 1 << (count - 1).bit_length()


def extent_is_wide(*tensors: Tensor) -> bool:
    """Whether offsets within the last three axes of a tensor, an image's head or group, take 64 bits."""
    return any(_extent(x) >= _WIDE for x in tensors)


def _extent(x: Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(x.shape[-3:], x.stride()[-3:], strict=True))


@contextmanager
def on_device_of(x: Tensor) -> Iterator[None]:
    """Triton launches on the current device."""
    if x.device.type != "cuda":
        yield
        return
    with torch.cuda.device(x.device):
        yield
