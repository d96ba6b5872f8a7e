"""`acmix::local_attention` and its backward as torch operators."""

from typing import Any

from torch import Tensor

from acmix.ops.dispatch import load_backend
from acmix.ops.geometry import output_size
from acmix.ops.impl.torch.attention_graph import attention_backward_graph
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.layout import compute_dtype, empty_attention_output
from acmix.ops.library import Rules, or_empty, pull_back, register, vmap_by_loop

__all__ = ["local_attention_op"]

Gradients = tuple[Tensor | None, ...]


def _forward(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    *window, impl = options
    out, lse = load_backend(impl).local_attention(q, k, v, position, Window(*window))
    return out, or_empty(lse, q, compute_dtype(q.dtype))


def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, kernel_size: int, stride: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    out = empty_attention_output(q, stride)
    # The log-sum-exp, where the backend's backward pass reads it.
    shape = (*q.shape[:2], *out.shape[3:]) if load_backend(rest[-1]).BACKWARD_READS_OUTPUT else (0,)
    return out, q.new_empty(shape, dtype=compute_dtype(q.dtype))


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, position, *options = inputs
    out, lse = output
    ctx.options = options
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse)
    # A backend that computes the softmax's sums again reads neither; keeping them would only hold memory.
    kept = (out, lse) if load_backend(options[-1]).BACKWARD_READS_OUTPUT else (None, None)
    ctx.save_for_backward(q, k, v, position, *kept)


def _forward_gradient(ctx: Any, grad: Tensor | None, grad_lse: None) -> Gradients:
    del grad_lse  # not differentiable
    q, k, v, position, out, lse = ctx.saved_tensors
    nothing = (None,) * len(ctx.options)
    if grad is None:
        return (None, None, None, None, *nothing)
    grad_q, grad_k, grad_v, grad_position = _BACKWARD(grad, q, k, v, position, out, lse, *ctx.options)
    return (grad_q, grad_k, grad_v, None if position is None else grad_position, *nothing)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    out: Tensor | None,
    lse: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *window, impl = options
    backend = load_backend(impl)
    kept = ((out, lse),) if backend.BACKWARD_READS_OUTPUT else ()  # the others compute the softmax's sums again
    backward = backend.local_attention_backward
    grad_q, grad_k, grad_v, grad_position = backward(grad, (q, k, v), position, Window(*window), *kept)
    return grad_q, grad_k, grad_v, or_empty(grad_position, q)


def _backward_fake(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    position = None if position is None else position.new_empty(position.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), or_empty(position, q)


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    del output
    grad, q, k, v, position, _, _, *options = inputs
    ctx.options = options
    ctx.save_for_backward(grad, q, k, v, position)


def _backward_gradient(ctx: Any, *grads: Tensor) -> Gradients:
    """The second derivative, through the backward pass written as a graph; itself differentiable."""
    window = Window(*ctx.options[:-1])

    def graph(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None) -> Gradients:
        return attention_backward_graph(grad, (q, k, v), position, window)

    no_others = (None,) * (2 + len(ctx.options))
    return (*pull_back(graph, ctx.saved_tensors, grads), *no_others)


def _fold(x: Tensor, dim: int | None, members: int) -> Tensor:
    """[..., E, ...] -> [E * B, ...]: what vmap maps over becomes a part of the batch."""
    mapped = x.expand(members, *x.shape) if dim is None else x.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _unfold(x: Tensor, members: int) -> Tensor:
    return x.reshape(members, x.shape[0] // members, *x.shape[1:])


def _forward_vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    members = info.batch_size
    if in_dims[3] is not None:
        return vmap_by_loop(_FORWARD, members, in_dims, arguments)
    tensors = (_fold(x, dim, members) for x, dim in zip(arguments[:3], in_dims, strict=False))
    out, lse = _FORWARD(*tensors, *arguments[3:])
    if lse.dim() == 1:  # the empty stand-in
        return (_unfold(out, members), lse), (0, None)
    return (_unfold(out, members), _unfold(lse, members)), (0, 0)


def _backward_vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    members, position = info.batch_size, arguments[4]
    if in_dims[4] is not None:
        return vmap_by_loop(_BACKWARD, members, in_dims, arguments)
    tensors = (_fold(x, dim, members) for x, dim in zip(arguments[:4], in_dims, strict=False))
    kept = (None if x is None else _fold(x, dim, members) for x, dim in zip(arguments[5:7], in_dims[5:], strict=False))
    *grads, nothing = _BACKWARD(*tensors, position, *kept, *arguments[7:])
    grads = [_unfold(grad, members) for grad in grads]
    if position is None:
        return (*grads, nothing), (0, 0, 0, None)
    # One gradient for each member; the op has summed over all of them.
    grad_position = grads[1].sum((1, 2), dtype=compute_dtype(position.dtype)).neg().to(position.dtype)
    return (*grads, grad_position), (0, 0, 0, 0)


def _flops(q_shape: Any, kernel_size: int, stride: int) -> int:
    """Two products, of queries with keys and of weights with values, over K * K keys a query."""
    batch, heads, width, height, columns = q_shape
    queries = output_size(height, stride) * output_size(columns, stride)
    return int(2 * 2 * batch * heads * width * queries * kernel_size**2)


def _forward_flops(q_shape: Any, k_shape: Any, v_shape: Any, position_shape: Any, *options: Any, out_shape: Any) -> int:
    return _flops(q_shape, options[0], options[1])


def _backward_flops(grad_shape: Any, q_shape: Any, *rest: Any, out_shape: Any) -> int:
    """Five products instead of two: the logits again, then the gradients of weights, values, queries and keys."""
    kernel_size, stride = rest[5:7]
    return _flops(q_shape, kernel_size, stride) * 5 // 2


_TENSORS = "Tensor q, Tensor k, Tensor v, Tensor? position"
_WINDOW = "int kernel_size, int stride, int dilation, float scale, str impl"
_FORWARD = register(
    "local_attention",
    f"({_TENSORS}, {_WINDOW}) -> (Tensor, Tensor)",
    Rules(
        kernel=_forward,
        fake=_forward_fake,
        setup=_forward_setup,
        gradient=_forward_gradient,
        flops=_forward_flops,
        vmap=_forward_vmap,
    ),
)
_BACKWARD = register(
    "local_attention_backward",
    f"(Tensor grad, {_TENSORS}, Tensor? out, Tensor? lse, {_WINDOW}) -> (Tensor, Tensor, Tensor, Tensor)",
    Rules(
        kernel=_backward,
        fake=_backward_fake,
        setup=_backward_setup,
        gradient=_backward_gradient,
        flops=_backward_flops,
        vmap=_backward_vmap,
    ),
)


def local_attention_op(*arguments: Any) -> Tensor:
    """Call `acmix::local_attention` and keep its output."""
    out: Tensor = _FORWARD(*arguments)[0]
    return out
