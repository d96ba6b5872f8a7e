"""The doors of the two sums over a window that SAN's attention is made of."""

from typing import Final

from torch import Tensor

from acmix.ops.autocast import autocast
from acmix.ops.checks import check_tensors, check_window
from acmix.ops.dispatch import choose_backend
from acmix.ops.impl import reference
from acmix.ops.impl.torch import neighbourhood_graph
from acmix.ops.layout import compute_dtype
from acmix.ops.library_neighbourhood import neighbourhood_aggregate_op, neighbourhood_project_op
from acmix.ops.problem import Problem
from acmix.ops.tracing import check_plain, fixed, is_tracing, wants_plain_functions

__all__ = ["neighbourhood_aggregate", "neighbourhood_project"]

_AGGREGATE: Final = "neighbourhood_aggregate"
_PROJECT: Final = "neighbourhood_project"


def _check_map(op: str, name: str, x: Tensor) -> None:
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"{op}: {name} has shape {tuple(x.shape)}, expected [B, C, H, W], only B may be 0.")


def neighbourhood_aggregate(weights: Tensor, v: Tensor, kernel_size: int, *, impl: str = "auto") -> Tensor:
    """Sum of values over the K x K window around every pixel with given weights, borders reflected.

    `out[c, i] = sum_o weights[c % G, o, i] * v[c, i + o]`: the aggregation of self-attention networks (SAN, and the
    paper's Eq. 18), where the weights come from a small network in place of a softmax of products. Channels whose
    indices are equal modulo G share their weights. No unfolded copy of v is made, forward or backward. Reflection is
    repeated where the map is smaller than the window, so that every H, W >= 1 is defined.

    Args:
        weights: [B, G, K * K, H, W], offsets row by row from the upper left.
        v: values [B, C, H, W], C a multiple of G.
        kernel_size: window side K, odd.
        impl: "auto" for the first backend that can run, or a backend's name; an explicit name never falls back.

    Returns:
        [B, C, H, W] in the dtype of v, or autocast's where that is on, channels last where v is. Sums are held in
        float32 at least.

    Raises:
        ValueError: a shape, the window or a backend's name is wrong.
        TypeError: an input is no floating-point tensor, or dtypes or devices differ.
        RuntimeError: the backend asked for cannot run this; the message says why.

    Example:
        >>> weights, v = torch.rand(2, 8, 49, 14, 14), torch.randn(2, 64, 14, 14)
        >>> neighbourhood_aggregate(weights, v, kernel_size=7).shape
        torch.Size([2, 64, 14, 14])
    """
    weights, v = autocast(weights), autocast(v)
    if not is_tracing():
        check_window(_AGGREGATE, "kernel_size", kernel_size)
        check_tensors(_AGGREGATE, {"v": v, "weights": weights})
        _check_map(_AGGREGATE, "v", v)
        batch, channels, *size = v.shape
        groups = weights.shape[1] if weights.dim() == 5 else 0
        if not groups or channels % groups or weights.shape != (batch, groups, kernel_size**2, *size):
            raise ValueError(
                f"{_AGGREGATE}: weights has shape {tuple(weights.shape)}, expected [B, G, K * K, H, W] = "
                f"({batch}, G, {kernel_size**2}, {size[0]}, {size[1]}) G a divisor of the {channels} channels of v."
            )
    backend = choose_backend(Problem(_AGGREGATE, v.device.type, v.dtype, kernel_size, fixed(v.shape[1])), impl)
    if backend == "reference":
        return reference.neighbourhood_aggregate(weights, v, kernel_size)
    if wants_plain_functions():
        check_plain(_AGGREGATE, impl)
        return neighbourhood_graph.neighbourhood_aggregate(weights, v, kernel_size)
    return neighbourhood_aggregate_op(weights, v, kernel_size, backend)


def neighbourhood_project(
    k: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, kernel_size: int, *, impl: str = "auto"
) -> Tensor:
    """Scale, shift and rectify the K x K window around every pixel, and project it; borders reflected.

    `out[m, i] = sum_{c, o} weight[m, c, o] * relu(scale[c, o] * k[c, i + o] + shift[c, o])`: batch norm, ReLU and 1x1
    convolution of an unfolded map as SAN's patchwise weights have them, without the unfolded map, forward or backward.

    Args:
        k: [B, C, H, W].
        scale: [C, K * K], one factor for each channel and offset, offsets row by row.
        shift: [C, K * K].
        weight: [M, C, K * K].
        kernel_size: window side K, odd.
        impl: as in `neighbourhood_aggregate`.

    Returns:
        [B, M, H, W] in the dtype of k, or autocast's where that is on, channels last where k is.

    Raises:
        ValueError: a shape, the window or a backend's name is wrong.
        TypeError: an input is no floating-point tensor, or dtypes or devices differ.
        RuntimeError: the backend asked for cannot run this; the message says why.
    """
    k = autocast(k)
    weight = autocast(weight).to(k.dtype)
    # Small, and not to be rounded: the shift cancels most of what the scale leaves of a mean.
    scale, shift = scale.to(compute_dtype(k.dtype)), shift.to(compute_dtype(k.dtype))
    if not is_tracing():
        check_window(_PROJECT, "kernel_size", kernel_size)
        check_tensors(_PROJECT, {"k": k, "weight": weight})
        _check_map(_PROJECT, "k", k)
        affine = (k.shape[1], kernel_size**2)
        for name, x in {"scale": scale, "shift": shift, "a row of weight": weight[:1].squeeze(0)}.items():
            if x.shape != affine:
                raise ValueError(f"{_PROJECT}: {name} has shape {tuple(x.shape)}, expected [C, K * K] = {affine}.")
    backend = choose_backend(Problem(_PROJECT, k.device.type, k.dtype, kernel_size, fixed(k.shape[1])), impl)
    if backend == "reference":
        return reference.neighbourhood_project(k, scale, shift, weight, kernel_size)
    if wants_plain_functions():
        check_plain(_PROJECT, impl)
        return neighbourhood_graph.neighbourhood_project(k, scale, shift, weight, kernel_size)
    return neighbourhood_project_op(k, scale, shift, weight, kernel_size, backend)
