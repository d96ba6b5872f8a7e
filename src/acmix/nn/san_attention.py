"""What SAN's patchwise and pairwise attention have in common: widths, projections, checks."""

import torch
from torch import Tensor, nn

from acmix.nn.batch_statistics import project
from acmix.nn.two_paths import Factory, present
from acmix.ops.autocast import autocast
from acmix.ops.checks import check_positive, check_tensors, check_window
from acmix.ops.dispatch import check_impl
from acmix.ops.tracing import is_tracing

__all__ = ["SANAttention", "check_san_input", "check_san_widths"]


class SANAttention(nn.Module):
    """Base of SAN's two attentions, which make their weights of q and k in their own ways.

    Channels whose indices are equal modulo `out_channels // share` have their weights in common. Any H, W >= 1.

    Args:
        in_channels: channels of the input.
        out_channels: channels C of values and output, a multiple of `share`.
        kernel_size: window side K, odd.
        width: channels of q and of k; SAN has a quarter of `out_channels`, which None stands for.
        share: how many channels have one weight in common.
        impl: backend of all ops, see `acmix.functional.neighbourhood_aggregate`.
        device: where the parameters are made.
        dtype: dtype of the parameters.

    Raises:
        ValueError: an argument is out of its range, or the backend has not all of the ops; the message names it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 7,
        *,
        width: int | None = None,
        share: int = 8,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        op = type(self).__name__
        width = max(out_channels // 4, 1) if width is None else width
        check_san_widths(op, in_channels, out_channels, width, share, kernel_size)
        check_impl(op, impl, ("neighbourhood_aggregate", "neighbourhood_project"))
        self.in_channels, self.kernel_size, self.impl = in_channels, kernel_size, impl
        made: Factory = {"device": device, "dtype": dtype}
        self.query = nn.Conv2d(in_channels, width, 1, **made)
        self.key = nn.Conv2d(in_channels, width, 1, **made)
        self.value = nn.Conv2d(in_channels, out_channels, 1, **made)
        self._add_weights(width, out_channels // share, made)

    def _add_weights(self, width: int, groups: int, made: Factory) -> None:
        """Give the layer what makes `groups` weights an offset from `width` channels of q and of k."""
        raise NotImplementedError

    def project(self, x: Tensor, norm: nn.Module | None) -> tuple[Tensor, ...]:
        """[B, C_in, H, W], through `norm` and ReLU if there is one, -> q, k and v, as one convolution."""
        check_san_input(type(self).__name__, x, self.in_channels)
        convolutions = (self.query, self.key, self.value)
        weight = torch.cat([autocast(conv.weight) for conv in convolutions])
        bias = torch.cat([autocast(present(conv.bias)) for conv in convolutions])
        together = project(x, norm, weight, bias, self.impl)
        return tuple(torch.split(together, [conv.out_channels for conv in convolutions], 1))


def check_san_widths(op: str, in_channels: int, out_channels: int, width: int, share: int, kernel_size: int) -> None:
    """Raise ValueError, named after `op`, unless SAN's attention can be made of these."""
    check_window(op, "the attention window's side", kernel_size)
    check_positive(op, in_channels=in_channels, out_channels=out_channels, width=width, share=share)
    if out_channels % share:
        raise ValueError(f"{op}: out_channels={out_channels} is no multiple of share={share}; change one.")


def check_san_input(op: str, x: Tensor, channels: int) -> None:
    """Raise TypeError or ValueError, named after `op`, unless x is a floating-point map of so many channels."""
    if is_tracing():
        return
    check_tensors(op, {"the input": x})
    if x.dim() != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        expected = f"[B, {channels}, H, W] with H, W >= 1"
        raise ValueError(f"{op}: the input has shape {tuple(x.shape)}, expected {expected}.")
