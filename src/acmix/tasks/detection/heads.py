"""Heads of the R-CNNs: torchvision's, of the widths and norms that are asked for."""

import math
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from acmix.errors import UserError
from acmix.tasks.detection.norms import norm_layer, widened
from acmix.tasks.detection.pyramid import PyramidBackbone
from acmix.tasks.detection.settings import DetectorSettings, HeadSettings, Weights

__all__ = ["BoxPredictor", "ProposalHead", "build_roi_heads", "build_roi_pool"]

_BOX_SIZE, _MASK_SIZE = 7, 14


class ProposalHead(RPNHead):
    """The head of the region proposal network; what it gives out is not rounded."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps -> logits and offsets of the anchors of each."""
        logits, offsets = super().forward(x)
        return [widened(each) for each in logits], [widened(each) for each in offsets]


class BoxPredictor(FastRCNNPredictor):
    """Class logits and box offsets of regions.

    Args:
        in_channels: Of a region's features.
        num_classes: With background.
        class_agnostic: Whether one box is learned for all classes of a region.
    """

    def __init__(self, in_channels: int, num_classes: int, class_agnostic: bool) -> None:
        super().__init__(in_channels, num_classes)
        self.copies = 1
        if class_agnostic:
            self.bbox_pred = nn.Linear(in_channels, 4)
            self.copies = num_classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [R, in_channels] -> logits [R, classes] and offsets [R, classes * 4]."""
        logits, offsets = super().forward(x)
        return widened(logits), widened(offsets).repeat(1, self.copies)


class _MaskPredictor(MaskRCNNPredictor):
    def forward(self, x: Tensor) -> Tensor:
        return widened(super().forward(x))


def build_roi_pool(pyramid: PyramidBackbone, size: int) -> Any:
    """Cuts regions out of the map that suits their size.

    torchvision would guess the maps' scales from its first batch, and wrongly where images are small and padded; and
    the guess is in no checkpoint. Here they are what the network says.

    Args:
        pyramid: The maps.
        size: Side of what is cut out.

    Raises:
        UserError: The maps do not halve in size from one to the next.
    """
    reductions = pyramid.reductions[: len(pyramid.names)]
    first, last = int(math.log2(reductions[0])), int(math.log2(reductions[-1]))
    if [2**level for level in range(first, last + 1)] != reductions:
        raise UserError(f"an R-CNN needs maps of which each has half of the last one's side, not 1/{reductions}")
    pool = MultiScaleRoIAlign(pyramid.names, size, sampling_ratio=2)
    pool.scales = [1 / reduction for reduction in reductions]
    pool.map_levels = initLevelMapper(first, last, pool.canonical_scale, pool.canonical_level)
    return pool


def build_roi_heads(
    pyramid: PyramidBackbone, num_classes: int, settings: DetectorSettings, iou: float, box_weights: Weights
) -> Any:
    """The heads of one stage, torchvision's: class and box and, for a kind with masks, mask.

    Args:
        pyramid: The maps.
        num_classes: Without background.
        settings: The detector's.
        iou: Regions that overlap an object by so much are positive, all others negative.
        box_weights: Of the offsets of a box.
    """
    heads, outputs, width = settings.heads, settings.outputs, pyramid.out_channels
    roi_heads: Any = RoIHeads(
        build_roi_pool(pyramid, _BOX_SIZE),
        _box_head(heads, width),
        BoxPredictor(heads.fc_channels, num_classes + 1, heads.class_agnostic),
        iou,
        iou,
        heads.samples,
        heads.positive_fraction,
        box_weights,
        outputs.score_threshold,
        outputs.nms_threshold,
        outputs.detections,
    )
    if settings.has_masks:
        roi_heads.mask_roi_pool = build_roi_pool(pyramid, _MASK_SIZE)
        roi_heads.mask_head = MaskRCNNHeads(width, (width,) * 4, 1)
        roi_heads.mask_predictor = _MaskPredictor(width, width, num_classes + 1)
    return roi_heads


def _box_head(heads: HeadSettings, width: int) -> Any:
    if heads.box_head == "2fc":
        return TwoMLPHead(width * _BOX_SIZE**2, heads.fc_channels)
    size = (width, _BOX_SIZE, _BOX_SIZE)
    return FastRCNNConvFCHead(size, [width] * 4, [heads.fc_channels], norm_layer(heads.norm))
