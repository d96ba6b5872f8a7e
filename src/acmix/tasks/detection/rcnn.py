"""Faster and Mask R-CNN (Ren et al. 2015, He et al. 2017): torchvision's, on a network of the zoo."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RegionProposalNetwork

from acmix.tasks.dense.backbone import undecayed
from acmix.tasks.detection.cascade import CascadeRoIHeads
from acmix.tasks.detection.door import check_precision, check_targets, told_batch_norm
from acmix.tasks.detection.heads import ProposalHead, build_roi_heads
from acmix.tasks.detection.image_transform import ImageTransform
from acmix.tasks.detection.pyramid import PyramidBackbone
from acmix.tasks.detection.settings import DetectorSettings

__all__ = ["RCNNDetector"]

_IOU, _BOX_WEIGHTS = 0.5, (10.0, 10.0, 5.0, 5.0)


class RCNNDetector(GeneralizedRCNN):
    """torchvision's R-CNN with one stage or a cascade of them, with or without masks.

    Args:
        pyramid: The maps to detect on.
        anchors: Of those maps.
        num_classes: C, without background; labels are 1 to C.
        settings: All but the pyramid's.
    """

    def __init__(
        self, pyramid: PyramidBackbone, anchors: AnchorGenerator, num_classes: int, settings: DetectorSettings
    ) -> None:
        proposals = _build_proposals(pyramid, anchors, settings)
        roi_heads = _build_roi_heads(pyramid, num_classes, settings)
        super().__init__(pyramid, proposals, roi_heads, ImageTransform(settings.images, pyramid.multiple))
        self.num_classes = num_classes
        self.has_masks = settings.has_masks

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the network of the backbone wants without weight decay; timm asks for them."""
        return undecayed(self)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Losses in training, detections elsewhere; see `build_detector`."""
        check_precision(self)
        if targets is not None:
            check_targets(images, targets, self.num_classes, masks=self.has_masks)
        with told_batch_norm():
            return super().forward(images, targets)


def _build_proposals(pyramid: PyramidBackbone, anchors: AnchorGenerator, settings: DetectorSettings) -> Any:
    chosen = settings.proposals
    return RegionProposalNetwork(
        anchors,
        ProposalHead(pyramid.out_channels, anchors.num_anchors_per_location()[0]),
        chosen.positive_iou,
        chosen.negative_iou,
        chosen.samples,
        chosen.positive_fraction,
        {"training": chosen.train_pre_nms, "testing": chosen.test_pre_nms},
        {"training": chosen.train_post_nms, "testing": chosen.test_post_nms},
        chosen.nms_threshold,
    )


def _build_roi_heads(pyramid: PyramidBackbone, num_classes: int, settings: DetectorSettings) -> nn.Module:
    if not settings.has_cascade:
        single: nn.Module = build_roi_heads(pyramid, num_classes, settings, _IOU, _BOX_WEIGHTS)
        return single
    stages = [
        build_roi_heads(pyramid, num_classes, settings, iou, weights)
        for iou, weights in zip(settings.cascade.ious, settings.cascade.box_weights, strict=True)
    ]
    giou_weight = settings.heads.giou_weight if settings.heads.box_loss == "giou" else None
    return CascadeRoIHeads(stages, settings.cascade.loss_weights, giou_weight)
