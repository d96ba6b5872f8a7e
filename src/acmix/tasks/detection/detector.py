"""Builds a detector of a network's name and settings."""

from typing import Literal

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from acmix.errors import UserError
from acmix.tasks.dense.backbone import Backbone, BackboneSettings
from acmix.tasks.detection.check_settings import check_settings
from acmix.tasks.detection.pyramid import PyramidBackbone
from acmix.tasks.detection.rcnn import RCNNDetector
from acmix.tasks.detection.retinanet import RetinaNetDetector
from acmix.tasks.detection.settings import AnchorSettings, DetectorKind, DetectorSettings

__all__ = ["build_anchors", "build_detector"]

# RetinaNet detects on C3 to C5 and two maps more; it leaves out the first of a network's four.
_RETINANET_MAPS = 3


def build_detector(
    name: str, num_classes: int, in_chans: int, backbone_settings: BackboneSettings, detector_settings: DetectorSettings
) -> nn.Module:
    """A detector on a network of the zoo or timm's.

    In training it is called with images and targets and gives a dictionary of losses, whose sum is the loss; in
    evaluation with images alone and gives a list of detections: `boxes` [N, 4] in pixels of the image, `labels` [N],
    `scores` [N], the best first, and `masks` [N, 1, H, W] of 0 to 1 where `has_masks` is true. Images are a list of
    [C, H, W] of 0 to 1 and any sizes, targets as `check_targets` wants them.

    Args:
        name: A registered network, such as `acmix_resnet50`.
        num_classes: Without background; labels are 1 to so many.
        in_chans: Image channels.
        backbone_settings: Levels, what is frozen, the network's further arguments. Where no levels are named, a
            RetinaNet uses the last three maps of the network and an R-CNN the last four.
        detector_settings: All else.

    Raises:
        UserError: The settings contradict each other, or the network cannot be built with them.
    """
    check_settings(detector_settings, num_classes, in_chans)
    backbone = Backbone(name, in_chans, backbone_settings)
    is_retinanet = detector_settings.kind == "retinanet"
    extra: Literal["p6p7", "pool"] = "p6p7" if is_retinanet else "pool"
    last = _RETINANET_MAPS if is_retinanet and backbone_settings.levels is None else None
    pyramid = PyramidBackbone(backbone, detector_settings.pyramid, extra=extra, last=last)
    anchors = build_anchors(pyramid.reductions, detector_settings.kind, detector_settings.anchors)
    if is_retinanet:
        return RetinaNetDetector(pyramid, anchors, num_classes, detector_settings)
    try:
        return RCNNDetector(pyramid, anchors, num_classes, detector_settings)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def build_anchors(reductions: list[int], kind: DetectorKind, settings: AnchorSettings) -> AnchorGenerator:
    """Anchors of maps whose places are so many pixels apart; their sizes grow with it, as published.

    Args:
        reductions: Side of the image over side of the map, of each map.
        kind: Decides where the settings name no scales.
        settings: Scales and shapes.
    """
    scales = settings.scales
    if scales is None:
        scales = tuple(4 * 2 ** (step / 3) for step in range(3)) if kind == "retinanet" else (8.0,)
    sizes = tuple(tuple(scale * reduction for scale in scales) for reduction in reductions)
    return AnchorGenerator(sizes, (settings.aspect_ratios,) * len(sizes))
