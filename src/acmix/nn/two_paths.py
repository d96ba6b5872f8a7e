"""The part of ACmix that every host shares: the convolution path and the two rates (paper Eq. 13 to 17)."""

from typing import Literal, NamedTuple, TypedDict, get_args

import torch
from torch import Tensor, nn

from acmix.functional import convolution_path, shift_and_sum
from acmix.nn.parameters import child_of, parameter_of
from acmix.nn.shift import SHIFT_INITS, SHIFTS, Shift, ShiftInit, ShiftKernels
from acmix.ops.checks import check_positive, check_window
from acmix.ops.dispatch import check_impl
from acmix.ops.layout import as_pieces_output
from acmix.ops.problem import OpName

__all__ = ["PATHS", "RATES", "ACmixPaths", "Factory", "PathOptions", "Paths", "Rates", "TwoPaths", "Window", "present"]

Paths = Literal["both", "attention", "convolution"]
Rates = Literal["alpha,beta", "alpha,1-alpha", "alpha,1", "1,1"]
PATHS: tuple[str, ...] = get_args(Paths)
RATES: tuple[str, ...] = get_args(Rates)


class ACmixPaths(NamedTuple):
    """What the two paths contribute to the output, each in its shape and rates included; None for a dropped path."""

    attention: Tensor | None
    convolution: Tensor | None


class Factory(TypedDict):
    """Where and as what parameters are made."""

    device: torch.device | str | None
    dtype: torch.dtype | None


class Window(TypedDict):
    """How both paths walk over the map."""

    stride: int
    dilation: int


class PathOptions(TypedDict, total=False):
    """The keyword options that every ACmix layer has beside `kernel_conv` and those of its host; see `TwoPaths`."""

    conv_bias: bool
    paths: Paths
    rates: Rates
    shift: Shift
    shift_init: ShiftInit
    impl: str
    device: torch.device | str | None
    dtype: torch.dtype | None


class TwoPaths(nn.Module):
    """Base of the ACmix layers: `alpha * attention + beta * convolution`; hosts bring projections and attention.

    A host's `forward` computes q, k and v, its own attention from them, `self.convolve(pieces)` from the same, and
    returns `self.mix(attention, convolution)`.

    Args:
        channels: output channels C.
        groups: width D of the pieces; the group convolution has as many groups.
        pieces: number P of pieces that the FC mixes, 3N where q, k and v have N heads each.
        fc_bias: whether the FC has a bias; the authors' has one in Swin.
        kernel_conv: side k of the shift kernels, odd.
        conv_bias: whether the convolution path has a bias; the authors' has none.
        paths: "both", or "attention" or "convolution" alone; the other path and its rate are then dropped (Table 6).
        rates: "alpha,beta" for two learned rates; "alpha,1-alpha", "alpha,1" or "1,1" for less freedom (Table 6).
        shift: how maps are shifted and summed (Fig. 3, Table 7): "group" with N sets of learned kernels, the paper's
            choice; "learnable" with one set; "fixed" with one that stays as it starts; "tensor" by slices and sums.
            All but "group" make D maps, each of which serves N consecutive output channels.
        shift_init: "shift", or "random" for kernels that start as `nn.Conv2d` does (Table 7).
        impl: backend of all ops of the layer, attention's too, see `acmix.functional.local_attention`; "auto" chooses
            for each op by itself. Tensor shifts are plain slices and sums and know no backends.
        device: where the parameters are made.
        dtype: dtype of the parameters.

    Attributes:
        alpha: rate of the attention path, parameter of shape (1,), 0.5 at the start; None where it is not learned.
        beta: rate of the convolution path, likewise.

    Raises:
        ValueError: an argument is out of its range, or the backend has not all of the ops; the message names it.
    """

    alpha: nn.Parameter | None
    beta: nn.Parameter | None

    def __init__(  # noqa: PLR0913  # ruff counts what stands after `*`
        self,
        channels: int,
        groups: int,
        pieces: int,
        *,
        fc_bias: bool = False,
        kernel_conv: int = 3,
        conv_bias: bool = False,
        paths: Paths = "both",
        rates: Rates = "alpha,beta",
        shift: Shift = "group",
        shift_init: ShiftInit = "shift",
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        check_window(op, "kernel_conv", kernel_conv)
        check_positive(op, channels=channels, groups=groups, pieces=pieces)
        _check_choice(op, "paths", paths, PATHS)
        _check_choice(op, "rates", rates, RATES)
        _check_choice(op, "shift", shift, SHIFTS)
        _check_choice(op, "shift_init", shift_init, SHIFT_INITS)
        convolves, attends = paths != "attention", paths != "convolution"
        ops: tuple[OpName, ...] = ("convolution_path",) if convolves and shift != "tensor" else ()
        check_impl(op, impl, ops + self.attention_ops(paths))
        if rates == "alpha,1-alpha" and paths != "both":
            raise ValueError(f"{op}: rates={rates!r} with paths={paths!r}, which has one rate; use 'alpha,beta'.")
        if shift in ("fixed", "tensor") and shift_init != "shift":
            raise ValueError(f"{op}: shift_init={shift_init!r} with shift={shift!r}, which learns no kernels.")
        if channels % groups:
            raise ValueError(f"{op}: {channels} output channels are no multiple of the width {groups} of the pieces.")
        self.kernel_conv, self.paths, self.rates, self.impl = kernel_conv, paths, rates, impl
        made: Factory = {"device": device, "dtype": dtype}
        self._add_rate("alpha", attends and rates != "1,1", made)
        self._add_rate("beta", convolves and rates == "alpha,beta", made)
        if convolves:
            self.fc = nn.Conv2d(pieces, kernel_conv**2, 1, bias=fc_bias, **made)
            kernels = ShiftKernels(channels, groups, kernel_conv, form=shift, init=shift_init, bias=conv_bias, **made)
            self.shift = kernels
        self.reset_rates()

    @classmethod
    def attention_ops(cls, paths: Paths) -> tuple[OpName, ...]:
        """The ops that a host calls for its attention; the backend that `impl` names must have all of them."""
        del paths
        return ()

    def _add_rate(self, name: str, learned: bool, made: Factory) -> None:
        self.register_parameter(name, nn.Parameter(torch.empty(1, **made)) if learned else None)

    @torch.no_grad()
    def reset_rates(self) -> None:
        """Both rates back to 0.5."""
        for rate in (self.alpha, self.beta):
            if rate is not None:
                rate.fill_(0.5)

    def reset_parameters(self) -> None:
        """Every part as it starts: projections as torch starts them, shift kernels as shifts, both rates 0.5."""
        for child in self.children():
            child.reset_parameters()  # type: ignore[operator]  # every child of such a layer has the method
        self.reset_rates()

    def rate_values(self) -> tuple[float | None, float | None]:
        """What attention and convolution are multiplied with, learned or not; None for a dropped path."""
        alpha = None if self.paths == "convolution" else 1.0 if self.alpha is None else float(self.alpha.detach())
        if self.paths == "attention":
            return alpha, None
        beta = self._beta()
        return alpha, 1.0 if beta is None else float(beta.detach())

    def _beta(self) -> Tensor | None:
        """The convolution path's rate; None where it is 1."""
        if self.rates == "alpha,1-alpha" and self.alpha is not None:
            return 1 - self.alpha
        return parameter_of(self, "beta")

    def convolve(self, pieces: Tensor, stride: int = 1, dilation: int = 1) -> Tensor | None:
        """The convolution path with its rate: [B, D, P, H, W] -> [B, C, H', W']; None where the path is dropped."""
        if self.paths == "attention":
            return None
        kernels = self.shift
        fc_weight = self.fc_weight(pieces.dtype)
        fc_bias = None if self.fc.bias is None else _scaled(self.fc.bias, self._beta(), pieces.dtype)
        window: Window = {"stride": stride, "dilation": dilation}
        if kernels.weight is None:
            maps = torch.einsum("ij,bdjhw->bdihw", fc_weight, pieces)
            # autocast casts what einsum gives, not what is added to it.
            out = shift_and_sum(maps if fc_bias is None else maps + fc_bias.to(maps.dtype)[:, None, None], **window)
        else:
            weight = kernels.weight.to(pieces.dtype)
            out = convolution_path(pieces, fc_weight, weight, fc_bias, impl=self.impl, **window)
        if kernels.shared_by > 1:
            out = as_pieces_output(out.repeat_interleave(kernels.shared_by, 1), pieces)
        return self.with_bias(out)

    def fc_weight(self, dtype: torch.dtype) -> Tensor:
        """The FC's weight [k * k, P] with the convolution path's rate.

        Scaling the path's output instead would keep another map for the backward pass.
        """
        return _scaled(self.fc.weight.flatten(1), self._beta(), dtype)

    def with_bias(self, out: Tensor) -> Tensor:
        """`out` [B, C, H', W'] plus the convolution path's bias, where it has one, with its rate."""
        bias = parameter_of(child_of(self, "shift"), "bias")
        return out if bias is None else out + _scaled(bias, self._beta(), out.dtype)[:, None, None]

    def attended(self, attention: Tensor) -> Tensor:
        """The attention path with its rate."""
        return attention if self.alpha is None else attention * self.alpha.to(attention.dtype)

    def mix(self, attention: Tensor | None, convolution: Tensor | None) -> Tensor:
        """`alpha * attention + convolution`, of one shape; the convolution has its rate from `convolve`."""
        if attention is None or convolution is None:
            return present(convolution) if attention is None else self.attended(attention)
        if self.alpha is None:
            return attention + convolution
        return torch.addcmul(convolution, attention, self.alpha.to(attention.dtype))

    def path_repr(self) -> str:
        """The options that `print(layer)` shows."""
        return f"kernel_conv={self.kernel_conv}, paths={self.paths!r}, rates={self.rates!r}, impl={self.impl!r}"


def _scaled(x: Tensor, rate: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (x if rate is None else x * rate).to(dtype)


def _check_choice(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{op}: {name}={value!r}, expected one of {choices}.")


def present(x: Tensor | None) -> Tensor:
    """Narrow the type where a path is known to be there."""
    if x is None:
        raise RuntimeError("ACmix: both paths are dropped; one of them must be there.")
    return x
