"""What Triton's kernels are tried on, under the interpreter and on a card, and what they are compared with."""

from typing import Any

import torch
from torch import Tensor

from acmix.functional import convolution_path, local_attention

__all__ = ["ATTENTION", "CONVOLUTION", "MATRICES", "WIDE", "cast", "compare_attention", "compare_convolution", "made"]

# [B, N, D, H, W], K, stride, dilation, layout. Maps of one pixel, smaller than the window, smaller than the stride.
ATTENTION = {
    "K1": ((2, 1, 3, 3, 2), 1, 1, 1, "contiguous"),
    "K3-two-heads": ((1, 2, 3, 5, 4), 3, 1, 1, "contiguous"),
    "K5-sliced": ((1, 1, 5, 6, 9), 5, 1, 1, "sliced"),
    "K7": ((1, 1, 16, 9, 7), 7, 1, 1, "contiguous"),
    "K3-channels-last": ((1, 2, 16, 5, 4), 3, 1, 1, "channels_last"),
    "K3-expanded": ((2, 1, 3, 4, 4), 3, 1, 1, "expanded"),
    "K3-images-inside-channels": ((2, 2, 3, 4, 3), 3, 1, 1, "inside"),
    "one-pixel": ((2, 1, 5, 1, 1), 3, 1, 1, "contiguous"),
    "one-row-of-few": ((1, 1, 3, 1, 4), 3, 1, 1, "contiguous"),
    "smaller-than-the-window": ((1, 1, 5, 3, 2), 5, 1, 1, "contiguous"),
    "stride-2": ((1, 1, 3, 5, 6), 3, 2, 1, "contiguous"),
    "stride-2-channels-last": ((1, 1, 5, 4, 5), 3, 2, 1, "channels_last"),
    "stride-beyond-the-map": ((1, 1, 2, 1, 3), 3, 4, 1, "contiguous"),
    "dilation-2": ((1, 1, 3, 6, 7), 3, 1, 2, "contiguous"),
    "dilation-2-reflected-twice": ((1, 1, 3, 2, 3), 3, 1, 2, "contiguous"),
    "stride-2-dilation-2": ((1, 1, 3, 7, 6), 3, 2, 2, "sliced"),
    "dilation-beyond-the-map": ((1, 1, 3, 3, 2), 5, 1, 10**9, "contiguous"),
    "one-channel": ((1, 2, 1, 4, 5), 3, 1, 1, "contiguous"),
}

# [B, D, P, H, W], outputs of a group, kernel, stride, dilation, bias, layout.
CONVOLUTION = {
    "layer": ((2, 2, 12, 9, 7), 4, 3, 1, 1, False, "contiguous"),
    "bias": ((1, 3, 6, 5, 4), 2, 3, 1, 1, True, "contiguous"),
    "images-inside-channels": ((2, 2, 6, 5, 4), 2, 3, 1, 1, False, "inside"),
    "K5": ((1, 2, 5, 4, 6), 7, 5, 1, 1, False, "contiguous"),
    "K1": ((2, 1, 3, 2, 2), 1, 1, 1, 1, True, "contiguous"),
    "one-pixel": ((1, 2, 5, 1, 1), 3, 3, 2, 1, True, "contiguous"),
    "stride-2": ((1, 2, 12, 6, 5), 4, 3, 2, 1, False, "contiguous"),
    "dilation-2": ((1, 2, 3, 7, 9), 1, 3, 1, 2, True, "contiguous"),
    "stride-3-dilation-2": ((1, 1, 3, 7, 9), 2, 3, 3, 2, False, "sliced"),
    "channels-last": ((2, 2, 6, 5, 4), 2, 3, 1, 1, False, "channels_last"),
    "more-blocks-than-chunks": ((2, 1, 3, 40, 40), 1, 1, 1, 1, False, "contiguous"),
}


# [B, N, D, H, W], K, layout: what runs on matrix units.
MATRICES = {
    "several-blocks": ((1, 2, 32, 9, 11), 7, "contiguous"),
    "channels-last": ((1, 1, 40, 5, 20), 5, "channels_last"),
    "wide": ((1, 1, 128, 3, 17), 5, "sliced"),
    "smaller-than-the-window": ((2, 1, 32, 3, 2), 7, "expanded"),
    "one-pixel": ((1, 1, 32, 1, 1), 5, "contiguous"),
}


# [B, N, D, H, W], layout: heads wider than a warp holds, and wider than a program does.
WIDE = {
    "513-channels": ((1, 1, 513, 2, 3), "contiguous"),
    "600-channels-last": ((1, 2, 600, 3, 2), "channels_last"),
    "1024-channels": ((1, 1, 1024, 2, 2), "contiguous"),
    "2100-channels-last": ((1, 1, 2100, 2, 2), "channels_last"),
}


def made(shape: tuple[int, ...], layout: str, seed: int) -> Tensor:
    make: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    if layout == "channels_last":
        batch, first, second, height, width = shape
        return torch.randn(batch, height, width, first, second, **make).permute(0, 3, 4, 1, 2)
    if layout == "inside":
        return torch.randn(*shape[1:3], shape[0], *shape[3:], **make).permute(2, 0, 1, 3, 4)
    if layout == "sliced":
        return torch.randn(*shape[:2], 2 * shape[2], shape[3], 2 * shape[4], **make)[:, :, ::2, :, ::2]
    if layout == "expanded":
        return torch.randn(1, *shape[1:4], 1, **make).expand(shape)
    return torch.randn(shape, **make)


def cast(x: Tensor, dtype: torch.dtype, device: str | torch.device | None = None) -> Tensor:
    """In another dtype, on another device, with the same strides: `to` makes what has gaps, or is expanded, dense."""
    numbers = x.untyped_storage().nbytes() // x.element_size()
    whole = x.detach().as_strided((numbers,), (1,), 0).to(device or x.device, dtype)
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


def answers(inputs: list[Tensor], dtype: torch.dtype, call: Any) -> list[Tensor]:
    """The output and the gradient of every input, in float64."""
    leaves = [cast(x, dtype).requires_grad_() for x in inputs]
    out = call(*leaves)
    grad = torch.sin(torch.arange(out.numel(), dtype=torch.float64, device=out.device)).reshape(out.shape).to(dtype)
    return [x.detach().double() for x in (out, *torch.autograd.grad(out, leaves, grad))]


def compare(inputs: list[Tensor], dtype: torch.dtype, ours: Any, reference: Any) -> None:
    """Our error against float64 is no larger than the reference's in the same dtype plus some roundings.

    One rounding of the largest entry; in float32, where sums run in another order than eager's and where what cancels
    altogether there leaves a rest here, four of the largest entry of all results.
    """
    inputs = [cast(cast(x, dtype), torch.float64) for x in inputs]
    truth, eager = answers(inputs, torch.float64, reference), answers(inputs, dtype, reference)
    largest = max(float(exact.abs().max()) for exact in truth)
    for place, (exact, theirs, mine) in enumerate(zip(truth, eager, answers(inputs, dtype, ours), strict=True)):
        assert mine.isfinite().all(), place
        rounding = torch.finfo(dtype).eps * (4 * largest if dtype == torch.float32 else exact.abs().max())
        assert (mine - exact).abs().max() <= (theirs - exact).abs().max() + rounding, place


def compare_attention(case: tuple[Any, ...], dtype: torch.dtype, position: bool = True, device: str = "cpu") -> None:
    shape, kernel_size, stride, dilation, layout = case
    inputs = [made(shape, layout, seed) for seed in range(3)]
    if position:
        # Not expanded: keys that are alike in a row cancel out of the gradients, which then are roundings alone.
        inputs.append(made(shape, "contiguous" if layout == "expanded" else layout, 3)[0, 0])
    inputs = [cast(x, x.dtype, device) for x in inputs]

    def attend(impl: str) -> Any:
        options = {"stride": stride, "dilation": dilation, "impl": impl}
        return lambda q, k, v, p=None: local_attention(q, k, v, kernel_size, position=p, **options)

    compare(inputs, dtype, attend("triton"), attend("reference"))


def compare_convolution(case: tuple[Any, ...], dtype: torch.dtype, form: str = "composed", device: str = "cpu") -> None:
    shape, outputs, kernel, stride, dilation, bias, layout = case
    maps = kernel**2
    shapes = [(maps, shape[2]), (shape[1] * outputs, maps, kernel, kernel), (maps,)][: 2 + bias]
    inputs = [made(shape, layout, 0), *(made(s, "contiguous", seed) for seed, s in enumerate(shapes, 1))]
    inputs = [cast(x, x.dtype, device) for x in inputs]
    options = {"stride": stride, "dilation": dilation}

    def ours(*x: Tensor) -> Tensor:
        return convolution_path(*x, form=form, impl="triton", **options)

    def reference(*x: Tensor) -> Tensor:
        return convolution_path(*x, impl="reference", **options)

    compare(inputs, dtype, ours, reference)
