"""The door of the convolution path."""

from typing import Final

from torch import Tensor

from acmix.ops.autocast import autocast
from acmix.ops.checks import check_positive, check_tensors, check_window
from acmix.ops.dispatch import choose_backend
from acmix.ops.impl.reference import convolution_path as reference
from acmix.ops.impl.torch import convolution_path as graph
from acmix.ops.library_convolution import convolution_path_op
from acmix.ops.problem import Problem
from acmix.ops.tracing import check_plain, fixed, is_tracing, wants_plain_functions

__all__ = ["FORMS", "cheaper_form", "convolution_path"]

FORMS: tuple[str, ...] = ("auto", "composed", "two_step")

_OP: Final = "convolution_path"


def _check(pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None) -> None:
    tensors = {"pieces": pieces, "fc_weight": fc_weight, "shift_weight": shift_weight}
    check_tensors(_OP, tensors | ({} if fc_bias is None else {"fc_bias": fc_bias}))
    if pieces.dim() != 5 or 0 in pieces.shape[1:]:
        raise ValueError(f"{_OP}: pieces has shape {tuple(pieces.shape)}, expected [B, D, P, H, W], only B may be 0.")
    if shift_weight.dim() != 4 or shift_weight.shape[2] != shift_weight.shape[3]:
        raise ValueError(f"{_OP}: shift_weight has shape {tuple(shift_weight.shape)}, expected [C, k * k, k, k].")
    check_window(_OP, "the kernel side of shift_weight", shift_weight.shape[3])
    maps, channels = shift_weight.shape[3] ** 2, shift_weight.shape[0]
    if shift_weight.shape[1] != maps or channels % pieces.shape[1]:
        groups = pieces.shape[1]
        raise ValueError(
            f"{_OP}: shift_weight has shape {tuple(shift_weight.shape)}, expected [C, k * k, k, k] with k * k = {maps} "
            f"and C a multiple of D = {groups}, the second size of pieces."
        )
    if fc_weight.shape != (maps, pieces.shape[2]):
        expected = (maps, pieces.shape[2])
        raise ValueError(f"{_OP}: fc_weight has shape {tuple(fc_weight.shape)}, expected [k * k, P] = {expected}.")
    if fc_bias is not None and fc_bias.shape != (maps,):
        raise ValueError(f"{_OP}: fc_bias has shape {tuple(fc_bias.shape)}, expected [k * k] = ({maps},).")


def cheaper_form(pieces: int, kernel: int, outputs: int) -> str:
    """The form with fewer multiply-adds for a pixel of a group; equal counts go to the one that moves less memory."""
    maps = kernel**2
    return "composed" if pieces * maps * outputs <= pieces * maps + maps * maps * outputs else "two_step"


def convolution_path(
    pieces: Tensor,
    fc_weight: Tensor,
    shift_weight: Tensor,
    fc_bias: Tensor | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
    form: str = "auto",
    impl: str = "auto",
) -> Tensor:
    """ACmix's second path: a light FC over the pieces, then shift and sum as a group convolution (paper Eq. 14-17).

    The FC mixes P pieces (3N in ACmix: the heads of q, k and v) into k * k maps, shared by the D channels and by all
    pixels. A group convolution with D groups then shifts and sums them, zeros outside of the map.

    Args:
        pieces: [B, D, P, H, W], the head width D first: each of the D groups reads P neighbouring channels.
        fc_weight: [k * k, P].
        shift_weight: [C, k * k, k, k], C = D * N; kernels of group d are rows d * N to d * N + N - 1.
        fc_bias: [k * k], added to the maps before the zero padding, or None.
        stride: stride s of the group convolution.
        dilation: distance between the kernels' taps in pixels, d.
        form: "two_step" as written above, "composed" into one group convolution of the pieces, or "auto" for the one
            with fewer multiply-adds. The reference knows one form only and takes "auto" or "two_step".
        impl: "auto" for the first backend that can run, or a backend's name; an explicit name never falls back.

    Returns:
        [B, C, ceil(H / s), ceil(W / s)], channel d * N + n, in the dtype of the pieces, or autocast's where that is on.

    Raises:
        ValueError: a shape, an option or a backend's name is wrong.
        TypeError: an input is no floating-point tensor, or dtypes or devices differ.
        RuntimeError: the backend asked for cannot run this; the message says why.
    """
    pieces, fc_weight, shift_weight = autocast(pieces), autocast(fc_weight), autocast(shift_weight)
    fc_bias = None if fc_bias is None else autocast(fc_bias)
    if not is_tracing():
        check_positive(_OP, stride=stride, dilation=dilation)
        _check(pieces, fc_weight, shift_weight, fc_bias)
        if form not in FORMS:
            raise ValueError(f"{_OP}: form={form!r}, expected one of {FORMS}.")
    kernel, groups = fixed(shift_weight.shape[3]), fixed(pieces.shape[1])
    device = pieces.device
    problem = Problem(_OP, device.type, pieces.dtype, kernel, groups, stride, dilation, device.index)
    backend = choose_backend(problem, impl)
    if backend == "reference":
        if form == "composed":
            raise ValueError(f"{_OP}: form='composed' with impl='reference', which is two-step; use impl='torch'.")
        return reference(pieces, fc_weight, shift_weight, fc_bias, stride=stride, dilation=dilation)
    if form == "auto":
        form = cheaper_form(fixed(pieces.shape[2]), kernel, fixed(shift_weight.shape[0]) // groups)
    if wants_plain_functions():
        check_plain(_OP, impl)
        return graph(pieces, (fc_weight, shift_weight, fc_bias), stride, dilation, form)
    return convolution_path_op(pieces, fc_weight, shift_weight, fc_bias, stride, dilation, form, backend)
