"""One stage of the Pyramid Vision Transformer (PVT v1): patches, positions, class token, blocks."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.layers.weight_init import trunc_normal_
from timm.models import checkpoint
from timm.models.twins import Block, GlobalSubSampleAttn
from torch import Tensor, nn

from acmix.models.options import Mixer
from acmix.nn.spatial_reduction import (
    Size,
    SpatialReductionACmix,
    pad_to_multiple,
    reduce_tokens,
    with_mean,
)
from acmix.nn.two_paths import Factory
from acmix.ops.token_attention import token_attention
from acmix.ops.tracing import is_tracing

__all__: list[str] = [
    "ConvolutionMixer",
    "PVTBlock",
    "PVTMixer",
    "PVTStage",
    "PositionEmbedding",
    "SubSampleAttention",
    "resize_positions",
]

PVTMixer = Mixer | Literal["attention"]


class SubSampleAttention(GlobalSubSampleAttn):
    """timm's spatial-reduction attention, which is PVT's, for any size of map and with tokens before it.

    A map that is no multiple of the reduction gets rows and columns of zeros at its bottom and right, which become
    part of the last keys; timm drops those pixels.

    Args:
        dim: channels C.
        num_heads: heads N.
        num_prefix_tokens: tokens T before the map's, which are not reduced.
        **kwargs: as timm's `GlobalSubSampleAttn`: `sr_ratio`, `attn_drop`, `proj_drop`, `device`, `dtype`.
    """

    def __init__(self, dim: int, num_heads: int, num_prefix_tokens: int = 0, **kwargs: Any) -> None:
        super().__init__(dim, num_heads, **kwargs)
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """[B, T + H * W, C] -> the same."""
        keys, _ = reduce_tokens(x, size, self.num_prefix_tokens, self.sr, self.norm)
        dropout = self.attn_drop.p if self.training else 0.0
        out: Tensor = self.proj(token_attention(self.q(x), self.kv(keys), self.num_heads, dropout=dropout))
        return self.proj_drop(out)  # type: ignore[no-any-return]  # timm is not typed


class ConvolutionMixer(nn.Module):
    """A C x C convolution where the attention was (second row of Table 6); tokens before the map get its mean.

    Args:
        channels: channels C.
        num_prefix_tokens: tokens T before the map's.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        channels: int,
        num_prefix_tokens: int = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """[B, T + H * W, C] -> the same."""
        pixels = x[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, size)
        return with_mean(self.conv(pixels).flatten(2).transpose(1, 2), self.num_prefix_tokens)


class PVTBlock(Block):
    """timm's Twins block, which is PVT's, with a choice of what mixes the tokens.

    Args:
        dim: channels C.
        num_heads: heads N.
        num_prefix_tokens: tokens T before the map's.
        sr_ratio: side of the squares of pixels that become one key each.
        mixer: "attention" for PVT's own, "acmix", or "conv" for a 3x3 convolution.
        acmix: options of `SpatialReductionACmix`.
        proj_drop: dropout rate of the mixer's output and in the MLP.
        attn_drop: dropout rate of the attention weights.
        device: where the parameters are made.
        dtype: dtype of the parameters.
        **kwargs: as timm's `Block`: `mlp_ratio`, `drop_path`, `norm_layer`.
    """

    def __init__(  # noqa: PLR0913  # ruff counts what stands after `*`
        self,
        dim: int,
        num_heads: int,
        num_prefix_tokens: int,
        sr_ratio: int,
        *,
        mixer: PVTMixer = "attention",
        acmix: Mapping[str, Any] | None = None,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        made: Factory = {"device": device, "dtype": dtype}
        super().__init__(dim, num_heads, proj_drop=proj_drop, ws=1, **made, **kwargs)
        drops = {"attn_drop": attn_drop, "proj_drop": proj_drop}
        if mixer == "acmix":
            tokens = {"reduction": sr_ratio, "num_prefix_tokens": num_prefix_tokens}
            options: dict[str, Any] = {**tokens, **drops, **made, **(acmix or {})}
            attention: nn.Module = SpatialReductionACmix(dim, num_heads, **options)
        elif mixer == "conv":
            attention = ConvolutionMixer(dim, num_prefix_tokens, **made)
        else:
            attention = SubSampleAttention(dim, num_heads, num_prefix_tokens, sr_ratio=sr_ratio, **drops, **made)
        self.add_module("attn", attention)


class PositionEmbedding(nn.Module):
    """Adds learned positions to patches, and puts the class token before them where there is one.

    Args:
        dim: channels C.
        grid: size of the map of patches that the positions are made for; others get them interpolated.
        class_token: whether a learned token stands before the patches.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    cls_token: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        grid: Size,
        class_token: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: Factory = {"device": device, "dtype": dtype}
        self.grid, self.num_prefix_tokens = grid, int(class_token)
        self.register_parameter("cls_token", nn.Parameter(torch.empty(1, 1, dim, **made)) if class_token else None)
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_prefix_tokens + grid[0] * grid[1], dim, **made))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start as PVT does."""
        for parameter in self.parameters():
            trunc_normal_(parameter, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, T + H * W, C]."""
        size, x = (patches.shape[1], patches.shape[2]), patches.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        if not is_tracing() and size == self.grid:
            return x + self.pos_embed
        return x + resize_positions(self.pos_embed, self.grid, size)


class PVTStage(nn.Module):
    """A map becomes patches, and these tokens of a smaller map that blocks mix.

    Args:
        in_chans: channels of the map that comes in.
        patch_size: side of the patches. A map that is no multiple gets zeros at its bottom and right.
        position: positions of C channels.
        blocks: the blocks.
        pos_drop: dropout rate behind the position embedding.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        in_chans: int,
        patch_size: int,
        position: PositionEmbedding,
        blocks: list[PVTBlock],
        *,
        pos_drop: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dim = position.pos_embed.shape[2]
        embed = partial(PatchEmbed, None, norm_layer=nn.LayerNorm, output_fmt="NHWC", strict_img_size=False)
        self.patch_embed = embed(patch_size, in_chans, dim, device=device, dtype=dtype)
        self.position, self.num_prefix_tokens = position, position.num_prefix_tokens
        self.pos_drop = nn.Dropout(pos_drop)
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        """[B, C_in, H, W] -> tokens [B, T + h * w, C] and (h, w)."""
        patches = self.patch_embed(pad_to_multiple(x, self.patch_embed.patch_size[0]))
        size = patches.shape[1:3]
        x = self.pos_drop(self.position(patches))
        for block in self.blocks:
            x = checkpoint(block, x, size) if self.grad_checkpointing else block(x, size)
        return x, size


def resize_positions(positions: Tensor, old: Size, new: Size) -> Tensor:
    """Position embeddings of a map of another size, bilinearly as in PVT: [1, T + h * w, C] -> [1, T + h' * w', C]."""
    prefix, grid = positions.split([positions.shape[1] - old[0] * old[1], old[0] * old[1]], 1)
    maps = grid.unflatten(1, old).permute(0, 3, 1, 2).to(torch.promote_types(grid.dtype, torch.float32))
    maps = F.interpolate(maps, size=new, mode="bilinear", align_corners=False)
    return torch.cat([prefix, maps.flatten(2).transpose(1, 2).to(grid.dtype)], 1)
