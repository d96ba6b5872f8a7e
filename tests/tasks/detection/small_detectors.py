"""Detectors and scenes so small that a step takes a fraction of a second."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.detection.detector import build_detector
from acmix.tasks.detection.settings import (
    DetectorSettings,
    HeadSettings,
    ImageSettings,
    OutputSettings,
    ProposalSettings,
    PyramidSettings,
)
from network_suite import SHALLOW, awake

KINDS = ("retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn")
CLASSES = 3
SIZES = ((64, 64), (48, 80))

# By a word of the name; the first that fits. What is not of this library is timm's.
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "swin_tiny_patch4": {**SHALLOW["swin"], "img_size": 64, "strict_img_size": False},
    **SHALLOW,
    "resnet": {**SHALLOW["resnet"], "stem": "compact", "channels": (8, 8, 16, 16)},
}

Target = dict[str, Tensor]


def small_settings(kind: str, **groups: Any) -> DetectorSettings:
    """Few channels and proposals; groups of settings by name take the place of these."""
    images = ImageSettings(min_size=(48,), max_size=80)
    settings = DetectorSettings(
        kind=kind,
        images=images,
        pyramid=PyramidSettings(channels=16),
        proposals=ProposalSettings(40, 40, 40, 40),
        heads=HeadSettings() if kind == "retinanet" else HeadSettings(fc_channels=32, samples=32),
        outputs=OutputSettings(detections=20),
    )
    return replace(settings, **groups)


def small_detector(
    kind: str, name: str = "acmix_resnet14", settings: DetectorSettings | None = None, **backbone: Any
) -> Any:
    """A detector with random weights everywhere: those of a start hide mistakes, as many of them are zero."""
    torch.manual_seed(0)
    model_args = next(args for family, args in FAMILIES.items() if family in name)
    backbone_settings = BackboneSettings(**{"model_args": model_args, **backbone})
    detector = build_detector(name, CLASSES, 3, backbone_settings, settings or small_settings(kind))
    return tame(awake(detector))


def tame(detector: nn.Module) -> nn.Module:
    """Offsets of boxes near zero, that proposals stay where anchors are, and scores near the middle."""
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if any(part in name for part in ("bbox_pred", "bbox_reg", "cls_logits", "cls_score")):
                parameter.mul_(0.1)
    return detector


def scene(index: int = 0, size: tuple[int, int] = SIZES[0], boxes: Tensor | None = None) -> tuple[Tensor, Target]:
    """An image and its objects, which differ in size that every map have some; masks are ellipses' boxes, inset."""
    height, width = size
    generator = torch.Generator().manual_seed(index)
    image = torch.rand(3, height, width, generator=generator)
    if boxes is None:
        small, middle, large = [2.0, 3, 8, 10], [10.0, 12, 26, 24], [4.0, 2, width - 6.0, height - 4.0]
        boxes = torch.tensor([small, middle, large, [20.0, 20, 40, 46]])
    labels = torch.arange(len(boxes)) % CLASSES + 1
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[top : max(bottom, top + 1), left : max((left + right) // 2, left + 1)] = 1
    return image, {"boxes": boxes, "labels": labels, "masks": masks, "image_id": torch.tensor(70 + index)}


def batch() -> tuple[list[Tensor], list[Target]]:
    """Two images of different sizes."""
    scenes = [scene(index, size) for index, size in enumerate(SIZES)]
    return [image for image, _ in scenes], [target for _, target in scenes]


def losses(detector: Any, images: list[Tensor], targets: list[Target], seed: int = 0) -> dict[str, Tensor]:
    """Of a training step whose randomness begins at the seed."""
    torch.manual_seed(seed)
    found: dict[str, Tensor] = detector.train()(images, targets)
    return found


def detections(detector: Any, images: list[Tensor]) -> list[Target]:
    with torch.no_grad():
        found: list[Target] = detector.eval()(images)
    return found


def assert_equal_items(found: list[Target], expected: list[Target]) -> None:
    """The same detections, in number, order and value."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, msg=lambda told, name=name: f"{name}: {told}")
