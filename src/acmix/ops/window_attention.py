"""The door of attention within windows."""

from typing import Final

from torch import Tensor

from acmix.ops.autocast import autocast
from acmix.ops.checks import check_positive, check_tensors
from acmix.ops.dispatch import choose_backend
from acmix.ops.impl.reference import window_attention as reference
from acmix.ops.impl.torch.window_attention import Windows
from acmix.ops.impl.torch.window_attention import window_attention as with_dropout
from acmix.ops.impl.torch.window_attention import window_attention_graph as graph
from acmix.ops.library_window import window_attention_op
from acmix.ops.problem import Problem
from acmix.ops.tracing import check_plain, fixed, is_tracing, wants_plain_functions

__all__ = ["window_attention"]

_OP: Final = "window_attention"


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    outside: Tensor | None = None,
    *,
    window: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
    dropout: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """Multi-head attention within the windows of a map that may be cyclically shifted (Swin's W-MSA and SW-MSA).

    A map that is no multiple of the window is padded below and to the right, and queries see that padding, as in timm.

    Args:
        qkv: [B, H, W, D, 3N], the heads of q, of k and of v last.
        bias: [N, K * K, K * K], added to the logits of queries (rows) and keys (columns) of every window.
        outside: [D, 3N], q, k and v beyond the end of the map; zeros where None.
        window: rows and columns of a window.
        shift: by how many rows and columns the map was rolled up and to the left; what comes from the other end is
            masked.
        dropout: rate at which attention weights are dropped.
        impl: "auto" for the first backend that can run, or a backend's name; an explicit name never falls back.

    Returns:
        [B, H, W, N * D], channel `n * D + d`, in the dtype of qkv, or autocast's where that is on.

    Raises:
        ValueError: a shape, the window, the shift or a backend's name is wrong.
        TypeError: an input is no floating-point tensor, or dtypes or devices differ.
        RuntimeError: the backend asked for cannot run this; the message says why.

    Example:
        >>> qkv, bias = torch.randn(2, 14, 14, 32, 3 * 4), torch.zeros(4, 49, 49)
        >>> window_attention(qkv, bias, window=(7, 7)).shape
        torch.Size([2, 14, 14, 128])
    """
    qkv, bias, outside = autocast(qkv), autocast(bias), None if outside is None else autocast(outside)
    if not is_tracing():
        check_positive(_OP, rows_of_window=window[0], columns_of_window=window[1])
        if not all(0 <= down < side for down, side in zip(shift, window, strict=True)):
            raise ValueError(f"{_OP}: shift={shift}, expected 0 up to less than the window {window}.")
        check_tensors(_OP, {"qkv": qkv, "bias": bias} | ({} if outside is None else {"outside": outside}))
        area = window[0] * window[1]
        if qkv.dim() != 5 or 0 in qkv.shape[1:] or qkv.shape[4] % 3 or bias.shape != (qkv.shape[4] // 3, area, area):
            raise ValueError(
                f"{_OP}: qkv has shape {tuple(qkv.shape)} and bias {tuple(bias.shape)}, expected [B, H, W, D, 3N] and "
                f"[N, {area}, {area}] for the window {window}."
            )
        if outside is not None and outside.shape != qkv.shape[3:]:
            raise ValueError(f"{_OP}: outside has shape {tuple(outside.shape)}, expected {tuple(qkv.shape[3:])}.")
    head_width = fixed(qkv.shape[3])
    backend = choose_backend(Problem(_OP, qkv.device.type, qkv.dtype, max(window), head_width), impl)
    if backend == "reference":
        return reference(qkv, bias, outside, window=window, shift=shift, dropout=dropout)
    if wants_plain_functions():
        check_plain(_OP, impl)
        return graph(qkv, bias, outside, Windows(window, shift), dropout)
    if dropout:
        # The op computes its weights again for the gradient, and would draw others then.
        return with_dropout(qkv, bias, outside, Windows(window, shift), dropout)
    return window_attention_op(qkv, bias, outside, *window, *shift, backend)
