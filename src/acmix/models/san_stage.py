"""Stem, blocks and stages of SAN, and the choice of what mixes the pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers import DropPath
from timm.models import checkpoint_seq
from torch import Tensor, nn

from acmix.nn.batch_statistics import batch_norm_affine, project
from acmix.nn.pairwise import PairwiseAttention
from acmix.nn.patchwise import PatchwiseACmix, PatchwiseAttention
from acmix.nn.recompute import recomputed
from acmix.nn.two_paths import Factory, present
from acmix.ops.autocast import autocast
from acmix.ops.window_moments import projection_moments

__all__: list[str] = ["MIXERS", "SANBlock", "SANMixer", "SANStage", "SANStem", "make_mixer"]

SANMixer = Literal["patchwise", "pairwise", "acmix", "conv"]
MIXERS: tuple[str, ...] = get_args(SANMixer)


def make_mixer(name: str, channels: int, kernel_size: int, options: Mapping[str, Any]) -> nn.Module:
    """What takes the block's C channels to C / 4 and looks at the neighbours."""
    middle = channels // 4
    if name == "conv":
        return nn.Conv2d(channels, middle, 3, padding=1, **options)
    if name == "acmix":
        return PatchwiseACmix(channels, middle, kernel_size, **options)
    attention = PairwiseAttention if name == "pairwise" else PatchwiseAttention
    return attention(channels, middle, kernel_size, **options)


class SANBlock(nn.Module):
    """Norm, ReLU, mixer to a quarter of the channels, norm, ReLU, 1x1 convolution back, and the input added.

    Args:
        channels: channels C of input and output.
        mixer: the layer [B, C, H, W] -> [B, C / 4, H, W].
        drop_path: rate at which the branch is dropped in training.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        channels: int,
        mixer: nn.Module,
        *,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        self.bn1 = nn.BatchNorm2d(channels, **made)
        self.mixer = mixer
        self.bn2 = nn.BatchNorm2d(channels // 4, **made)
        self.conv = nn.Conv2d(channels // 4, channels, 1, **made)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        plain = isinstance(self.mixer, nn.Conv2d)
        branch = self.mixer(self.bn1(x).relu()) if plain else self.mixer(x, self.bn1)
        branch = project(branch, self.bn2, autocast(self.conv.weight), autocast(present(self.conv.bias)))
        out: Tensor = x + self.drop_path(branch)
        return out


class HalvingPool(nn.Module):
    """2x2 max pool of stride 2 that keeps an odd last row and column, so that every size works."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        if torch.compiler.is_compiling():
            # The same without a comparison of sizes, which an export for any size cannot have.
            return nn.functional.max_pool2d(nn.functional.pad(x, (0, 1, 0, 1), value=-math.inf), 2)
        return nn.functional.max_pool2d(x, 2, ceil_mode=True)


class SANStem(nn.Module):
    """1x1 convolution of the image, norm, ReLU and the first pool.

    The norm's statistics follow from means and covariances of the image's few channels, so that the network's largest
    map, all channels at the image's own size, lives for a moment only and is made again in the backward pass.

    Args:
        in_chans: channels of the images.
        channels: channels of the output.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        in_chans: int,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_chans, channels, 1, bias=False, **made)
        self.bn = nn.BatchNorm2d(channels, **made)
        self.pool = HalvingPool()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        weight = self.conv.weight.to(torch.promote_types(x.dtype, torch.float32))
        count = x.shape[0] * x.shape[2] * x.shape[3]
        scale, shift = batch_norm_affine(self.bn, lambda: projection_moments(x, weight.flatten(1)), count)
        weight = (weight * scale[:, None, None, None]).to(self.conv.weight.dtype)
        out: Tensor = recomputed(self._rest, x, weight, shift.to(weight.dtype))
        return out

    def _rest(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.pool(nn.functional.conv2d(x, weight, bias).relu_())
        return out


class SANStage(nn.Module):
    """2x2 max pool but for the first stage, 1x1 convolution, blocks, norm and ReLU.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        blocks: what stands between the convolution and the norm.
        pool: whether there is the max pool.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        blocks: Sequence[nn.Module],
        *,
        pool: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        self.pool = HalvingPool() if pool else nn.Identity()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False, **made)
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels, **made)
        self.act = nn.ReLU(inplace=True)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)], or of the input's size without the pool."""
        x = self.conv(self.pool(x))
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        out: Tensor = self.act(self.bn(x))
        return out
