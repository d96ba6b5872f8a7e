"""The published detectors are as large as published, in parameters and in multiplications at 800 x 1333 pixels."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.detection.detector import build_detector
from acmix.tasks.detection.settings import DetectorSettings, HeadSettings

SWIN = BackboneSettings(stage_norm=True, model_args={"strict_img_size": False})
# Of the code of Swin's detectors: the box heads of the cascade.
GIOU = HeadSettings(norm="batch", box_head="4conv1fc", box_loss="giou")
RETINANET, MASK, CASCADE = (
    DetectorSettings("retinanet"),
    DetectorSettings("mask_rcnn"),
    DetectorSettings("cascade_mask_rcnn", heads=GIOU),
)
# Parameters in millions (Swin's README; the paper has none), multiplications in billions (paper Tables 3 to 5). Papers
# differ in what they count of regions and small layers: 2 %.
PUBLISHED = {
    "RetinaNet, ResNet-50": ("resnet50", BackboneSettings(), RETINANET, None, 250),
    "RetinaNet, SAN-ACmix-19": ("acmix_san19", BackboneSettings(), RETINANET, None, 233),
    "RetinaNet, PVT-ACmix-T": ("acmix_pvt_tiny", BackboneSettings(), RETINANET, None, 232),
    "Mask R-CNN, Swin-T": ("swin_tiny_patch4_window7_224", SWIN, MASK, 48, 272),
    "Mask R-CNN, Swin-ACmix-T": ("acmix_swin_tiny", SWIN, MASK, None, 275),
    "Cascade, Swin-T": ("swin_tiny_patch4_window7_224", SWIN, CASCADE, 86, 750),
    "Cascade, Swin-ACmix-T": ("acmix_swin_tiny", SWIN, CASCADE, None, 754),
}


def multiplications(detector: Any) -> float:
    """Of the maps, the heads that run over them, and, of an R-CNN, of 1000 regions and 100 masks."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = detector.backbone(torch.empty(1, 3, 800, 1344, device="meta"))
        if not hasattr(detector, "roi_heads"):
            detector.head(list(maps.values()))
        else:
            detector.rpn.head(list(maps.values()))
            for stage in getattr(detector.roi_heads, "stages", [detector.roi_heads]):
                stage.box_predictor(stage.box_head(torch.empty(1000, 256, 7, 7, device="meta")))
                stage.mask_predictor(stage.mask_head(torch.empty(100, 256, 14, 14, device="meta")))
    return counter.get_total_flops() / 2


@pytest.mark.slow
@pytest.mark.parametrize("row", list(PUBLISHED))
def test_the_published_sizes(row: str) -> None:
    name, backbone, settings, parameters, billions = PUBLISHED[row]
    with torch.device("meta"):
        detector = build_detector(name, 80, 3, backbone, settings)
    if parameters is not None:
        assert round(sum(value.numel() for value in detector.parameters()) / 1e6) == parameters
    assert multiplications(detector) / 1e9 == pytest.approx(billions, rel=0.02)
