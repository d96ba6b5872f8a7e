"""Attention within the windows of a map on torch's own operator, the backward pass by recomputation."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.layout import compute_dtype

__all__ = ["Windows", "window_attention", "window_attention_backward", "window_attention_graph"]

# What Swin adds to the logit of a key from the other end of the map; the authors' weights were trained with it.
_FAR = -100.0

Pair = tuple[int, int]


class Windows(NamedTuple):
    """How windows lie on a map.

    Attributes:
        size: rows and columns of a window.
        shift: by how many rows and columns the map was rolled, so that its last ones come from the other end.
    """

    size: Pair
    shift: Pair

    def grid(self, x: Tensor) -> Pair:
        """Rows and columns of windows on a map [B, H, W, ...], those included that stand out over its end."""
        return -(-x.shape[1] // self.size[0]), -(-x.shape[2] // self.size[1])


def window_attention(
    qkv: Tensor, bias: Tensor, outside: Tensor | None, windows: Windows, dropout: float = 0.0
) -> Tensor:
    """[B, H, W, D, 3N], [N, K * K, K * K], [D, 3N] -> [B, H, W, N * D], see `acmix.ops.window_attention`."""
    batch, (rows, columns), (height, width) = qkv.shape[0], windows.grid(qkv), windows.size
    parts, bias = _split(_padded(qkv, outside, windows), windows), _masked(bias, windows, (rows, columns))
    # Windows are images where one bias serves all, and heads of their image where the mask tells them apart.
    masked = any(windows.shift)
    q, k, v = (parts.flatten(2, 3) if masked else parts.flatten(1, 2)).unbind(0)
    mask = bias.flatten(0, 1).unsqueeze(0) if masked else bias
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    heads, channels = bias.shape[1], qkv.shape[3]
    out = out.reshape(batch, rows, columns, heads, height, width, channels).permute(0, 1, 4, 2, 5, 3, 6)
    out = out.reshape(batch, rows * height, columns * width, heads * channels)
    return out[:, : qkv.shape[1], : qkv.shape[2]].contiguous()


def window_attention_graph(
    qkv: Tensor, bias: Tensor, outside: Tensor | None, windows: Windows, dropout: float = 0.0
) -> Tensor:
    """The same for torch.func and forward-mode differentiation, which torch's operator does not have for a bias."""
    q, k, v = _split(_padded(qkv, outside, windows), windows).to(compute_dtype(qkv.dtype)).unbind(0)
    grid = windows.grid(qkv)
    attended = F.dropout(_weights(q * q.shape[-1] ** -0.5, k, bias, windows, grid), dropout) @ v
    out = _merge([attended], windows, grid).transpose(3, 4).flatten(3)
    return out[:, : qkv.shape[1], : qkv.shape[2]].to(qkv.dtype).contiguous()


def window_attention_backward(
    grad: Tensor, qkv: Tensor, bias: Tensor, outside: Tensor | None, windows: Windows
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of qkv, bias and outside; the weights are computed again."""
    wide = compute_dtype(qkv.dtype)
    padded = _padded(qkv, outside, windows)
    q, k, v = _split(padded, windows).to(wide).unbind(0)
    grid, scale = windows.grid(qkv), q.shape[-1] ** -0.5
    q = q * scale  # keys and queries are smaller than what their products are
    weights = _weights(q, k, bias, windows, grid)
    # [B, H, W, N * D] as the values' windows lie.
    grad = grad.to(wide).unflatten(3, (v.shape[2], v.shape[4])).transpose(3, 4)
    grad_out = _split(_padded(grad, None, windows), windows, 1)[0]
    grad_logits = torch.ops.aten._softmax_backward_data(grad_out @ v.mT, weights, -1, wide)
    grads = grad_logits @ (k * scale), grad_logits.mT @ q, weights.mT @ grad_out
    grad_padded = _merge([x.to(qkv.dtype) for x in grads], windows, grid)
    height, width = qkv.shape[1:3]
    grad_qkv = grad_padded[:, :height, :width].contiguous()
    grad_bias = grad_logits.sum((0, 1)).to(bias.dtype)
    if outside is None:
        return grad_qkv, grad_bias, None
    if grad_padded.shape == qkv.shape:  # no window stands out
        return grad_qkv, grad_bias, outside.new_zeros(outside.shape)
    return grad_qkv, grad_bias, (grad_padded * _is_outside(qkv, windows)).sum((0, 1, 2)).to(outside.dtype)


def _weights(q: Tensor, k: Tensor, bias: Tensor, windows: Windows, grid: Pair) -> Tensor:
    """[B, windows, N, K * K, K * K], of scaled queries and keys [B, windows, N, K * K, D]."""
    return torch.softmax(q @ k.mT + _masked(bias, windows, grid).to(q.dtype), -1)


def _is_outside(x: Tensor, windows: Windows) -> Tensor:
    """[H', W', 1, 1]: one where the windows stand out over the map, zero on it."""
    height, width = x.shape[1:3]
    rows, columns = windows.grid(x)
    below, right = rows * windows.size[0] - height, columns * windows.size[1] - width
    return F.pad(x.new_zeros(height, width), (0, right, 0, below), value=1.0)[:, :, None, None]


def _padded(x: Tensor, outside: Tensor | None, windows: Windows) -> Tensor:
    """The map [B, H, W, D, P] up to whole windows, with the values `outside` [D, P], or zeros, beyond its end."""
    height, width = x.shape[1:3]
    rows, columns = windows.grid(x)
    below, right = rows * windows.size[0] - height, columns * windows.size[1] - width
    if below == 0 and right == 0:
        return x
    padded = F.pad(x, (0, 0, 0, 0, 0, right, 0, below))
    return padded if outside is None else padded + _is_outside(x, windows) * outside


def _split(x: Tensor, windows: Windows, parts: int = 3) -> Tensor:
    """[B, H, W, D, parts * N] -> [parts, B, windows, N, K * K, D]."""
    (rows, columns), (height, width) = windows.grid(x), windows.size
    x = x.reshape(x.shape[0], rows, height, columns, width, x.shape[3], parts, x.shape[4] // parts)
    return x.permute(6, 0, 1, 3, 7, 2, 4, 5).flatten(5, 6).flatten(2, 3)


def _merge(parts: list[Tensor], windows: Windows, grid: Pair) -> Tensor:
    """Some [B, windows, N, K * K, D] -> [B, H, W, D, parts * N]."""
    maps = [x.unflatten(3, windows.size).unflatten(1, grid).permute(0, 1, 4, 2, 5, 6, 3) for x in parts]
    return torch.cat(maps, 6).flatten(3, 4).flatten(1, 2)


def _masked(bias: Tensor, windows: Windows, grid: Pair) -> Tensor:
    """[1 or windows, N, K * K, K * K]: the bias, much less where the shift brought a key from the map's other end."""
    if not any(windows.shift):
        return bias.unsqueeze(0)
    (rows, columns), (height, width) = grid, windows.size
    y = torch.arange(rows * height, device=bias.device) >= rows * height - windows.shift[0]
    x = torch.arange(columns * width, device=bias.device) >= columns * width - windows.shift[1]
    # In which of the rolled map's four parts a pixel lies.
    part = 2 * y.view(rows, 1, height, 1) + x.view(1, columns, 1, width).long()
    part = part.reshape(rows * columns, 1, height * width)
    far = part.unsqueeze(3) != part.unsqueeze(2)
    return bias + far.to(bias.dtype) * _FAR
