"""RetinaNet: torchvision's, with labels from 1."""

import copy

import pytest
import torch
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead, _default_anchorgen

from acmix.tasks.detection.detector import build_anchors
from acmix.tasks.detection.settings import AnchorSettings, HeadSettings, PyramidSettings
from tasks.detection.small_detectors import (
    CLASSES,
    assert_equal_items,
    batch,
    detections,
    losses,
    small_detector,
    small_settings,
)


def torchvisions(ours: RetinaNet) -> RetinaNet:
    """torchvision's own class with the same weights."""
    theirs = RetinaNet(
        copy.deepcopy(ours.backbone),
        CLASSES,
        min_size=48,
        max_size=80,
        anchor_generator=copy.deepcopy(ours.anchor_generator),
        detections_per_img=20,
        size_divisible=ours.backbone.multiple,
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs


def test_losses_are_torchvisions() -> None:
    ours, (images, targets) = small_detector("retinanet"), batch()
    zero_based = [{**target, "labels": target["labels"] - 1} for target in targets]
    expected, found = losses(torchvisions(ours), images, zero_based), losses(ours, images, targets)
    assert set(found) == {"classification", "bbox_regression"}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)


def test_detections_are_torchvisions() -> None:
    ours, (images, _) = small_detector("retinanet"), batch()
    expected = detections(torchvisions(ours), images)
    assert all(len(each["labels"]) for each in expected)
    expected = [{**each, "labels": each["labels"] + 1} for each in expected]
    assert {label for each in expected for label in each["labels"].tolist()} <= {1, 2, 3}
    assert_equal_items(detections(ours, images), expected)


def test_targets_are_left_as_they_are() -> None:
    detector, (images, targets) = small_detector("retinanet"), batch()
    before = copy.deepcopy(targets)
    losses(detector, images, targets)
    assert_equal_items(targets, before)


def test_there_is_one_column_a_class() -> None:
    assert small_detector("retinanet").head.classification_head.cls_logits.out_channels == 9 * CLASSES


def test_the_last_class_is_learned_by_the_last_column() -> None:
    detector, (images, targets) = small_detector("retinanet"), batch()
    for target in targets:
        target["labels"] = torch.full_like(target["labels"], CLASSES)
    bias = detector.head.classification_head.cls_logits.bias
    (gradient,) = torch.autograd.grad(losses(detector, images, targets)["classification"], [bias])
    # More of a class lowers the loss where it is, and raises it where it is not.
    by_class = gradient.reshape(9, CLASSES).sum(dim=0)
    assert by_class[CLASSES - 1] < by_class[:-1].min()


def test_anchors_are_the_published_ones() -> None:
    ours = build_anchors([8, 16, 32, 64, 128], "retinanet", AnchorSettings())
    for sizes, theirs in zip(ours.sizes, _default_anchorgen().sizes, strict=True):
        # torchvision rounds them down.
        assert tuple(int(size + 1e-9) for size in sizes) == theirs
    assert ours.num_anchors_per_location() == [9] * 5


def test_anchors_of_a_finer_network_are_finer() -> None:
    anchors = build_anchors([2, 4], "faster_rcnn", AnchorSettings(aspect_ratios=(1.0,)))
    assert [each.tolist() for each in anchors.cell_anchors] == [[[-8.0, -8, 8, 8]], [[-16.0, -16, 16, 16]]]


def test_the_first_map_is_left_out() -> None:
    pyramid = small_detector("retinanet").backbone
    first = pyramid.reductions[0]
    assert pyramid.backbone.reductions[1] == first
    assert pyramid.reductions == [first, 2 * first, 4 * first, 8 * first, 16 * first]
    named = small_detector("retinanet", levels=(3, 4)).backbone
    assert named.reductions == [2 * first, 4 * first, 8 * first, 16 * first]


def test_a_norm_of_a_map_that_is_left_out_is_left_out() -> None:
    detector, (images, targets) = small_detector("retinanet", stage_norm=True), batch()
    sum(losses(detector, images, targets).values(), torch.zeros(())).backward()
    norms = {name: value.grad for name, value in detector.named_parameters() if ".backbone.norms." in name}
    assert len(norms) == 6
    assert all(gradient is not None and gradient.any() for gradient in norms.values())


def test_p6_stands_on_the_backbone_at_any_width() -> None:
    # The backbone's last map is as wide as the pyramid: torchvision alone would take the pyramid's.
    width = small_detector("retinanet").backbone.backbone.channels[-1]
    pyramid = small_detector("retinanet", settings=small_settings("retinanet", pyramid=PyramidSettings(width))).backbone
    last = pyramid.backbone(torch.ones(1, 3, 64, 64))[-1]
    torch.testing.assert_close(pyramid(torch.ones(1, 3, 64, 64))["p6"], pyramid.fpn.extra_blocks.p6(last))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norms_of_the_towers(norm: str) -> None:
    heads, pyramid = HeadSettings(norm=norm), PyramidSettings(16, norm)
    detector = small_detector("retinanet", settings=small_settings("retinanet", heads=heads, pyramid=pyramid))
    kinds = {type(module).__name__ for part in (detector.head, detector.backbone.fpn) for module in part.modules()}
    assert {"batch": "BatchNorm2d", "group": "GroupNorm"}[norm] in kinds
    assert isinstance(detector.head, RetinaNetHead)
    assert all(loss.isfinite() for loss in losses(detector, *batch()).values())
