"""Shift and sum: how the convolution path brings its k * k maps to their places (paper Fig. 3, Table 7)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["SHIFTS", "SHIFT_INITS", "Shift", "ShiftInit", "ShiftKernels", "shift_kernels"]

Shift = Literal["group", "learnable", "fixed", "tensor"]
ShiftInit = Literal["shift", "random"]
SHIFTS: tuple[str, ...] = get_args(Shift)
SHIFT_INITS: tuple[str, ...] = get_args(ShiftInit)


def shift_kernels(
    kernel_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """One-hot kernels: [k * k, k, k], the one of map i standing at row i // k, column i % k (paper Eq. 14-17)."""
    maps = kernel_size**2
    return torch.eye(maps, device=device, dtype=dtype).reshape(maps, kernel_size, kernel_size)


class ShiftKernels(nn.Module):
    """The kernels of the group convolution that shifts and sums, started as shifts.

    Not an `nn.Conv2d`, so that a network which initialises its convolutions leaves the shifts as they are.

    Args:
        channels: output channels C.
        groups: groups D of the convolution.
        kernel_size: kernel side k.
        form: "group" for N = C / D sets of kernels, "learnable" for one set, "fixed" for one that is a buffer, "tensor"
            for no kernels at all. All but "group" give D maps, each of which serves N consecutive output channels.
        init: "shift", or "random" as `nn.Conv2d` starts.
        bias: whether there is a bias [C]; the authors' code has none.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    weight: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        groups: int,
        kernel_size: int,
        *,
        form: Shift = "group",
        init: ShiftInit = "shift",
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.form, self.init = form, init
        self.channels, self.shared_by = channels, 1 if form == "group" else channels // groups
        shape = (channels // self.shared_by, kernel_size**2, kernel_size, kernel_size)
        weight = None if form == "tensor" else torch.empty(shape, device=device, dtype=dtype)
        if form == "fixed":
            self.register_buffer("weight", weight)
        else:
            self.register_parameter("weight", None if weight is None else nn.Parameter(weight))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Every kernel back to its shift, or to new random numbers; the bias to zero."""
        if self.weight is not None and self.init == "random":
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        elif self.weight is not None:
            self.weight.copy_(shift_kernels(self.weight.shape[-1], self.weight.device, self.weight.dtype))
        if self.bias is not None:
            self.bias.zero_()

    def extra_repr(self) -> str:
        """The arguments that `print(layer)` shows."""
        return f"{self.channels}, form={self.form!r}, init={self.init!r}, bias={self.bias is not None}"
