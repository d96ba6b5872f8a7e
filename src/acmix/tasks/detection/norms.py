"""Norms of pyramids and heads, by name."""

from collections.abc import Callable

from torch import Tensor, nn

from acmix.tasks.detection.settings import Norm

__all__ = ["norm_layer", "widened"]

# As published (Wu and He 2018): 32 groups, which are of 8 channels in a pyramid of 256.
_GROUPS, _CHANNELS = 32, 8


def norm_layer(norm: Norm) -> Callable[[int], nn.Module] | None:
    """What makes a norm for a number of channels; None for `none`."""
    made: dict[str, Callable[[int], nn.Module] | None] = {"none": None, "batch": nn.BatchNorm2d, "group": _group_norm}
    return made[norm]


def _group_norm(channels: int) -> nn.GroupNorm:
    most = min(_GROUPS, max(channels // _CHANNELS, 1))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


def widened(values: Tensor) -> Tensor:
    """The values in at least 32 bits.

    Autocast makes layers give out 16 bits. As torchvision computes anchors and boxes in the dtype of maps and offsets,
    they would be rounded to several pixels.
    """
    return values.float() if values.dtype.itemsize < 4 else values
