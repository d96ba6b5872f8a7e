"""`acmix::window_attention` and its backward as torch operators."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from acmix.ops.impl.torch.window_attention import Windows, window_attention_backward
from acmix.ops.library_pair import OpPair, register_pair

__all__ = ["window_attention_op"]

Gradients = tuple[Tensor | None, ...]


def _call(function: Callable[..., Any], qkv: Tensor, bias: Tensor, outside: Tensor | None, *options: int) -> Any:
    rows, columns, down, right = options
    return function(qkv, bias, outside, Windows((rows, columns), (down, right)))


def _fake(qkv: Tensor, bias: Tensor, outside: Tensor | None, *rest: Any) -> Tensor:
    batch, height, width, channels, _ = qkv.shape
    return qkv.new_empty((batch, height, width, bias.shape[0] * channels))


def _backward_fake(qkv: Tensor, bias: Tensor, outside: Tensor | None, *rest: Any) -> Gradients:
    return tuple(None if x is None else x.new_empty(x.shape) for x in (qkv, bias, outside))


def _plain_backward(grad: Tensor, *inputs: Any) -> Gradients:
    grads: Gradients = _call(lambda *x: window_attention_backward(grad, *x), *inputs)
    return grads


def _flops(
    qkv_shape: Any, bias_shape: Any, outside_shape: Any, rows: int, columns: int, *rest: Any, out_shape: Any
) -> int:
    """Two products, of queries with keys and of weights with values, within whole windows."""
    batch, height, width, channels, pieces = qkv_shape
    windows, area = -(-height // rows) * -(-width // columns), rows * columns
    return int(2 * 2 * batch * windows * area**2 * channels * pieces // 3)


window_attention_op: Callable[..., Tensor] = register_pair(
    OpPair(
        name="window_attention",
        tensors="Tensor qkv, Tensor bias, Tensor? outside",
        options="int rows, int columns, int down, int right",
        call=_call,
        fake=_fake,
        backward_fake=_backward_fake,
        plain_backward=_plain_backward,
        flops=_flops,
        # Five products instead of two: the logits again, then the gradients of weights, values, queries and keys.
        backward_flops=(5, 2),
    )
)
