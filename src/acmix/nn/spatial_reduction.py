"""The ACmix layer over spatial-reduction attention, the attention of the Pyramid Vision Transformer (PVT v1)."""

from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.nn.two_paths import ACmixPaths, Factory, PathOptions, Paths, TwoPaths
from acmix.ops.checks import check_positive, check_tensors
from acmix.ops.problem import OpName
from acmix.ops.token_attention import token_attention
from acmix.ops.tracing import is_tracing

__all__ = ["Size", "SpatialReductionACmix", "pad_to_multiple", "reduce_tokens", "with_mean"]

Size = tuple[int, int]


class _Projected(NamedTuple):
    """Stage I: q [B, T + H * W, C] of all tokens; k and v [B, T + h * w, 2 C] of the reduced map of size (h, w)."""

    q: Tensor
    kv: Tensor
    reduced: Size


class SpatialReductionACmix(TwoPaths):
    """Self-attention and convolution on one set of projections, keys and values from a reduced map (Eq. 13).

    Stands where PVT's attention stood: tokens [B, T + H * W, C] and the map's size (H, W) -> [B, T + H * W, C], any
    H, W >= 1. Parameters have PVT's names (`q`, `kv`, `sr`, `norm`, `proj`); with `paths="attention"` and `rates="1,1"`
    the layer is PVT's.

    Attention: the map is reduced by a convolution of kernel and stride R and a LayerNorm; every token attends to the
    reduced tokens and to the T tokens before the map. A map that is no multiple of R gets rows and columns of zeros
    at its bottom and right before the reduction, so that its last pixels are keys as well.

    The paper does not say how the convolution path reads k and v, which PVT has for reduced tokens only. Projections
    at full resolution would cost more than its 2.0 and 3.9 GMACs (Fig. 4), so the reduced ones are resized, and
    bilinearly: a reduced token lies in the middle of its R x R pixels, and what lies between is a mean of neighbours.
    Copying each token to its R x R pixels would show k x k kernels either equal values (at 36 of 64 pixels for R = 8,
    k = 3, where they act as 1 x 1 kernels) or steps whose place is the grid's, not the image's. Both are the identity
    at R = 1 and cost no parameters and no multiply-adds of note.

    The T tokens before the map, such as a class token, have no place on it. Their part of the convolution path is the
    mean of that path over the map: global average pooling, which is how convolutional networks read a map. With no
    part at all the last block's convolution path would reach a class token's logits by no way, its rate with it, and
    `paths="convolution"` would classify without seeing the image.

    Args:
        channels: channels C, a multiple of `num_heads`.
        num_heads: heads N.
        reduction: side R of the squares of pixels that become one key each.
        kernel_conv: side k of the convolution path's kernels, odd.
        num_prefix_tokens: tokens T that stand before the map's.
        qkv_bias: whether q, k and v have a bias.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate of the attention path's output.
        **options: see `TwoPaths`. The FC has a bias, as in the authors' Swin, the other host of tokens.

    Attributes:
        alpha: rate of the attention path, parameter of shape (1,), 0.5 at the start; None where it is not learned.
        beta: rate of the convolution path, likewise.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> SpatialReductionACmix(64, num_heads=1, reduction=8)(torch.randn(1, 56 * 56, 64), (56, 56)).shape
        torch.Size([1, 3136, 64])
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        reduction: int = 1,
        kernel_conv: int = 3,
        *,
        num_prefix_tokens: int = 0,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        **options: Unpack[PathOptions],
    ) -> None:
        op = type(self).__name__
        check_positive(op, channels=channels, num_heads=num_heads, reduction=reduction)
        if isinstance(num_prefix_tokens, bool) or not isinstance(num_prefix_tokens, int) or num_prefix_tokens < 0:
            raise ValueError(f"{op}: num_prefix_tokens={num_prefix_tokens!r}, expected an integer >= 0.")
        if channels % num_heads:
            raise ValueError(f"{op}: channels={channels} is no multiple of num_heads={num_heads}; change one.")
        super().__init__(
            channels, channels // num_heads, 3 * num_heads, fc_bias=True, kernel_conv=kernel_conv, **options
        )
        made: Factory = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.channels, self.num_heads, self.reduction = channels, num_heads, reduction
        self.num_prefix_tokens, self.attn_drop, self.proj_drop = num_prefix_tokens, attn_drop, proj_drop
        self.q = nn.Linear(channels, channels, bias=qkv_bias, **made)
        self.kv = nn.Linear(channels, 2 * channels, bias=qkv_bias, **made)
        self.sr = nn.Conv2d(channels, channels, reduction, reduction, **made) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels, **made) if reduction > 1 else None
        self.proj = nn.Linear(channels, channels, **made) if self.paths != "convolution" else None

    @classmethod
    def attention_ops(cls, paths: Paths) -> tuple[OpName, ...]:
        """Attention of all tokens to the reduced ones."""
        return () if paths == "convolution" else ("token_attention",)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """[B, T + H * W, C] and (H, W) -> [B, T + H * W, C]."""
        projected = self._project(x, size)
        return self.mix(self._attend(projected), self._convolve(projected, size))

    def forward_paths(self, x: Tensor, size: Size) -> ACmixPaths:
        """The two terms of the output of `forward`, each with its rate, in the output's shape."""
        projected = self._project(x, size)
        attention = self._attend(projected)
        return ACmixPaths(None if attention is None else self.attended(attention), self._convolve(projected, size))

    def _project(self, x: Tensor, size: Size) -> _Projected:
        self._check_input(x, size)
        keys, reduced = reduce_tokens(x, size, self.num_prefix_tokens, self.sr, self.norm)
        return _Projected(self.q(x), self.kv(keys), reduced)

    def _attend(self, projected: _Projected) -> Tensor | None:
        if self.proj is None:
            return None
        dropout = self.attn_drop if self.training else 0.0
        attended = token_attention(projected.q, projected.kv, self.num_heads, dropout=dropout, impl=self.impl)
        return F.dropout(self.proj(attended), self.proj_drop, self.training)

    def _convolve(self, projected: _Projected, size: Size) -> Tensor | None:
        if self.paths == "attention":
            return None
        heads, width, first = self.num_heads, self.channels // self.num_heads, self.num_prefix_tokens
        q = projected.q[:, first:].unflatten(1, size).unflatten(3, (heads, width))
        kv = projected.kv[:, first:].unflatten(1, projected.reduced)
        kv = self._resize(kv, size).unflatten(3, (2 * heads, width))
        # Pieces last: then they lie as the group convolution of a channels_last map reads them.
        pieces = torch.cat([q.transpose(3, 4), kv.transpose(3, 4)], 4).permute(0, 3, 4, 1, 2)
        out = self.convolve(pieces)
        return None if out is None else with_mean(out.flatten(2).transpose(1, 2), first)

    def _resize(self, maps: Tensor, size: Size) -> Tensor:
        """[B, h, w, 2 C] -> [B, H, W, 2 C]."""
        if self.reduction == 1:
            return maps
        maps, (height, width), scale = maps.permute(0, 3, 1, 2), size, float(self.reduction)
        if is_tracing():
            # Cutting a map of symbolic size would ask whether it is large enough.
            wide: Tensor = torch.ops.aten.upsample_bilinear2d(maps, [height, width], False, scale, scale)
        else:
            wide = F.interpolate(maps, scale_factor=scale, mode="bilinear")[:, :, :height, :width]
        return wide.permute(0, 2, 3, 1)

    def _check_input(self, x: Tensor, size: Size) -> None:
        if is_tracing():
            return
        check_tensors(type(self).__name__, {"the input": x})
        tokens = self.num_prefix_tokens + size[0] * size[1]
        if x.dim() != 3 or x.shape[1:] != (tokens, self.channels) or min(size) < 1:
            expected = f"[B, {self.num_prefix_tokens} + H * W, {self.channels}] with H, W >= 1"
            raise ValueError(
                f"{type(self).__name__}: the input has shape {tuple(x.shape)} and the map the size {tuple(size)}, "
                f"expected {expected}."
            )

    def extra_repr(self) -> str:
        """The arguments that `print(layer)` shows."""
        text = f"{self.channels}, num_heads={self.num_heads}, reduction={self.reduction}"
        return f"{text}, num_prefix_tokens={self.num_prefix_tokens}, {self.path_repr()}"


def pad_to_multiple(maps: Tensor, multiple: int) -> Tensor:
    """Zeros at bottom and right, so that squares of side `multiple` cover all of [B, C, H, W].

    While tracing there are `multiple - 1` of them whatever the size, which a convolution with this stride reads alike:
    remainders of remainders of symbolic sizes would take minutes to reason about.
    """
    pad = multiple - 1
    if is_tracing():
        return F.pad(maps, (0, pad, 0, pad))
    below, right = -maps.shape[2] % multiple, -maps.shape[3] % multiple
    return F.pad(maps, (0, right, 0, below)) if below or right else maps


def reduce_tokens(
    x: Tensor, size: Size, prefix: int, conv: nn.Module | None, norm: nn.Module | None
) -> tuple[Tensor, Size]:
    """The tokens that become keys and values, and the size of their map.

    Args:
        x: [B, T + H * W, C].
        size: (H, W).
        prefix: tokens T before the map's; they stay as they are.
        conv: reduces the map, a convolution whose stride is its kernel; None to leave it.
        norm: over the channels of the reduced map; there where `conv` is.

    Returns:
        [B, T + h * w, C] and (h, w).
    """
    if not isinstance(conv, nn.Conv2d) or norm is None:
        return x, size
    pixels = x[:, prefix:].unflatten(1, size).permute(0, 3, 1, 2)
    reduced = conv(pad_to_multiple(pixels, conv.kernel_size[0]))
    keys = norm(reduced.flatten(2).transpose(1, 2))
    return torch.cat([x[:, :prefix], keys], 1) if prefix else keys, reduced.shape[2:]


def with_mean(pixels: Tensor, prefix: int) -> Tensor:
    """The mean of all pixels, `prefix` times, before them: [B, H * W, C] -> [B, T + H * W, C]."""
    if not prefix:
        return pixels
    return torch.cat([pixels.mean(1, keepdim=True).expand(-1, prefix, -1), pixels], 1)
