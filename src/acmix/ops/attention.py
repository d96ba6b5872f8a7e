"""The door of window attention."""

from typing import Final

from torch import Tensor

from acmix.ops.autocast import autocast
from acmix.ops.checks import check_positive, check_scale, check_tensors, check_window
from acmix.ops.dispatch import choose_backend
from acmix.ops.impl.reference import local_attention as reference
from acmix.ops.impl.torch.attention_graph import attention_graph
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.library_attention import local_attention_op
from acmix.ops.problem import Problem
from acmix.ops.tracing import check_plain, fixed, is_tracing, wants_plain_functions

__all__ = ["check_attention_inputs", "local_attention"]

_OP: Final = "local_attention"


def check_attention_inputs(op: str, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None) -> None:
    """Raise ValueError or TypeError, named after `op`, unless the shapes, dtypes and devices fit each other."""
    check_tensors(op, {"q": q, "k": k, "v": v} | ({} if position is None else {"position": position}))
    if q.dim() != 5:
        raise ValueError(f"{op}: q has shape {tuple(q.shape)}, expected [B, N, D, H, W]; unflatten the heads first.")
    if not q.shape == k.shape == v.shape:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        raise ValueError(f"{op}: {shapes} differ, expected one shape [B, N, D, H, W], q at full size too.")
    if position is not None and position.shape != q.shape[2:]:
        expected = tuple(q.shape[2:])
        raise ValueError(f"{op}: position has shape {tuple(position.shape)}, expected [D, H, W] = {expected}.")
    if 0 in q.shape[1:]:
        raise ValueError(f"{op}: q has shape {tuple(q.shape)}; only the batch may be empty.")


def local_attention(  # noqa: PLR0913  # nine arguments, as the paper's operator has; all but four by name
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: int,
    *,
    position: Tensor | None = None,
    stride: int = 1,
    dilation: int = 1,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Multi-head attention of every pixel to the K x K window around it, borders reflected (paper Eq. 9-12).

    Each query `i` at the stride sees the window's keys `j` with logits `scale * q_i . (k_j - p_j)`. The authors write
    `q_i . (k_j + p_i - p_j)`; `q_i . p_i` is the same for every `j` and drops out of the softmax. Reflection is
    repeated where the map is smaller than the window, so that every H, W >= 1 is defined.

    Args:
        q: queries [B, N, D, H, W], at full size also where `stride` > 1.
        k: keys [B, N, D, H, W].
        v: values [B, N, D, H, W].
        kernel_size: window side K, odd.
        position: position code [D, H, W] subtracted from the keys, shared by batch and heads.
        stride: distance between queries in pixels, s.
        dilation: distance between the window's keys in pixels, d.
        scale: factor on the logits; None: D ** -0.5.
        impl: "auto" for the first backend that can run, or a backend's name; an explicit name never falls back.

    Returns:
        [B, N, D, ceil(H / s), ceil(W / s)], in the dtype of q, or autocast's where that is on. Logits and
        softmax are held in float32 at least.

    Raises:
        ValueError: a shape, an option or a backend's name is wrong.
        TypeError: an input is no floating-point tensor, or dtypes or devices differ.
        RuntimeError: the backend asked for cannot run this; the message says why.

    Example:
        >>> q, k, v = torch.randn(3, 2, 4, 16, 14, 14)
        >>> local_attention(q, k, v, kernel_size=7).shape
        torch.Size([2, 4, 16, 14, 14])
    """
    q, k, v = autocast(q), autocast(k), autocast(v)
    position = None if position is None else autocast(position)
    if not is_tracing():
        check_window(_OP, "kernel_size", kernel_size)
        check_scale(_OP, scale)
        check_positive(_OP, stride=stride, dilation=dilation)
        check_attention_inputs(_OP, q, k, v, position)
    head_width = fixed(q.shape[2])
    scale = head_width**-0.5 if scale is None else float(scale)
    device = q.device
    problem = Problem(_OP, device.type, q.dtype, kernel_size, head_width, stride, dilation, device.index)
    backend = choose_backend(problem, impl)
    if backend == "reference":
        options = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        return reference(q, k, v, position, **options, scale=scale)
    if wants_plain_functions():
        check_plain(_OP, impl)
        return attention_graph(q, k, v, position, Window(kernel_size, stride, dilation, scale))
    return local_attention_op(q, k, v, position, kernel_size, stride, dilation, scale, backend)
