"""Patchwise self-attention of SAN, and ACmix over it."""

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from acmix.functional import neighbourhood_aggregate
from acmix.nn.batch_statistics import batch_norm_affine, project
from acmix.nn.recompute import recomputed
from acmix.nn.san_attention import SANAttention, check_san_input, check_san_widths
from acmix.nn.two_paths import ACmixPaths, Factory, PathOptions, Paths, TwoPaths, present
from acmix.ops.autocast import autocast
from acmix.ops.checks import check_positive
from acmix.ops.neighbourhood import neighbourhood_project
from acmix.ops.problem import OpName
from acmix.ops.window_moments import window_moments

__all__ = ["PatchwiseACmix", "PatchwiseAttention", "PatchwiseWeights"]

_OPS: tuple[OpName, ...] = ("neighbourhood_aggregate", "neighbourhood_project")


class PatchwiseWeights(nn.Module):
    """The small network that makes SAN's attention weights from a query and all keys of its window (paper Eq. 18).

    Batch norm, ReLU and a 1x1 convolution of [q; unfolded k], then the same again: no softmax, no position. The
    unfolded k is never made: its batch statistics are computed from k, and norm, ReLU and convolution run window row
    by window row, in the backward pass once more.

    Args:
        width: channels C of q and of k.
        groups: weights G that a window has at each offset.
        kernel_size: window side K, odd.
        impl: backend of the op, see `acmix.functional.neighbourhood_aggregate`.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        width: int,
        groups: int,
        kernel_size: int,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.width, self.groups, self.kernel_size, self.impl = width, groups, kernel_size, impl
        made: Factory = {"device": device, "dtype": dtype}
        channels = width * (kernel_size**2 + 1)
        self.norm1 = nn.BatchNorm2d(channels, **made)
        self.reduce = nn.Conv2d(channels, groups, 1, bias=False, **made)
        self.norm2 = nn.BatchNorm2d(groups, **made)
        self.expand = nn.Conv2d(groups, kernel_size**2 * groups, 1, **made)

    def reset_parameters(self) -> None:
        """Every part as torch starts it."""
        for child in self.children():
            child.reset_parameters()  # type: ignore[operator]  # convolutions and norms have the method

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """[B, C, H, W] twice -> [B, G, K * K, H, W]."""
        return self._expand(self._hidden(q, k))

    def aggregate(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Sum of v [B, C_out, H, W] over the window with the weights of q and k, which the backward pass makes again.

        They are many times what they are made from, and one small convolution away from it.
        """
        out: Tensor = recomputed(self._aggregate, self._hidden(q, k), v)
        return out

    def _aggregate(self, hidden: Tensor, v: Tensor) -> Tensor:
        return neighbourhood_aggregate(self._expand(hidden), v, self.kernel_size, impl=self.impl)

    def _expand(self, hidden: Tensor) -> Tensor:
        weights: Tensor = self.expand(hidden.relu()).unflatten(1, (self.groups, self.kernel_size**2))
        return weights

    def _hidden(self, q: Tensor, k: Tensor) -> Tensor:
        """What both norms and the first convolution make of queries and keys: [B, G, H, W]."""

        def moments() -> tuple[Tensor, Tensor]:
            both = zip(window_moments(q, 1), window_moments(k, self.kernel_size), strict=True)
            mean, var = (torch.cat([of_q.flatten(), of_k.flatten()]) for of_q, of_k in both)
            return mean, var

        scale, shift = batch_norm_affine(self.norm1, moments, q.shape[0] * q.shape[2] * q.shape[3])
        weight = self.reduce.weight.flatten(1)
        hidden = self._project(q, scale[: self.width], shift[: self.width], weight[:, : self.width])
        hidden = hidden + self._project(k, scale[self.width :], shift[self.width :], weight[:, self.width :])
        normed: Tensor = self.norm2(hidden)
        return normed

    def _project(self, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
        """Norm, ReLU and convolution of the unfolded x, whose channels lie by channel of x, then by offset."""
        window = (self.width, scale.shape[0] // self.width)
        scale, shift, weight = (tensor.unflatten(-1, window) for tensor in (scale, shift, weight))
        return neighbourhood_project(x, scale, shift, weight, math.isqrt(window[1]), impl=self.impl)


class PatchwiseAttention(SANAttention):
    """Patchwise self-attention as SAN has it, in place of a convolution: [B, C_in, H, W] -> [B, C_out, H, W].

    Arguments and errors are those of `SANAttention`.

    Example:
        >>> PatchwiseAttention(64, 16, 3)(torch.randn(1, 64, 28, 28)).shape
        torch.Size([1, 16, 28, 28])
    """

    def _add_weights(self, width: int, groups: int, made: Factory) -> None:
        self.weights = PatchwiseWeights(width, groups, self.kernel_size, impl=self.impl, **made)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """[B, C_in, H, W], through `norm` and ReLU if there is one, -> [B, C, H, W] in the memory format of x."""
        q, k, v = self.project(x, norm)
        return self.weights.aggregate(q, k, v)


class PatchwiseACmix(TwoPaths):
    """ACmix over SAN's patchwise attention: `alpha * attention + beta * convolution` on one set of projections.

    q and k are one map each of width D = C / N, v is N maps of that width (paper, appendix C), so that the FC of the
    convolution path mixes N + 2 pieces, in the order q, k, v. As in the authors' ResNet and Swin, the two paths' own
    channel orders are added as they stand: map m of v holds the attention channels `m * D + c`, group c of the shift
    kernels makes the convolution channels `c * N + n`. SAN shares weights between attention channels that are equal
    modulo `out_channels // share`, so that with D a multiple of that number all N maps of v have them in common.

    Args:
        in_channels: channels of the input.
        out_channels: channels C of the output, a multiple of `share` and of `num_maps`.
        kernel_att: side K of the attention window, odd.
        num_maps: maps N of v.
        share: how many channels have one attention weight in common.
        kernel_conv: side k of the convolution path's kernels, odd.
        **options: those that every ACmix layer has, see `acmix.nn.TwoPaths`.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> PatchwiseACmix(64, 16, 3)(torch.randn(1, 64, 28, 28)).shape
        torch.Size([1, 16, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_att: int = 7,
        num_maps: int = 4,
        *,
        share: int = 8,
        kernel_conv: int = 3,
        **options: Unpack[PathOptions],
    ) -> None:
        op = type(self).__name__
        check_positive(op, num_maps=num_maps)
        if out_channels % num_maps:
            raise ValueError(f"{op}: out_channels={out_channels} is no multiple of num_maps={num_maps}; change one.")
        width = out_channels // num_maps
        check_san_widths(op, in_channels, out_channels, width, share, kernel_att)
        super().__init__(out_channels, width, num_maps + 2, kernel_conv=kernel_conv, **options)
        self.in_channels, self.out_channels, self.kernel_att = in_channels, out_channels, kernel_att
        self.num_maps, self.width = num_maps, width
        made: Factory = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.query = nn.Conv2d(in_channels, width, 1, **made)
        self.key = nn.Conv2d(in_channels, width, 1, **made)
        self.value = nn.Conv2d(in_channels, out_channels, 1, **made)
        weights = PatchwiseWeights(width, out_channels // share, kernel_att, impl=self.impl, **made)
        self.weights = None if self.paths == "convolution" else weights

    @classmethod
    def attention_ops(cls, paths: Paths) -> tuple[OpName, ...]:
        """Norm and projection are one op, whichever path there is."""
        return ("neighbourhood_project",) if paths == "convolution" else _OPS

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """[B, C_in, H, W], through `norm` and ReLU if there is one, -> [B, C, H, W] in the memory format of x."""
        pieces = self._project(x, norm)
        convolution = self.convolve(pieces)
        return self.mix(self._attend(pieces), convolution)

    def forward_paths(self, x: Tensor, norm: nn.Module | None = None) -> ACmixPaths:
        """The two terms of the output of `forward`, each with its rate, in the output's shape."""
        pieces = self._project(x, norm)
        attention = self._attend(pieces)
        return ACmixPaths(None if attention is None else self.attended(attention), self.convolve(pieces))

    def _project(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """Stage I as one convolution, whose channels come out as the convolution path reads them: [B, D, P, H, W]."""
        check_san_input(type(self).__name__, x, self.in_channels)
        children = (self.query, self.key, self.value)
        weight = torch.cat([autocast(child.weight) for child in children])
        bias = torch.cat([autocast(present(child.bias)) for child in children])
        order = (self.num_maps + 2, self.width)
        weight, bias = (tensor.unflatten(0, order).transpose(0, 1).flatten(0, 1) for tensor in (weight, bias))
        pieces: Tensor = project(x, norm, weight, bias, self.impl).unflatten(1, (self.width, self.num_maps + 2))
        return pieces

    def _attend(self, pieces: Tensor) -> Tensor | None:
        if self.weights is None:
            return None
        # Maps and their channels merge as the last axes, so that channels last stays.
        v = pieces[:, :, 2:].permute(0, 3, 4, 2, 1).flatten(3).movedim(3, 1)
        return self.weights.aggregate(pieces[:, :, 0], pieces[:, :, 1], v)

    def extra_repr(self) -> str:
        """The arguments that `print(layer)` shows."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_att={self.kernel_att}, num_maps={self.num_maps}"
        return f"{text}, {self.path_repr()}"
