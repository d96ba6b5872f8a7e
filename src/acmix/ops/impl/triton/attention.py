"""Window attention on Triton's kernels: shapes, strides and launches."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.impl.cpu.limits import bounded_stride
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.impl.triton.attention_configs import Call, Cut, plan_cut
from acmix.ops.impl.triton.attention_on_matrices import plan_matrix_launch, wants_matrices
from acmix.ops.impl.triton.availability import INTERPRETED
from acmix.ops.impl.triton.launching import extent_is_wide, on_device_of, reflected_dilation
from acmix.ops.layout import empty_attention_output, is_channels_last

__all__ = ["Launch", "local_attention", "local_attention_backward", "plan_launch"]


class Launch(NamedTuple):
    """What all launches of one call have in common.

    Attributes:
        window: its options, stride and dilation bounded by the map's size.
        cut: a program's share.
        sizes: heads, height and width of the map, height and width of the output.
        wide: whether offsets take 64 bits.
    """

    window: Window
    cut: Cut
    sizes: tuple[int, int, int, int, int]
    wide: bool

    @property
    def numbers(self) -> tuple[int | float, ...]:
        """The kernels' numbers: sizes, radius of the window, scale."""
        return *self.sizes, (self.window.kernel_size - 1) // 2, self.window.scale

    def constants(self, head_width: int, *, has_position: bool, alike: bool) -> dict[str, Any]:
        """The kernels' compile-time arguments; `alike`: keys and values have the same strides."""
        _, height, width, _, _ = self.sizes
        window, cut = self.window, self.cut
        return {
            "HEAD": head_width,
            "STRIDE": window.stride,
            "DILATION": window.dilation,
            "REPEATED": window.reach >= min(height, width) and window.reach > 0,
            "WIDE": self.wide,
            "HAS_POSITION": has_position,
            "ALIKE": alike,
            "D": cut.width,
            "PARTS": cut.parts,
            "PLACES": cut.places,
            "ROWS": cut.rows,
            "D_AXIS": cut.axis,
            "num_warps": cut.warps,
            # Nothing goes through shared memory, so there is nothing to load ahead.
            "num_stages": 1,
            "enable_fp_fusion": True,
        }

    def query_programs(self, images: int) -> int:
        """Programs of the kernels that own queries, for so many images times heads."""
        return images * self.cut.parts * self._tiles(self.sizes[3], self.sizes[4])

    def key_programs(self, images: int) -> int:
        """Programs of the kernel that owns keys, for so many images times heads."""
        stride = self.window.stride
        height, width = (output_size(size, stride) for size in self.sizes[1:3])
        return images * self.cut.parts * stride**2 * self._tiles(height, width)

    def _tiles(self, height: int, width: int) -> int:
        return -(-(-(-height // self.cut.rows) * width) // self.cut.places)


def plan_launch(q: Tensor, window: Window, *others: Tensor, backward: bool) -> Launch:
    """For queries [B, N, D, H, W]; the others are read or written with offsets of the same size."""
    _, heads, head_width, height, width = q.shape
    stride, dilation = bounded_stride(q.shape, window.stride), reflected_dilation(q, window.dilation)
    window = window._replace(stride=stride, dilation=dilation)
    spread = window.stride > 1 or window.dilation > 1
    cut = plan_cut(head_width, Call(is_channels_last(q), spread, backward, INTERPRETED))
    sizes = heads, height, width, output_size(height, window.stride), output_size(width, window.stride)
    return Launch(window, cut, sizes, extent_is_wide(q, *others))


def _at_stride(x: Tensor, window: Window) -> Tensor:
    return x[..., :: window.stride, :: window.stride]


def _code(position: Tensor | None, q: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The position, or a stand-in that is not read, and its strides."""
    return (q, (0,) * 5) if position is None else (position, (0, 0, *position.stride()))


def local_attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, window: Window) -> tuple[Tensor, Tensor]:
    """Output [B, N, D, H', W'] of window attention over [B, N, D, H, W], and its log-sum-exp [B, N, H', W']."""
    from acmix.ops.impl.triton.kernels.attention import attention_forward
    from acmix.ops.impl.triton.kernels.attention_matrix import matrix_forward

    out = empty_attention_output(q, window.stride)
    others = [x for x in (k, v, position, out) if x is not None]
    launch = plan_launch(q, window, *others, backward=False)
    window = launch.window
    lse = q.new_empty((*q.shape[:2], *out.shape[3:]), dtype=torch.float32)
    if not out.numel():
        return out, lse
    queries, (code, code_strides) = _at_stride(q, window), _code(position, q)
    strides = queries.stride(), k.stride(), v.stride(), code_strides, out.stride()
    images, has_position = q.shape[0] * q.shape[1], position is not None
    arguments = queries, k, v, code, out, lse, *strides
    with on_device_of(q):
        if wants_matrices(q, window):
            matrices = plan_matrix_launch(q, window, *others)
            grid = (matrices.programs(images),)
            matrix_forward[grid](*arguments, *matrices.numbers, **matrices.constants(has_position=has_position))
        else:
            grid = (launch.query_programs(images),)
            constants = launch.constants(q.shape[2], has_position=has_position, alike=k.stride() == v.stride())
            attention_forward[grid](*arguments, *launch.numbers, **constants)
    return out, lse


def local_attention_backward(
    grad: Tensor,
    tensors: tuple[Tensor, Tensor, Tensor],
    position: Tensor | None,
    window: Window,
    kept: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v [B, N, D, H, W] and of the position [D, H, W]; `kept` are the output and its log-sum-exp."""
    q, k, v = tensors
    if is_channels_last(grad) and not is_channels_last(q):
        grad = grad.contiguous()  # the kernels read it as often as keys
    grad_q = (q.new_empty if bounded_stride(q.shape, window.stride) == 1 else q.new_zeros)(q.shape)
    grad_k, grad_v = k.new_empty(k.shape), v.new_empty(v.shape)
    if q.numel():
        with on_device_of(q):
            _run_backward((grad, q, k, v), position, window, kept, (grad_q, grad_k, grad_v))
    # Summed in float32, in an order that does not change.
    grad_position = None
    if position is not None:
        grad_position = grad_k.sum((0, 1), dtype=torch.float32).neg_().to(position.dtype)
    return grad_q, grad_k, grad_v, grad_position


def _run_backward(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    position: Tensor | None,
    window: Window,
    kept: tuple[Tensor, Tensor],
    grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fill the gradients of q, k and v."""
    from acmix.ops.impl.triton.kernels.attention import attention_backward_queries
    from acmix.ops.impl.triton.kernels.attention_keys import attention_backward_keys
    from acmix.ops.impl.triton.kernels.attention_matrix import matrix_backward_queries
    from acmix.ops.impl.triton.kernels.attention_matrix_keys import matrix_backward_keys

    grad, q, k, v = inputs
    out, lse = kept[0], kept[1].contiguous()
    others = [x for x in (k, v, grad, out, position, *grads) if x is not None]
    launch = plan_launch(q, window, *others, backward=True)
    window, has_position = launch.window, position is not None
    queries, of_queries, (code, code_strides) = _at_stride(q, window), _at_stride(grads[0], window), _code(position, q)
    delta = torch.empty_like(lse)
    strides = grad.stride(), queries.stride(), k.stride(), v.stride(), code_strides
    for_queries = grad, queries, k, v, code, out, lse, of_queries, delta, *strides, out.stride(), of_queries.stride()
    for_keys = grad, queries, k, v, code, lse, delta, *grads[1:], *strides, *(x.stride() for x in grads[1:])
    images = q.shape[0] * q.shape[1]
    if wants_matrices(q, window):
        matrices = plan_matrix_launch(q, window, *others)
        grid, constants = (matrices.programs(images),), matrices.constants(has_position=has_position)
        matrix_backward_queries[grid](*for_queries, *matrices.numbers, **constants)
        matrix_backward_keys[grid](*for_keys, *matrices.numbers, **constants)
        return
    constants = launch.constants(q.shape[2], has_position=has_position, alike=k.stride() == v.stride())
    attention_backward_queries[(launch.query_programs(images),)](*for_queries, *launch.numbers, **constants)
    attention_backward_keys[(launch.key_programs(images),)](*for_keys, *launch.numbers, **constants)
