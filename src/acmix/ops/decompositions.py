"""Convolution and self-attention, each in the two stages in which the paper reads them (sections 3.1 and 3.2).

Stage I holds pointwise projections, and with them all the weights; Stage II only moves and adds what they gave.
The functions are written to be read; the test suite holds them equal to `torch.nn.functional`.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention_two_stage", "conv2d_two_stage", "shift"]

IntOrPair: TypeAlias = int | Sequence[int]


def shift(x: Tensor, dy: int, dx: int) -> Tensor:
    """Move a map so that position `(i, j)` holds what stood at `(i + dy, j + dx)` (paper Eq. 4).

    Positions whose source lies outside of the map become zero. A positive `dy` moves the content up, a positive `dx`
    moves it to the left.

    Args:
        x: map [..., H, W].
        dy: rows between a position and its source; any sign, any size.
        dx: columns between a position and its source.

    Returns:
        The shifted map, shape and memory format as `x`.

    Raises:
        ValueError: `x` has less than two dimensions.

    Example:
        >>> shift(torch.tensor([[1, 2], [3, 4]]), 0, 1)
        tensor([[2, 0],
                [4, 0]])
    """
    if x.ndim < 2:
        raise ValueError(f"shift: x has shape {list(x.shape)}; expected a map [..., H, W]; add the missing dimensions")
    height, width = x.shape[-2:]
    dy = max(-height, min(dy, height))
    dx = max(-width, min(dx, width))
    return F.pad(x, (-dx, dx, -dy, dy))


def conv2d_two_stage(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntOrPair = 1,
    padding: IntOrPair | Literal["same", "valid"] = 0,
    dilation: IntOrPair = 1,
) -> Tensor:
    """Convolve in two stages: kh * kw pointwise projections, then shift and sum (paper Eq. 1 to 8).

    Equal to `torch.nn.functional.conv2d` with the same arguments. With an odd kernel, stride 1 and `padding="same"`
    the shift of kernel position `(p, q)` is `(p - kh // 2, q - kw // 2)`, as the paper writes it.

    Args:
        x: input [B, C_in, H, W].
        weight: kernel [C_out, C_in, kh, kw]; kh and kw may differ and may be even.
        bias: [C_out], or None.
        stride: pixels between two outputs, one number or (vertical, horizontal).
        padding: zeros around the input, one number or (vertical, horizontal); "same" (stride 1 only) or "valid".
        dilation: pixels between two kernel positions, one number or (vertical, horizontal).

    Returns:
        [B, C_out, H_out, W_out], where H_out = (H + 2 * padding - dilation * (kh - 1) - 1) // stride + 1, W_out alike.

    Raises:
        ValueError: a shape or an option that does not fit; the message says which and what to do.

    Example:
        >>> x, weight = torch.randn(2, 8, 7, 5), torch.randn(4, 8, 3, 3)
        >>> torch.allclose(conv2d_two_stage(x, weight, padding=1), F.conv2d(x, weight, padding=1), atol=1e-4)
        True
    """
    op = "conv2d_two_stage"
    _require_map(op, x)
    _require_kernel(op, x, weight)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{op}: bias has shape {list(bias.shape)}; expected [C_out] = {list(weight.shape[:1])}, as weight"
        )
    _require_like(op, x, weight=weight, bias=bias)
    steps = _pair(op, "stride", stride, least=1)
    spread = _pair(op, "dilation", dilation, least=1)
    kernel = (weight.shape[2], weight.shape[3])
    reach = tuple(d * (k - 1) for d, k in zip(spread, kernel, strict=True))
    top, bottom, left, right = _padding(op, padding, steps, reach)

    height = _output_size(op, "H", x.shape[2] + top + bottom, reach[0], steps[0])
    width = _output_size(op, "W", x.shape[3] + left + right, reach[1], steps[1])
    # Up to here outputs stand at full resolution; wide padding or an even kernel make that map larger than the input.
    stop_y, stop_x = (height - 1) * steps[0] + 1, (width - 1) * steps[1] + 1
    grow = (0, max(0, stop_x - x.shape[3]), 0, max(0, stop_y - x.shape[2]))

    out = x.new_zeros(())
    for p in range(kernel[0]):
        for q in range(kernel[1]):
            projected = _pointwise(x, weight[:, :, p, q])  # Stage I, Eq. 6
            shifted = shift(F.pad(projected, grow), p * spread[0] - top, q * spread[1] - left)  # Stage II, Eq. 7
            out = out + shifted[:, :, : stop_y : steps[0], : stop_x : steps[1]]  # Eq. 8
    return out if bias is None else out + bias.to(out.dtype).view(-1, 1, 1)


def attention_two_stage(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, num_heads: int) -> Tensor:
    """Attend in two stages: three pointwise projections, then attention weights and the sum of values (Eq. 9 to 12).

    Plain multi-head self-attention in which every position sees all H * W positions. Head n owns the output channels
    n * D to n * D + D - 1, where D = C_out / num_heads; logits are scaled by D ** -0.5.

    Args:
        x: input [B, C_in, H, W].
        w_q: query projection [C_out, C_in] or [C_out, C_in, 1, 1].
        w_k: key projection, shape as `w_q`.
        w_v: value projection, shape as `w_q`.
        num_heads: number of heads N; divides C_out.

    Returns:
        [B, C_out, H, W].

    Raises:
        ValueError: a shape or a number of heads that does not fit; the message says which and what to do.

    Example:
        >>> w_q, w_k, w_v = torch.randn(3, 16, 8)
        >>> attention_two_stage(torch.randn(2, 8, 7, 5), w_q, w_k, w_v, num_heads=4).shape
        torch.Size([2, 16, 7, 5])
    """
    op = "attention_two_stage"
    _require_map(op, x)
    w_q, w_k, w_v = (_as_matrix(op, x, name, w) for name, w in (("w_q", w_q), ("w_k", w_k), ("w_v", w_v)))
    if not w_q.shape == w_k.shape == w_v.shape:
        came = ", ".join(str(list(w.shape)) for w in (w_q, w_k, w_v))
        raise ValueError(f"{op}: w_q, w_k, w_v have shapes {came}; expected one shape; make their C_out equal")
    _require_like(op, x, w_q=w_q, w_k=w_k, w_v=w_v)
    channels = w_q.shape[0]
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"{op}: num_heads is {num_heads}; expected a positive divisor of C_out = {channels}")

    q, k, v = (_heads(_pointwise(x, w), num_heads) for w in (w_q, w_k, w_v))  # Stage I, Eq. 11
    logits = torch.einsum("bndi,bndj->bnij", q, k) * (channels // num_heads) ** -0.5  # Stage II, Eq. 12
    out = torch.einsum("bnij,bndj->bndi", logits.softmax(-1), v)
    return out.reshape(x.shape[0], channels, *x.shape[2:])


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """[B, C_in, H, W] and [C_out, C_in] -> [B, C_out, H, W]: every pixel by itself."""
    return F.conv2d(x, weight[:, :, None, None])


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, N * D, H, W] -> [B, N, D, H * W]."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, num_heads, channels // num_heads, height * width)


def _as_matrix(op: str, x: Tensor, name: str, weight: Tensor) -> Tensor:
    matrix = weight.flatten(1) if weight.ndim == 4 and weight.shape[2:] == (1, 1) else weight
    if matrix.ndim != 2 or matrix.shape[1] != x.shape[1]:
        raise ValueError(
            f"{op}: {name} has shape {list(weight.shape)}; expected [C_out, {x.shape[1]}] or [..., 1, 1] "
            f"for an x of {x.shape[1]} channels; pass the weight of a linear layer or of a 1x1 convolution"
        )
    return matrix


def _require_map(op: str, x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"{op}: x has shape {list(x.shape)}; expected [B, C, H, W]; "
            "give a single image a batch dimension with x[None]"
        )


def _require_kernel(op: str, x: Tensor, weight: Tensor) -> None:
    if weight.ndim != 4 or 0 in weight.shape:
        raise ValueError(f"{op}: weight has shape {list(weight.shape)}; expected [C_out, C_in, kh, kw], none of them 0")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"{op}: weight takes {weight.shape[1]} channels, x has {x.shape[1]}; expected the same number; "
            "a grouped kernel goes group by group"
        )


def _require_like(op: str, x: Tensor, **others: Tensor | None) -> None:
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    for name, other in others.items():
        if other is None:
            continue
        if other.device != x.device or (other.dtype != x.dtype and not autocast):
            raise ValueError(
                f"{op}: {name} is {other.dtype} on {other.device}; expected {x.dtype} on {x.device}, as x; "
                f"use {name}.to(x)"
            )


def _pair(op: str, name: str, value: IntOrPair, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(
            f"{op}: {name} is {value!r}; expected one integer or two (vertical, horizontal), at least {least}"
        )
    return pair[0], pair[1]


def _padding(
    op: str, padding: IntOrPair | str, stride: tuple[int, int], reach: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Rows and columns of zeros: top, bottom, left, right."""
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(
                f"{op}: padding 'same' came with stride {stride}; expected stride 1; give padding in pixels"
            )
        return reach[0] // 2, reach[0] - reach[0] // 2, reach[1] // 2, reach[1] - reach[1] // 2
    if padding == "valid":
        return 0, 0, 0, 0
    if isinstance(padding, str):
        raise ValueError(f"{op}: padding is {padding!r}; expected 'same', 'valid', one integer or two")
    vertical, horizontal = _pair(op, "padding", padding, least=0)
    return vertical, vertical, horizontal, horizontal


def _output_size(op: str, axis: str, padded: int, reach: int, stride: int) -> int:
    if padded < reach + 1:
        raise ValueError(
            f"{op}: the padded input has {axis} = {padded}; expected at least {reach + 1}, what the kernel covers; "
            "pad more or use a smaller kernel or dilation"
        )
    return (padded - reach - 1) // stride + 1
