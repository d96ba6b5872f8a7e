"""The parts of timm's Swin that Swin-ACmix exchanges, each a subclass of timm's that a part becomes in its place."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from acmix.nn import ShiftedWindowACmix

__all__ = ["ACmixSwinBlock", "ConvSwinBlock", "PaddedPatchEmbed", "PaddedPatchMerging", "attend", "convolve"]


class _FreeBlock(SwinTransformerBlock):
    """timm's block without a mask of its own, for any map and any batch."""

    def _init_buffers(self) -> None:
        """No mask is kept: what needs one makes it for its input."""

    def _attn(self, x: Tensor) -> Tensor:
        """What mixes pixels; the blocks below say."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + self.drop_path1(self._attn(self.norm1(x)))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


class ACmixSwinBlock(_FreeBlock):
    """timm's block whose `attn` is a `ShiftedWindowACmix`, which shifts, pads and masks by itself."""

    attn: ShiftedWindowACmix  # type: ignore[assignment]  # what this block is for

    def set_input_size(
        self, feat_size: tuple[int, int], window_size: tuple[int, int], always_partition: bool | None = None
    ) -> None:
        """As timm's: windows no larger than the map, and no shift where one window covers it."""
        super().set_input_size(feat_size, window_size, always_partition)
        self.attn.set_window_size(self.window_size, self.shift_size)

    def _attn(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x)
        return out


class ConvSwinBlock(_FreeBlock):
    """timm's block with a 3x3 convolution in place of attention and its projections (second row of paper Table 6)."""

    conv: nn.Conv2d

    def set_input_size(
        self, feat_size: tuple[int, int], window_size: tuple[int, int], always_partition: bool | None = None
    ) -> None:
        """A convolution takes any size."""
        self.input_resolution = feat_size

    def _attn(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.permute(0, 3, 1, 2))
        return out.permute(0, 2, 3, 1)


class PaddedPatchEmbed(PatchEmbed):
    """timm's patch embedding for images of any size: what a patch lacks at the lower and right border is zero."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, ceil(H / p), ceil(W / p), C']."""
        if not self.strict_img_size:
            x = _pad_to_multiple(x, (2, 3), self.patch_size)
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # timm types it in part
        return out


class PaddedPatchMerging(PatchMerging):
    """timm's patch merging, whose padding a graph for all sizes can hold."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C']."""
        out: Tensor = super().forward(_pad_to_multiple(x, (1, 2), (2, 2)))
        return out


def _pad_to_multiple(x: Tensor, dims: tuple[int, int], parts: tuple[int, int]) -> Tensor:
    """Zeros below and to the right. The sums are such that symbolic sizes cancel: whole parts stay whole parts."""
    below, right = (-(-x.shape[dim] // part) * part - x.shape[dim] for dim, part in zip(dims, parts, strict=True))
    # A graph for all sizes must not ask whether there is something to pad.
    if not torch.compiler.is_exporting() and below == 0 and right == 0:
        return x
    channels = (0, 0) if dims[1] < x.dim() - 1 else ()
    return F.pad(x, (*channels, 0, right, 0, below))


def attend(block: SwinTransformerBlock, options: Mapping[str, Any]) -> None:
    """Make a block of timm's an `ACmixSwinBlock`."""
    theirs = block.attn
    layer = ShiftedWindowACmix(
        block.dim,
        theirs.num_heads,
        block.window_size,
        block.shift_size,
        head_dim=theirs.qkv.out_features // (3 * theirs.num_heads),
        qkv_bias=theirs.qkv.bias is not None,
        attn_drop=theirs.attn_drop.p,
        proj_drop=theirs.proj_drop.p,
        **options,
    )
    _become(block, ACmixSwinBlock, attn=layer)


def convolve(block: SwinTransformerBlock, made: Mapping[str, Any]) -> None:
    """Make a block of timm's a `ConvSwinBlock`."""
    _become(block, ConvSwinBlock, conv=nn.Conv2d(block.dim, block.dim, 3, padding=1, **made))


def _become(block: SwinTransformerBlock, kind: type[SwinTransformerBlock], **layer: nn.Module) -> None:
    """Make a block another one once it is there: timm's stages name the class of their blocks themselves."""
    del block.attn, block.attn_mask
    for name, module in layer.items():
        block.add_module(name, module)
    block.__class__ = kind
