"""The door of attention of tokens to tokens."""

from typing import Final

from torch import Tensor

from acmix.ops.autocast import autocast
from acmix.ops.checks import check_positive, check_tensors
from acmix.ops.dispatch import choose_backend
from acmix.ops.impl.reference import token_attention as reference
from acmix.ops.impl.torch.token_attention import token_attention as on_torch
from acmix.ops.impl.torch.token_attention import token_attention_graph as graph
from acmix.ops.problem import Problem
from acmix.ops.tracing import check_plain, fixed, is_tracing, wants_plain_functions

__all__ = ["token_attention"]

_OP: Final = "token_attention"


def token_attention(q: Tensor, kv: Tensor, num_heads: int, *, dropout: float = 0.0, impl: str = "auto") -> Tensor:
    """Multi-head attention of every token to all keys (paper Eq. 11 and 12), as PVT has it over a reduced map.

    Args:
        q: queries [B, L, C].
        kv: [B, S, 2 C], the heads of the keys, then those of the values.
        num_heads: heads N, a divisor of C.
        dropout: rate at which attention weights are dropped.
        impl: "auto" for the first backend that can run, or a backend's name; an explicit name never falls back.

    Returns:
        [B, L, C], channel `n * D + d`, in the dtype of q, or autocast's where that is on.

    Raises:
        ValueError: a shape, the number of heads or a backend's name is wrong.
        TypeError: an input is no floating-point tensor, or dtypes or devices differ.
        RuntimeError: the backend asked for cannot run this; the message says why.

    Example:
        >>> token_attention(torch.randn(2, 49, 64), torch.randn(2, 16, 128), num_heads=4).shape
        torch.Size([2, 49, 64])
    """
    q, kv = autocast(q), autocast(kv)
    if not is_tracing():
        check_tensors(_OP, {"q": q, "kv": kv})
        check_positive(_OP, num_heads=num_heads)
        if q.dim() != 3 or kv.dim() != 3 or kv.shape[0] != q.shape[0] or kv.shape[2] != 2 * q.shape[2]:
            shapes = f"q {tuple(q.shape)} and kv {tuple(kv.shape)}"
            raise ValueError(f"{_OP}: {shapes}, expected [B, L, C] and [B, S, 2 C].")
        if q.shape[2] % num_heads or 0 in (q.shape[2], kv.shape[1]):
            sizes = f"C={q.shape[2]}, S={kv.shape[1]}, num_heads={num_heads}"
            raise ValueError(f"{_OP}: {sizes}, expected a multiple of the heads and at least one key.")
    head_width = fixed(q.shape[2]) // num_heads
    backend = choose_backend(Problem(_OP, q.device.type, q.dtype, 0, head_width), impl)
    if backend == "reference":
        return reference(q, kv, num_heads, dropout)
    if wants_plain_functions():
        check_plain(_OP, impl)
        return graph(q, kv, num_heads, dropout)
    return on_torch(q, kv, num_heads, dropout)
