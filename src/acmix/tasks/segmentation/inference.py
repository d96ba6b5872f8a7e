"""From a network for crops to class scores of whole images of any size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acmix.errors import UserError

__all__ = ["Inference", "segment", "segment_all"]

Size = tuple[int, int]

# Long over short side of ADE20K's recipes, 2048 by 512.
_LONGEST = 4


@dataclass(frozen=True)
class Inference:
    """How images are segmented in validation, test and prediction.

    Attributes:
        mode: `whole` shows the network the whole image; `slide` shows it windows and averages their logits.
        crop: With `slide`: side of a window in pixels, of the resized image where it is resized.
        stride: With `slide`: pixels from one window to the next.
        short_side: The image is resized to this short side before (the paper: 512), the logits are resized back;
            None: it keeps its size.
        long_side: Keeps the resized long side to this many pixels, where the short side then is shorter; None: to four
            times `short_side`, as published.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop: int = 512
    stride: int = 341
    short_side: int | None = None
    long_side: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise UserError(f"inference: mode is {self.mode!r}: choose from whole, slide")
        if not 1 <= self.stride <= self.crop:
            raise UserError(f"inference: stride is {self.stride}, crop {self.crop}: give 1 <= stride <= crop")
        for name in ("short_side", "long_side"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"inference: {name} is {getattr(self, name)}: give pixels, at least 1")
        if self.long_side is not None and self.short_side is None:
            raise UserError("inference: long_side limits what short_side enlarges; set short_side too")

    def resized(self, size: Size) -> Size:
        """The height and width that the network sees of an image of height and width `size`."""
        if self.short_side is None:
            return size
        factor = min(self.short_side / min(size), (self.long_side or _LONGEST * self.short_side) / max(size))
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def segment(network: nn.Module, images: Tensor, size: Size, inference: Inference) -> Tensor:
    """Logits of images of one size.

    Args:
        network: In evaluation mode; images [B, C, h, w] -> logits [B, K, h, w].
        images: [B, C, H, W], normalised.
        size: Height and width of the result.
        inference: Resizing and windows.

    Returns:
        [B, K, *size].
    """
    seen = _resize(images, inference.resized((images.shape[-2], images.shape[-1]))).to(images.dtype)
    logits = _slide(network, seen, inference) if inference.mode == "slide" else network(seen)
    return _resize(logits, size)


def segment_all(
    network: nn.Module, images: Sequence[Tensor], sizes: Sequence[Size], inference: Inference
) -> Iterator[tuple[int, Tensor]]:
    """Logits of images of several sizes; those of one size go through the network together, the next ones afterwards.

    Args:
        network: In evaluation mode.
        images: Each [C, H, W], normalised.
        sizes: Height and width of each result.
        inference: Resizing and windows.

    Yields:
        An image's place among them and its logits, float32 [K, height, width].
    """
    alike: dict[tuple[torch.Size, Size], list[int]] = {}
    for place, (image, size) in enumerate(zip(images, sizes, strict=True)):
        alike.setdefault((image.shape, size), []).append(place)
    for (_, size), places in alike.items():
        logits = segment(network, torch.stack([images[place] for place in places]), size, inference)
        yield from zip(places, logits, strict=True)


def _slide(network: nn.Module, images: Tensor, inference: Inference) -> Tensor:
    height, width = images.shape[-2:]
    total: Tensor | None = None
    counts = images.new_zeros(1, 1, height, width, dtype=torch.float32)
    for top in _starts(height, inference):
        for left in _starts(width, inference):
            window = (..., slice(top, top + inference.crop), slice(left, left + inference.crop))
            logits = network(images[window])
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], height, width, dtype=torch.float32)
            total[window] += logits
            counts[window] += 1
    assert total is not None
    return total / counts


def _starts(side: int, inference: Inference) -> list[int]:
    """Where windows begin: each `stride` pixels, the last one at the edge."""
    last = max(side - inference.crop, 0)
    return [*range(0, last, inference.stride), last]


def _resize(maps: Tensor, size: Size) -> Tensor:
    # In float32: not all devices resize with a filter in half precision.
    maps = maps.float()
    if maps.shape[-2:] == size:
        return maps
    # Only what is made smaller needs the filter; logits that are made larger are interpolated as in training.
    smaller = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=smaller)
