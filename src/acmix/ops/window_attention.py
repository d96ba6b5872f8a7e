"""The door of attention within windows."""

from typing import Final

from torch import Tensor

from acmix.ops.autocast import autocast
from acmix.ops.checks import check_tensors
from acmix.ops.impl.torch.window_attention import Windows
from acmix.ops.impl.torch.window_attention import window_attention as graph
from acmix.ops.library_window import window_attention_op
from acmix.ops.tracing import is_tracing, wants_plain_functions

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
        dropout: of the weights.

    Returns:
        [B, H, W, N * D], channel `n * D + d`, in the dtype of qkv, or autocast's where that is on.

    Raises:
        ValueError: a shape is wrong.
        TypeError: an input is no floating-point tensor, or dtypes or devices differ.
    """
    qkv, bias, outside = autocast(qkv), autocast(bias), None if outside is None else autocast(outside)
    if not is_tracing():
        check_tensors(_OP, {"qkv": qkv, "bias": bias} | ({} if outside is None else {"outside": outside}))
        area = window[0] * window[1]
        if qkv.dim() != 5 or 0 in qkv.shape[1:] or bias.shape != (qkv.shape[4] // 3, area, area):
            raise ValueError(
                f"{_OP}: qkv has shape {tuple(qkv.shape)} and bias {tuple(bias.shape)}, expected [B, H, W, D, 3N] and "
                f"[N, {area}, {area}] for the window {window}."
            )
        if outside is not None and outside.shape != qkv.shape[3:]:
            raise ValueError(f"{_OP}: outside has shape {tuple(outside.shape)}, expected {tuple(qkv.shape[3:])}.")
    if dropout or wants_plain_functions():
        # The op computes its weights again for the gradient, and would draw others then.
        return graph(qkv, bias, outside, Windows(window, shift), dropout)
    return window_attention_op(qkv, bias, outside, *window, *shift)
