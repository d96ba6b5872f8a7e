"""The learnable shifts of the convolution path."""

import torch
from torch import Tensor, nn

__all__ = ["ShiftKernels", "shift_kernels"]


def shift_kernels(
    kernel_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """One-hot kernels: [k * k, k, k], the one of map i standing at row i // k, column i % k (paper Eq. 14-17)."""
    maps = kernel_size**2
    return torch.eye(maps, device=device, dtype=dtype).reshape(maps, kernel_size, kernel_size)


class ShiftKernels(nn.Module):
    """N sets of k * k shift kernels as the weight of a group convolution (paper Fig. 3 c.III).

    Not an `nn.Conv2d`, so that a network which initialises its convolutions leaves the shifts as they are.

    Args:
        channels: output channels C.
        kernel_size: kernel side k.
        bias: whether the group convolution has a bias [C]; the authors' has none.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (channels, kernel_size**2, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias: nn.Parameter | None
        if bias:
            self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Every kernel back to its shift, the bias to zero."""
        self.weight.copy_(shift_kernels(self.weight.shape[-1], self.weight.device, self.weight.dtype))
        if self.bias is not None:
            self.bias.zero_()

    def extra_repr(self) -> str:
        """The arguments that `print(layer)` shows."""
        channels, maps, kernel, _ = self.weight.shape
        return f"{channels}, maps={maps}, kernel_size={kernel}, bias={self.bias is not None}"
