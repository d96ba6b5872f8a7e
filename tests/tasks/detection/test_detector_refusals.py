"""What a detector refuses, in one line that says what to do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.detection.detector import build_detector
from acmix.tasks.detection.door import check_targets
from acmix.tasks.detection.settings import (
    AnchorSettings,
    CascadeSettings,
    DetectorSettings,
    HeadSettings,
    ImageSettings,
    ProposalSettings,
    PyramidSettings,
)
from tasks.detection.small_detectors import (
    CLASSES,
    FAMILIES,
    KINDS,
    Target,
    batch,
    losses,
    scene,
    small_detector,
    small_settings,
)


@pytest.fixture(scope="module")
def detectors() -> dict[str, Any]:
    return {kind: small_detector(kind) for kind in KINDS}


def wrong(index: int, **changed: Tensor) -> list[Target]:
    targets = batch()[1]
    targets[index].update(changed)
    return targets


def boxes_with(*box: float) -> Tensor:
    return torch.tensor([[2.0, 3, 8, 10], box, [4, 2, 58, 44], [20, 20, 40, 46]])


REFUSED = {
    "label 0": (wrong(1, labels=torch.tensor([1, 0, 2, 3])), "image 71: label 0 is out of range: labels are 1 to 3"),
    "label 4": (wrong(0, labels=torch.tensor([1, 2, 4, 3])), "image 70: label 4 is out of range"),
    "outside": (
        wrong(1, boxes=boxes_with(10, 10, 81, 20)),
        r"image 71: box 1 is \[10.0, 10.0, 81.0, 20.0\].*<= 80.*<= 48",
    ),
    "negative": (wrong(0, boxes=boxes_with(-1, 10, 20, 20)), r"image 70: box 1 is \[-1.0"),
    "no width": (wrong(0, boxes=boxes_with(10, 10, 10, 20)), "image 70: box 1 is .*clip it or leave it out"),
    "turned": (wrong(0, boxes=boxes_with(10, 30, 20, 20)), "image 70: box 1 is "),
    "not a number": (wrong(0, boxes=boxes_with(float("nan"), 30, 40, 40)), "image 70: box 1 is "),
    "labels missing": (wrong(0, labels=torch.tensor([1, 2])), r"image 70: boxes \(4, 4\) and labels \(2,\) came"),
    "boxes of five": (wrong(0, boxes=torch.zeros(4, 5)), r"image 70: boxes \(4, 5\)"),
}


@pytest.mark.parametrize("case", list(REFUSED))
@pytest.mark.parametrize("kind", KINDS)
def test_targets_that_cannot_be_learned(detectors: dict[str, Any], kind: str, case: str) -> None:
    targets, told = REFUSED[case]
    with pytest.raises(UserError, match=told) as error:
        losses(detectors[kind], batch()[0], targets)
    assert "\n" not in str(error.value)


def test_masks_that_cannot_be_learned() -> None:
    detector, images = small_detector("mask_rcnn"), batch()[0]
    with pytest.raises(UserError, match=r"image 70: masks \(4, 64, 63\) came, \(4, 64, 64\) are needed"):
        losses(detector, images, wrong(0, masks=torch.zeros(4, 64, 63, dtype=torch.uint8)))
    bare = [{name: value for name, value in each.items() if name != "masks"} for each in batch()[1]]
    with pytest.raises(UserError, match="image 70: the targets hold no masks"):
        losses(detector, images, bare)
    assert all(loss.isfinite() for loss in losses(small_detector("faster_rcnn"), images, bare).values())


def test_an_image_without_a_name_is_counted() -> None:
    images, targets = batch()
    targets[1] = {name: value for name, value in targets[1].items() if name != "image_id"}
    targets[1]["labels"] = torch.tensor([1, 2, 3, 9])
    with pytest.raises(UserError, match="image 1 of the batch: label 9 is out of range"):
        check_targets(images, targets, CLASSES)


def test_rounding_at_the_border_is_forgiven() -> None:
    image, target = scene(boxes=torch.tensor([[-1e-4, 0, 64.0001, 64]]))
    check_targets([image], [target], CLASSES)


def test_each_image_needs_a_target() -> None:
    images, targets = batch()
    with pytest.raises(UserError, match="2 images came with 1 targets"):
        check_targets(images, targets[:1], CLASSES)


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_one_tiny_image_and_batch_norm(kind: str) -> None:
    settings = small_settings(kind, images=ImageSettings((8,), 8, 8))
    image, target = scene(0, (8, 8), boxes=torch.tensor([[1.0, 1, 6, 6]]))
    with pytest.raises(UserError, match="batch norm cannot train on one image"):
        losses(small_detector(kind, settings=settings), [image], [target])
    pyramid = replace(settings, pyramid=PyramidSettings(16, "group"))
    frozen = small_detector(kind, settings=pyramid, frozen_norm=True)
    assert all(loss.isfinite() for loss in losses(frozen, [image], [target]).values())


def test_images_that_are_none() -> None:
    detector = small_detector("retinanet").eval()
    with pytest.raises(UserError, match="an image has 1 channels, the detector is for 3"):
        detector([torch.rand(1, 64, 64)])
    with pytest.raises(UserError, match="an image of 2 x 300 pixels has no height or width left at 80"):
        detector([torch.rand(3, 2, 300)])


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "yolo"}, "kind is 'yolo': choose one of retinanet"),
    "norm": ({"pyramid": PyramidSettings(16, "layer")}, "pyramid.norm is 'layer': choose one of none, batch, group"),
    "channels": ({"images": ImageSettings(mean=(0.5,), std=(0.5,))}, "images.mean is .*: give 3, one a channel"),
    "size": ({"images": ImageSettings((800,), None, 400)}, "images.max_size is 400, but the short side is to be 800"),
    "no size": ({"images": ImageSettings(())}, "images.min_size is "),
    "scales": ({"anchors": AnchorSettings(())}, "anchors.scales is "),
    "box head": (
        {"heads": HeadSettings(class_agnostic=True)},
        "heads.class_agnostic is True, but a retinanet has no such",
    ),
    "stages": (
        {"kind": "cascade_rcnn", "cascade": CascadeSettings(ious=(0.5,))},
        r"cascade.ious, box_weights and loss_weights need one entry for each stage, not \[1, 3\]",
    ),
    "no stages": ({"kind": "mask_rcnn", "cascade": CascadeSettings((0.6,) * 3)}, "a mask_rcnn has no stages"),
    "loss": ({"kind": "mask_rcnn", "heads": HeadSettings(box_loss="giou")}, "heads.box_loss is giou: of a mask_rcnn"),
    "useless norm": ({"kind": "mask_rcnn", "heads": HeadSettings("group")}, "choose heads.box_head 4conv1fc"),
    "proposals": ({"kind": "mask_rcnn", "proposals": ProposalSettings(0)}, "proposals.train_pre_nms is 0"),
}


@pytest.mark.parametrize("case", list(IMPOSSIBLE))
def test_settings_that_contradict_each_other(case: str) -> None:
    changed, told = IMPOSSIBLE[case]
    settings = replace(DetectorSettings(), **changed)
    with pytest.raises(UserError, match=told) as error:
        build_detector("acmix_resnet14", CLASSES, 3, BackboneSettings(), settings)
    assert "\n" not in str(error.value)


def test_no_class_is_refused() -> None:
    with pytest.raises(UserError, match="one class at least besides background, not 0"):
        build_detector("acmix_resnet14", 0, 3, BackboneSettings(), DetectorSettings())


def test_maps_that_do_not_halve_are_refused_by_an_rcnn() -> None:
    settings = BackboneSettings(levels=(1, 3), model_args=FAMILIES["resnet"])
    with pytest.raises(UserError, match="acmix_resnet14: an R-CNN needs maps of which each has half"):
        build_detector("acmix_resnet14", CLASSES, 3, settings, small_settings("faster_rcnn"))
