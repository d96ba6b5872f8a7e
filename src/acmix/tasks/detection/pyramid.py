"""A backbone with a feature pyramid on it, as torchvision's detectors want one."""

from collections import OrderedDict
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from acmix.tasks.dense.backbone import Backbone
from acmix.tasks.detection.norms import norm_layer, widened
from acmix.tasks.detection.settings import PyramidSettings

__all__ = ["PyramidBackbone"]


class PyramidBackbone(nn.Module):
    """Maps of one width at several scales.

    Args:
        backbone: Changed where it has norms on maps that are left out: they would never get a gradient.
        settings: Channels and norm.
        extra: `p6p7` adds two maps by convolutions of stride 2 on the backbone's last (RetinaNet), `pool` one by taking
            every second place of the pyramid's last (R-CNN).
        last: So many of the backbone's maps are used, counted from the last; None: all.

    Attributes:
        out_channels: Of every map.
        names: Of the maps that stand on the backbone's.
        reductions: Side of the image over side of the map, of all maps.
        multiple: Sides of images are padded to multiples of it.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: PyramidSettings,
        *,
        extra: Literal["p6p7", "pool"] | None = None,
        last: int | None = None,
    ) -> None:
        super().__init__()
        used = len(backbone.channels) if last is None else min(last, len(backbone.channels))
        self.backbone = backbone
        for index in range(len(backbone.norms) - used):
            backbone.norms[index] = nn.Identity()
        channels, reductions = backbone.channels[-used:], backbone.reductions[-used:]
        self.out_channels = settings.channels
        self.names = [str(index) for index in range(used)]
        self.multiple = reductions[-1]
        added = {"p6p7": 2, "pool": 1, None: 0}[extra]
        self.reductions = [*reductions, *(reductions[-1] * 2**step for step in range(1, added + 1))]
        self.fpn = FeaturePyramidNetwork(
            channels,
            settings.channels,
            _extra_blocks(extra, channels[-1], settings.channels),
            norm_layer(settings.norm),
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images [B, C, H, W] -> maps [B, out_channels, ceil(H / r), ceil(W / r)] by name, the largest first."""
        maps = self.backbone(images)[-len(self.names) :]
        pyramid = self.fpn(OrderedDict(zip(self.names, maps, strict=True)))
        return OrderedDict((name, widened(each)) for name, each in pyramid.items())


def _extra_blocks(extra: str | None, in_channels: int, out_channels: int) -> Any:
    if extra is None:
        return None
    if extra == "pool":
        return LastLevelMaxPool()
    blocks = LastLevelP6P7(in_channels, out_channels)
    # torchvision decides by the widths whether P6 stands on C5 (as published) or P5.
    blocks.use_P5 = False
    return blocks
