"""Where chosen queries look: the softmax weights of window attention, for people to see."""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from acmix.ops.attention import check_attention_inputs
from acmix.ops.checks import check_positive, check_scale, check_window
from acmix.ops.geometry import multiplicity, output_size
from acmix.ops.layout import compute_dtype

__all__ = ["local_attention_weights", "whole_pixels"]

_OP = "local_attention_weights"


def local_attention_weights(
    q: Tensor,
    k: Tensor,
    pixels: list[tuple[int, int]],
    kernel_size: int,
    *,
    position: Tensor | None = None,
    stride: int = 1,
    dilation: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Weights that `acmix.functional.local_attention` gives every in-image key, for some queries.

    Args:
        q: queries [B, N, D, H, W].
        k: keys [B, N, D, H, W].
        pixels: P queries as (row, column) of the output map.
        kernel_size: window side K, odd.
        position: position code [D, H, W] subtracted from the keys.
        stride: distance between queries in pixels.
        dilation: distance between the window's keys in pixels.
        scale: factor on the logits; None: D ** -0.5.

    Returns:
        [B, N, P, H, W] in float32 at least: zero outside of the window, the copies that reflection makes of a key
        added to it, sum 1 over the map.

    Raises:
        ValueError: a shape or an option is wrong, or a pixel lies outside of the output map.
        TypeError: an input is no floating-point tensor, or a pixel is not two integers.
    """
    check_window(_OP, "kernel_size", kernel_size)
    check_scale(_OP, scale)
    check_positive(_OP, stride=stride, dilation=dilation)
    check_attention_inputs(_OP, q, k, k, position)
    sizes = q.shape[3], q.shape[4]
    outputs = tuple(output_size(size, stride) for size in sizes)
    pixels = whole_pixels(_OP, pixels)
    for pixel in pixels:
        if not all(0 <= index < size for index, size in zip(pixel, outputs, strict=True)):
            raise ValueError(f"{_OP}: pixel {pixel} lies outside of the output map {outputs} (rows, columns).")
    dtype = compute_dtype(q.dtype)
    keys = (k if position is None else k - position).to(dtype).flatten(3)
    index = torch.tensor(pixels, dtype=torch.int64, device=q.device).reshape(-1, 2) * stride
    queries = q[..., index[:, 0], index[:, 1]].to(dtype) * (q.shape[2] ** -0.5 if scale is None else scale)
    counts = [
        multiplicity(index[:, axis], torch.arange(size, device=q.device), size, kernel_size, dilation)
        for axis, size in enumerate(sizes)
    ]
    bias = (counts[0][:, :, None] * counts[1][:, None, :]).to(dtype).log().flatten(1)
    weights: Tensor = (torch.matmul(queries.mT, keys) + bias).softmax(-1).unflatten(-1, sizes)
    return weights


def whole_pixels(op: str, pixels: Iterable[Any]) -> list[tuple[int, int]]:
    """Pixels as pairs of Python's integers.

    Raises:
        TypeError: one of them is not two integers; fractions are not cut off.
    """
    whole = []
    for pixel in pixels:
        try:
            row, column = map(operator.index, pixel)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{op}: pixel {pixel!r}, expected two integers (row, column).") from error
        whole.append((row, column))
    return whole
