"""Window attention as the paper writes it: pad by reflection, unfold the window, softmax, sum of values."""

from torch import Tensor

from acmix.ops.geometry import output_size, reflect, window_offsets

__all__ = ["local_attention"]


def _unfold(x: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """[..., H, W] -> [..., H', W', K, K]: the reflected window of every query."""
    for axis in (-2, -1):
        size = x.shape[axis]
        centres = output_size(size, stride)
        offsets = window_offsets(kernel_size, dilation, x.device)
        queries = offsets.new_ones(centres).cumsum(0).sub(1).mul(stride)
        index = reflect(queries[:, None] + offsets, size)
        x = x[..., index, :] if axis == -2 else x[..., index].movedim(-3, -2)
    return x


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    *,
    kernel_size: int,
    stride: int,
    dilation: int,
    scale: float,
) -> Tensor:
    """Softmax over the K x K window of `scale * q_i . (k_j + p_i - p_j)`, then the sum of values (paper Eq. 9-12).

    Shapes as in `acmix.functional.local_attention`. The gradient is torch's own, through the unfolded copies.
    """
    window = (kernel_size, stride, dilation)
    queries = q[..., ::stride, ::stride] * scale
    keys = _unfold(k, *window)
    if position is not None:
        relative = position[..., ::stride, ::stride, None, None] - _unfold(position, *window)
        keys = keys + relative
    logits = (queries[..., None, None] * keys).sum(2)
    weights: Tensor = logits.flatten(-2).softmax(-1).unflatten(-1, (kernel_size, kernel_size))
    return (weights.unsqueeze(2) * _unfold(v, *window)).sum((-2, -1))
