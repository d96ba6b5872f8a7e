"""The ACmix layer over attention in shifted windows (Swin's W-MSA and SW-MSA)."""

from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.nn.authors_keys import WINDOW_KEYS, translate_authors_keys
from acmix.nn.two_paths import ACmixPaths, Factory, PathOptions, Paths, TwoPaths, present
from acmix.ops.checks import check_positive, check_tensors
from acmix.ops.problem import OpName
from acmix.ops.tracing import is_tracing
from acmix.ops.window_attention import window_attention

__all__ = ["ShiftedWindowACmix"]

Pair = tuple[int, int]


class _Windows(TypedDict):
    """How windows lie on the map."""

    window: Pair
    shift: Pair


class ShiftedWindowACmix(TwoPaths):
    """ACmix in Swin: attention within windows and a convolution across them, `alpha * proj(attention) + beta * conv`.

    Stands where Swin's window attention stood: [B, H, W, C] -> [B, H, W, C], channels last, any H, W >= 1. Shift and
    mask belong to the layer. As in the authors' code both paths see the cyclically shifted map, the convolution path
    without a mask: it reaches over the borders of windows and over the seam of the shift, with zeros outside of the
    shifted map, and it skips the output projection. Attention channel `n * D + c` enters the projection, convolution
    channel `c * N + n` is added as it stands.

    A map that is no multiple of the window is padded with zeros after the shift, for the attention alone, which treats
    the padding as timm's Swin does: its keys and values are the projection's bias. The convolution path never sees
    that padding: outside of the true map it reads zeros, at every size.

    Loads the authors' state dicts (`rate1`, `dep_conv`, ...) as well as its own, whose names are timm's where the
    parameters are Swin's.

    Args:
        channels: channels C of input and output, a multiple of the heads' width D.
        num_heads: heads N.
        window_size: side K of the windows, or rows and columns.
        shift_size: how far the windows are shifted, or rows and columns; less than the window.
        kernel_conv: side k of the convolution path's kernels, odd.
        head_dim: width D of a head, C / N where None.
        qkv_bias: whether the projection to q, k and v has a bias.
        attn_drop: dropout of attention weights.
        proj_drop: dropout of the output.
        **options: those of every ACmix layer, see `acmix.nn.TwoPaths`.

    Attributes:
        alpha: rate of the attention path, parameter of shape (1,), 0.5 at the start; None where it is not learned.
        beta: rate of the convolution path, likewise.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> ShiftedWindowACmix(96, 3, window_size=7, shift_size=3)(torch.randn(1, 56, 56, 96)).shape
        torch.Size([1, 56, 56, 96])
    """

    relative_position_bias_table: nn.Parameter | None
    relative_position_index: Tensor | None

    def __init__(  # noqa: PLR0913  # ruff counts what stands after `*`
        self,
        channels: int,
        num_heads: int,
        window_size: int | Pair = 7,
        shift_size: int | Pair = 0,
        kernel_conv: int = 3,
        *,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        **options: Unpack[PathOptions],
    ) -> None:
        op = type(self).__name__
        check_positive(op, channels=channels, num_heads=num_heads)
        if head_dim is None:
            if channels % num_heads:
                raise ValueError(f"{op}: channels={channels} is no multiple of num_heads={num_heads}; change one.")
            head_dim = channels // num_heads
        check_positive(op, head_dim=head_dim)
        super().__init__(channels, head_dim, 3 * num_heads, fc_bias=True, kernel_conv=kernel_conv, **options)
        made: Factory = {"device": options.get("device"), "dtype": options.get("dtype")}
        attends = self.paths != "convolution"
        self.channels, self.num_heads, self.head_dim = channels, num_heads, head_dim
        self.window_size, self.shift_size = _pair(window_size), _pair(shift_size)
        self._check_window()
        width = num_heads * head_dim
        self.qkv = nn.Linear(channels, 3 * width, bias=qkv_bias, **made)
        self.proj = nn.Linear(width, channels, **made) if attends else None
        self.attn_drop, self.proj_drop = nn.Dropout(attn_drop), nn.Dropout(proj_drop)
        places = (2 * self.window_size[0] - 1) * (2 * self.window_size[1] - 1)
        table = nn.Parameter(torch.empty(places, num_heads, **made)) if attends else None
        self.register_parameter("relative_position_bias_table", table)
        self.register_buffer("relative_position_index", None, persistent=False)
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(_translate)  # type: ignore[no-untyped-call]  # torch does not type it

    @classmethod
    def attention_ops(cls, paths: Paths) -> tuple[OpName, ...]:
        """Attention within windows."""
        return () if paths == "convolution" else ("window_attention",)

    def reset_parameters(self) -> None:
        """Every part as Swin starts it: projections and position biases normal of 0.02; shifts as shifts, rates 0.5."""
        for linear in (self.qkv, self.proj):
            if linear is not None:
                nn.init.trunc_normal_(linear.weight, std=0.02)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
        if self.relative_position_bias_table is not None:
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        if self.paths != "attention":
            self.fc.reset_parameters()
            self.shift.reset_parameters()
        self.reset_rates()
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """Fill what no state dict holds; timm calls this after it has moved a network off the meta device."""
        if self.relative_position_bias_table is not None:
            device = self.relative_position_bias_table.device
            self.relative_position_index = _relative_position_index(self.window_size, device)

    def set_window_size(self, window_size: int | Pair, shift_size: int | Pair = 0) -> None:
        """Other windows; the position biases are interpolated to them as timm does it (and needs timm).

        Args:
            window_size: as in the constructor.
            shift_size: as in the constructor.
        """
        before, self.window_size, self.shift_size = self.window_size, _pair(window_size), _pair(shift_size)
        self._check_window()
        table = self.relative_position_bias_table
        if table is None or self.window_size == before:
            return
        from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

        height, width = self.window_size
        shape = ((2 * height - 1) * (2 * width - 1), self.num_heads)
        resized = resize_rel_pos_bias_table(table.detach(), self.window_size, shape, before)
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.init_non_persistent_buffers()

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        out: Tensor = self.proj_drop(self._roll(self.mix(*self._shifted(x)), back=True))
        return out

    def forward_paths(self, x: Tensor) -> ACmixPaths:
        """The two terms of the output of `forward`, each with its rate, in the output's shape, before `proj_drop`."""
        attention, convolution = self._shifted(x)
        return ACmixPaths(
            None if attention is None else self._roll(self.attended(attention), back=True),
            None if convolution is None else self._roll(convolution, back=True),
        )

    def _shifted(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Attention without its rate and convolution with it, on the shifted map, both [B, H, W, C]."""
        self._check_input(x)
        qkv, outside = self._project(self._roll(x))
        convolution = self.convolve(qkv.permute(0, 3, 4, 1, 2))
        if convolution is not None:
            convolution = convolution.permute(0, 2, 3, 1)
        if self.proj is None:
            return None, convolution
        dropout = self.attn_drop.p if self.training else 0.0
        windows: _Windows = {"window": self.window_size, "shift": self.shift_size}
        attention = window_attention(qkv, self._bias(), outside, dropout=dropout, impl=self.impl, **windows)
        return self.proj(attention), convolution

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Stage I: [B, H, W, C] -> [B, H, W, D, 3N], the heads of q, of k and of v last, and the same of zeros."""
        pieces = (3 * self.num_heads, self.head_dim)
        # A group of the convolution reads neighbouring channels, so they come out in its order.
        weight = self.qkv.weight.unflatten(0, pieces).transpose(0, 1).flatten(0, 1)
        bias = None if self.qkv.bias is None else self.qkv.bias.unflatten(0, pieces).T
        qkv: Tensor = F.linear(x, weight, None if bias is None else bias.flatten()).unflatten(3, pieces[::-1])
        return qkv, bias

    def _roll(self, x: Tensor, *, back: bool = False) -> Tensor:
        if not any(self.shift_size):
            return x
        rows, columns = self.shift_size if back else (-size for size in self.shift_size)
        return torch.roll(x, (rows, columns), (1, 2))

    def _bias(self) -> Tensor:
        """[N, K * K, K * K]: what a head adds to the logits of queries (rows) and keys (columns) of a window."""
        index, table = present(self.relative_position_index), present(self.relative_position_bias_table)
        return table[index].permute(2, 0, 1)

    def _check_window(self) -> None:
        op = type(self).__name__
        height, width = self.window_size
        check_positive(op, window_height=height, window_width=width)
        if not all(
            0 <= shift < max(window, 1) for shift, window in zip(self.shift_size, self.window_size, strict=True)
        ):
            raise ValueError(
                f"{op}: shift_size={self.shift_size}, expected 0 up to less than the window {self.window_size}."
            )

    def _check_input(self, x: Tensor) -> None:
        if is_tracing():
            return
        check_tensors(type(self).__name__, {"the input": x})
        if x.dim() != 4 or x.shape[3] != self.channels or 0 in x.shape[1:]:
            expected = f"[B, H, W, {self.channels}] with H, W >= 1"
            raise ValueError(f"{type(self).__name__}: the input has shape {tuple(x.shape)}, expected {expected}.")

    def extra_repr(self) -> str:
        """The arguments that `print(layer)` shows."""
        text = f"{self.channels}, {self.num_heads}, window_size={self.window_size}, shift_size={self.shift_size}"
        return f"{text}, {self.path_repr()}"


def _pair(size: int | Pair) -> Pair:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _relative_position_index(window: Pair, device: torch.device) -> Tensor:
    """[K * K, K * K]: the row of the bias table for each query and key, by the offset from key to query."""
    height, width = window
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    rows = y.unsqueeze(1) - y + height - 1
    columns = x.unsqueeze(1) - x + width - 1
    return rows * (2 * width - 1) + columns


def _translate(layer: nn.Module, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
    # The authors' code keeps in the file what depends on the window's size alone.
    state_dict.pop(f"{prefix}relative_position_index", None)
    translate_authors_keys(layer, state_dict, prefix, WINDOW_KEYS)
