"""What is measured: one operator at one size, or one network."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

__all__ = ["STAGES", "STRIDED", "Case", "Kind", "parse_shape"]

Kind = Literal["layer", "attention", "network"]

_SMALL = 14
"""Side of the largest map on which answers are compared."""


@dataclass(frozen=True)
class Case:
    """One operator, or one network, at one size.

    Attributes:
        name: what tables call it.
        kind: "layer" for the whole layer, "attention" for window attention alone, "network".
        batch: images B.
        channels: channels C, in and out; 3 for networks.
        size: side of the square map, or of the image.
        stride: stride s.
        window: side K of the attention window; 0 for networks.
        heads: heads N; 0 for networks.
    """

    name: str
    kind: Kind
    batch: int
    channels: int
    size: int
    stride: int = 1
    window: int = 7
    heads: int = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[B, C, H, W] of the input map."""
        return self.batch, self.channels, self.size, self.size

    @property
    def pixels(self) -> int:
        """Pixels of all images together."""
        return self.batch * self.size**2

    def small(self) -> "Case":
        """The same operator on two images at most and a small map, on which answers are compared."""
        return replace(self, batch=min(self.batch, 2), size=min(self.size, max(_SMALL, self.window + 1)))

    def inputs(self, dtype: torch.dtype, device: torch.device | str, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Random inputs: the map [B, C, H, W], or q, k, v [B, N, D, H, W] where attention stands alone."""
        generator = torch.Generator().manual_seed(seed)
        shape: tuple[int, ...] = self.shape
        if self.kind == "attention":
            shape = (self.batch, self.heads, self.channels // self.heads, self.size, self.size)
        count = 3 if self.kind == "attention" else 1
        return tuple(torch.randn(shape, generator=generator).to(device, dtype) for _ in range(count))


STAGES = ("64x56", "128x28", "256x14", "512x7")
"""Channels and map of the four stages of ResNet-50, whose 3x3 convolutions ACmix replaces."""

STRIDED = ("128x56/2", "256x28/2", "512x14/2")
"""The three of its layers that halve the map."""


def parse_shape(text: str) -> tuple[int, int, int]:
    """Reads "64x56", channels and map, or "128x56/2", with a stride.

    Returns:
        Channels, side of the map, stride.

    Raises:
        ValueError: it is neither.
    """
    sizes, slash, stride = text.partition("/")
    channels, cross, size = sizes.partition("x")
    numbers = [channels, size, stride if slash else "1"]
    if not cross or not all(number.isdecimal() and int(number) >= 1 for number in numbers):
        raise ValueError(f"shape {text!r}: expected channels x side, such as 64x56, or with a stride 128x56/2")
    return int(channels), int(size), int(numbers[2])
