"""The decoders of semantic segmentation, from the parts of segmentation_models_pytorch and torchvision."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log2
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.packages import require
from acmix.tasks.segmentation.norms import accept_single_values

__all__ = ["DecoderSettings", "SemanticFPN", "UperNet", "build_decoder"]

_GROUP_NORM = 32


@dataclass(frozen=True)
class DecoderSettings:
    """What stands on the backbone; the defaults are the published ones (paper Table 2 and the recipes it follows).

    Attributes:
        kind: `semantic_fpn` or `upernet`.
        channels: Channels of the pyramid; None: 256 in Semantic FPN, 512 in UperNet.
        branch_channels: Channels of Semantic FPN's segmentation branch, a multiple of 32.
        dropout: Probability with which a channel is dropped before the classifier.
        aux_weight: Weight of the auxiliary head's loss, 0 leaves the head out; None: 0 in Semantic FPN, 0.4 in UperNet.
        aux_channels: Channels of the auxiliary head.
        aux_level: The map that the auxiliary head reads, counted from 0.
    """

    kind: Literal["semantic_fpn", "upernet"] = "semantic_fpn"
    channels: int | None = None
    branch_channels: int = 128
    dropout: float = 0.1
    aux_weight: float | None = None
    aux_channels: int = 256
    aux_level: int = 2

    def __post_init__(self) -> None:
        if self.kind not in ("semantic_fpn", "upernet"):
            raise UserError(f"decoder: kind is {self.kind!r}: choose from semantic_fpn, upernet")
        if self.branch_channels < 1 or self.branch_channels % _GROUP_NORM:
            told = f"give a multiple of {_GROUP_NORM}, the groups of its norms"
            raise UserError(f"decoder: branch_channels is {self.branch_channels}: {told}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"decoder: dropout is {self.dropout}: give a probability from 0 to below 1")
        for name in ("channels", "aux_channels"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"decoder: {name} is {getattr(self, name)}: give a number of at least 1")
        if self.aux_weight is not None and not 0 <= self.aux_weight < inf:
            raise UserError(f"decoder: aux_weight is {self.aux_weight}: give a weight of at least 0")

    @property
    def width(self) -> int:
        """Channels of the pyramid with the default filled in."""
        return self.channels or {"semantic_fpn": 256, "upernet": 512}[self.kind]

    @property
    def auxiliary(self) -> float:
        """Weight of the auxiliary loss with the default filled in."""
        return {"semantic_fpn": 0.0, "upernet": 0.4}[self.kind] if self.aux_weight is None else self.aux_weight


class SemanticFPN(nn.Module):
    """Feature pyramid and segmentation branch (Kirillov et al. 2019, "Panoptic feature pyramid networks").

    torchvision's pyramid, with its 3x3 convolutions, and segmentation_models_pytorch's branch.

    Args:
        channels: Channels of the backbone's maps, finest first.
        reductions: Side of the image over side of each map; the first one times powers of two.
        width: Channels of the pyramid.
        branch_channels: Channels of the branch, a multiple of 32.

    Attributes:
        out_channels: Channels of the result.

    Raises:
        UserError: The reductions are others.
    """

    def __init__(self, channels: Sequence[int], reductions: Sequence[int], width: int, branch_channels: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.fpn.decoder import SegmentationBlock
        from torchvision.ops import FeaturePyramidNetwork

        doublings = [log2(reduction / reductions[0]) for reduction in reductions]
        if any(each < 0 or each != int(each) for each in doublings):
            raise UserError(
                f"Semantic FPN needs maps that halve their sides, this backbone divides the image by "
                f"{', '.join(map(str, reductions))}; choose others with backbone.levels, or take UperNet"
            )
        self.pyramid = FeaturePyramidNetwork(list(channels), width)
        self.branches = nn.ModuleList(SegmentationBlock(width, branch_channels, int(each)) for each in doublings)
        self.out_channels = branch_channels

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps [B, channels[i], h_i, w_i] -> [B, out_channels, h_0, w_0]; sides are 1 / 2^n of the first map's."""
        pyramid: dict[str, Tensor] = self.pyramid({str(level): each for level, each in enumerate(maps)})
        merged = [branch(each) for branch, each in zip(self.branches, pyramid.values(), strict=True)]
        return torch.stack(merged).sum(dim=0)


class UperNet(nn.Module):
    """Pyramid pooling and feature pyramid (Xiao et al. 2018, "Unified perceptual parsing"), pooled to 1, 2, 3 and 6.

    segmentation_models_pytorch's decoder but for its layer norms on the maps: with which backbones these belong is the
    backbone's matter (`BackboneSettings.stage_norm`).

    Args:
        channels: Channels of the backbone's maps, finest first; at least two maps.
        width: Channels of the decoder.

    Attributes:
        out_channels: Channels of the result.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        # It takes the image and the stem's map too, and leaves them aside.
        decoder: Any = UPerNetDecoder([0, 0, *channels], len(channels) + 1, width)
        decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in channels)
        self.decoder = accept_single_values(decoder)
        self.out_channels = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps [B, channels[i], h_i, w_i] -> [B, out_channels, h_0, w_0]."""
        return cast("Tensor", self.decoder([maps[0], maps[0], *maps]))


def build_decoder(channels: Sequence[int], reductions: Sequence[int], settings: DecoderSettings) -> nn.Module:
    """The decoder for a backbone's maps; its attribute `out_channels` says what comes out.

    Args:
        channels: Channels of the maps, finest first.
        reductions: Side of the image over side of each map.
        settings: Kind and widths.

    Raises:
        UserError: The decoder cannot stand on these maps, or segmentation_models_pytorch is not installed.
    """
    require("segmentation_models_pytorch")
    if len(channels) < 2:
        raise UserError(f"the decoder {settings.kind} needs at least 2 maps, backbone.levels names {len(channels)}")
    if settings.auxiliary and not 0 <= settings.aux_level < len(channels):
        raise UserError(f"decoder: aux_level is {settings.aux_level}: the backbone gives maps 0 to {len(channels) - 1}")
    if settings.kind == "upernet":
        return UperNet(channels, settings.width)
    return SemanticFPN(channels, reductions, settings.width, settings.branch_channels)
