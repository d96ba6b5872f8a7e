"""R-CNNs: torchvision's with one stage, and what stages add."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, box_iou, generalized_box_iou

from acmix.tasks.detection.settings import CascadeSettings, HeadSettings
from tasks.detection.small_detectors import (
    CLASSES,
    assert_equal_items,
    batch,
    detections,
    losses,
    small_detector,
    small_settings,
)

ONE_STAGE = CascadeSettings((0.5,), ((10.0, 10.0, 5.0, 5.0),), (1.0,))
SMALL_HEADS = HeadSettings(fc_channels=32, samples=32)
BY_KIND = {"faster_rcnn": "cascade_rcnn", "mask_rcnn": "cascade_mask_rcnn"}


def torchvisions(ours: Any) -> Any:
    """torchvision's own class with the same weights, however many stages they are of (one)."""
    width, names = ours.backbone.out_channels, ours.backbone.names
    options: dict[str, Any] = {
        "rpn_pre_nms_top_n_train": 40,
        "rpn_post_nms_top_n_train": 40,
        "rpn_pre_nms_top_n_test": 40,
        "rpn_post_nms_top_n_test": 40,
        "box_roi_pool": MultiScaleRoIAlign(names, 7, 2),
        "box_head": TwoMLPHead(width * 49, 32),
        "box_predictor": FastRCNNPredictor(32, CLASSES + 1),
        "box_batch_size_per_image": 32,
        "box_detections_per_img": 20,
        "size_divisible": ours.backbone.multiple,
    }
    build = FasterRCNN
    if ours.has_masks:
        build = MaskRCNN
        options["mask_roi_pool"] = MultiScaleRoIAlign(names, 14, 2)
        options["mask_head"] = MaskRCNNHeads(width, (width,) * 4, 1)
        options["mask_predictor"] = MaskRCNNPredictor(width, width, CLASSES + 1)
    anchors = copy.deepcopy(ours.rpn.anchor_generator)
    theirs = build(copy.deepcopy(ours.backbone), min_size=48, max_size=80, rpn_anchor_generator=anchors, **options)
    state = {name.replace(".stages.0.", "."): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    return theirs


@pytest.mark.parametrize("stages", [0, 1], ids=["plain", "cascade"])
@pytest.mark.parametrize("kind", list(BY_KIND))
def test_one_stage_is_torchvisions(kind: str, stages: int) -> None:
    ours = small_detector(kind)
    if stages:
        ours = small_detector("", settings=small_settings(BY_KIND[kind], cascade=ONE_STAGE))
    theirs, (images, targets) = torchvisions(ours), batch()
    expected, found = losses(theirs, images, targets, seed=3), losses(ours, images, targets, seed=3)
    assert set(found) == set(expected)
    for name, loss in expected.items():
        assert loss > 0, name
        torch.testing.assert_close(found[name], loss)
    wanted = detections(theirs, images)
    assert all(len(each["labels"]) for each in wanted)
    assert_equal_items(detections(ours, images), wanted)


def test_gradients_of_one_stage_are_torchvisions() -> None:
    ours = small_detector("", settings=small_settings("cascade_mask_rcnn", cascade=ONE_STAGE))
    theirs, (images, targets) = torchvisions(ours), batch()
    for detector in (ours, theirs):
        sum(losses(detector, images, targets).values(), torch.zeros(())).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name.replace(".stages.0.", ".")].grad, msg=name)


def shared_boxes(detector: Any) -> dict[str, Tensor]:
    """A state with one box a class, all alike, of one with a box for all classes."""
    state = detector.state_dict()
    for name, value in state.items():
        if ".bbox_pred." in name and "roi_heads" in name:
            state[name] = value.repeat(CLASSES + 1, *[1] * (value.dim() - 1))
    return dict(state)


@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
def test_a_box_for_all_classes_is_as_equal_boxes_of_classes(kind: str) -> None:
    agnostic = HeadSettings(fc_channels=32, samples=32, class_agnostic=True)
    one = small_detector(kind, settings=small_settings(kind, heads=agnostic))
    many, (images, targets) = small_detector(kind), batch()
    many.load_state_dict(shared_boxes(one), strict=True)
    expected, found = losses(many, images, targets), losses(one, images, targets)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)
    # The batch norms' statistics moved in both.
    assert_equal_items(detections(one, images), detections(many, images))


def test_losses_are_the_weighted_sum_over_the_stages() -> None:
    """With equal randomness, stage by stage: the weights of the others are zero."""
    by_weights = {}
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.5, 0.25)):
        cascade = CascadeSettings(loss_weights=weights)
        by_weights[weights] = losses(
            small_detector("", settings=small_settings("cascade_mask_rcnn", cascade=cascade)), *batch()
        )
    first, second, third, together = by_weights.values()
    assert set(together) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    for name in ("loss_classifier", "loss_box_reg", "loss_mask"):
        assert min(first[name], second[name], third[name]) > 0
        torch.testing.assert_close(together[name], first[name] + 0.5 * second[name] + 0.25 * third[name])
    for name in ("loss_objectness", "loss_rpn_box_reg"):
        torch.testing.assert_close(together[name], first[name])


def fixed_outputs(stage: Any, logits: list[float], offsets: list[float]) -> None:
    """The stage gives these out for every region: `offsets` of any class."""
    with torch.no_grad():
        for layer, values in ((stage.box_predictor.cls_score, logits), (stage.box_predictor.bbox_pred, offsets)):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(values).repeat(layer.bias.numel() // len(values)))


def recorded(stages: nn.ModuleList) -> list[list[Tensor]]:
    """What regions each stage is asked about, filled when the detector runs."""
    regions: list[list[Tensor]] = []
    for stage in stages:
        stage.box_roi_pool.register_forward_pre_hook(lambda _, inputs: regions.append(inputs[1]))
    return regions


# In the weights of the stage: one tenth of a width to the right.
SHIFT = [[weight / 10, 0.0, 0.0, 0.0] for weight in (10.0, 20.0, 30.0)]
# Of 300 widths: out of any image.
AWAY = [3000.0, 0.0, 0.0, 0.0]


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Between all pairs of boxes; the fast way of `cdist` would round."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def shifted(boxes: Tensor, width: int) -> Tensor:
    moved = boxes + (boxes[:, 2:3] - boxes[:, 0:1]) * torch.tensor([0.1, 0.0, 0.1, 0.0])
    moved[:, 0::2] = moved[:, 0::2].clamp(0, width)
    return moved


def test_a_stage_learns_from_the_last_ones_boxes_and_the_objects() -> None:
    detector, (images, targets) = small_detector("cascade_rcnn"), batch()
    stages = detector.roi_heads.stages
    for stage, offsets in zip(stages, SHIFT, strict=True):
        fixed_outputs(stage, [0.0] * 4, offsets)
    regions = recorded(stages)
    losses(detector, images, targets)
    detector.transform.train()
    _, resized = detector.transform(images, targets)
    assert len(regions) == 3
    for before, after in pairwise(regions):
        for index, target in enumerate(resized):
            height, width = [int(side) for side in resized[index]["masks"].shape[-2:]]
            objects = target["boxes"]
            # All but objects were shifted; the objects joined as they are, once each.
            expected = torch.cat([shifted(before[index], width), objects])
            nearest = distances(after[index], expected).min(dim=1).values
            assert nearest.max() < 1e-3
            assert (distances(after[index], objects) == 0).sum() == len(objects)
            gone = shifted(objects, width)
            assert distances(after[index], gone).min() > 1e-3
            assert after[index].max() <= max(height, width)
            assert after[index].min() >= 0


def test_a_stage_matches_at_its_own_overlap() -> None:
    detector, (images, targets) = small_detector("cascade_rcnn"), batch()
    seen = []
    for stage in detector.roi_heads.stages:

        def assign(proposals: Any, boxes: Any, labels: Any, stage: Any = stage) -> Any:
            found = type(stage).assign_targets_to_proposals(stage, proposals, boxes, labels)
            best = [box_iou(box, proposal).max(dim=0).values for box, proposal in zip(boxes, proposals, strict=True)]
            seen.append((torch.cat(best), torch.cat(found[1])))
            return found

        stage.assign_targets_to_proposals = assign
    losses(detector, images, targets)
    for (overlap, labels), iou in zip(seen, (0.5, 0.6, 0.7), strict=True):
        assert torch.equal(labels > 0, overlap >= iou)
        assert 0 < (labels > 0).sum() < len(labels)


def test_boxes_at_test_are_refined_by_every_stage() -> None:
    detector, (images, _) = small_detector("cascade_rcnn"), batch()
    stages = detector.roi_heads.stages
    for stage, offsets in zip(stages, SHIFT, strict=True):
        fixed_outputs(stage, [0.0, 5.0, 0.0, 0.0], offsets)
    regions = recorded(stages)
    found = detections(detector, images[:1])
    first, second, third = (each[0] for each in regions)
    # 64 x 64 pixels were resized to 48 x 48.
    torch.testing.assert_close(second, shifted(first, 48))
    torch.testing.assert_close(third, shifted(second, 48))
    last = shifted(third, 48) * 64 / 48
    assert len(found[0]["boxes"])
    assert distances(found[0]["boxes"], last).min(dim=1).values.max() < 1e-3


def offsets_of_classes(weight: float) -> list[float]:
    """Class c moves a box by c tenths of its width to the right."""
    return [value for label in range(CLASSES + 1) for value in (label * weight / 10, 0.0, 0.0, 0.0)]


def moved(boxes: Tensor, tenths: Tensor | float, width: int) -> Tensor:
    shift = (boxes[:, 2] - boxes[:, 0]) * tenths / 10
    boxes = boxes + torch.stack([shift, torch.zeros_like(shift)] * 2, dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    return boxes


def test_at_test_a_box_moves_as_its_likeliest_class_does() -> None:
    detector, (images, _) = small_detector("cascade_rcnn"), batch()
    for stage, weight in zip(detector.roi_heads.stages, (10.0, 20.0, 30.0), strict=True):
        # The background is the likeliest of all, and does not count.
        fixed_outputs(stage, [6.0, 0.0, 5.0, 1.0], offsets_of_classes(weight))
    regions = recorded(detector.roi_heads.stages)
    detections(detector, images[:1])
    first, second, third = (each[0] for each in regions)
    torch.testing.assert_close(second, moved(first, 2.0, 48))
    torch.testing.assert_close(third, moved(second, 2.0, 48))


def test_in_training_a_box_moves_as_the_class_of_its_object_does() -> None:
    detector, (images, targets) = small_detector("cascade_rcnn"), batch()
    first = detector.roi_heads.stages[0]
    for stage, weight in zip(detector.roi_heads.stages, (10.0, 20.0, 30.0), strict=True):
        fixed_outputs(stage, [0.0, 0.0, 0.0, 5.0], offsets_of_classes(weight))
    chosen: list[tuple[list[Tensor], list[Tensor]]] = []
    select = first.select_training_samples

    def keep(proposals: Any, targets: Any) -> Any:
        found = select(proposals, targets)
        chosen.append((found[0], found[2]))
        return found

    first.select_training_samples = keep
    regions = recorded(detector.roi_heads.stages)
    losses(detector, images, targets)
    _, resized = detector.transform(images, targets)
    ((samples, labels),) = chosen
    assert any((each > 0).any() for each in labels)
    for index, target in enumerate(resized):
        width = int(target["masks"].shape[-1])
        # Background moves as the likeliest class, the third.
        tenths = torch.where(labels[index] > 0, labels[index], 3).float()
        expected = torch.cat([moved(samples[index], tenths, width), target["boxes"]])
        assert distances(regions[1][index], expected).min(dim=1).values.max() < 1e-3


def test_scores_are_of_the_mean_logits() -> None:
    detector, (images, _) = small_detector("cascade_rcnn"), batch()
    logits = torch.tensor([[0.0, 3.0, 0.0, 1.0], [1.0, 0.0, 2.0, 3.0], [-1.0, 3.0, 1.0, 0.5]])
    for stage, values in zip(detector.roi_heads.stages, logits.tolist(), strict=True):
        fixed_outputs(stage, values, [0.0] * 4)
    scores = logits.mean(dim=0).softmax(dim=0)
    for found in detections(detector, images):
        assert len(found["scores"])
        torch.testing.assert_close(found["scores"], scores[found["labels"]])


def test_masks_are_the_mean_of_the_stages() -> None:
    detector, (images, _) = small_detector("cascade_mask_rcnn"), batch()
    with torch.no_grad():
        for stage, bias in zip(detector.roi_heads.stages, (-1.0, 0.5, 2.0), strict=True):
            last = stage.mask_predictor.mask_fcn_logits
            last.weight.zero_()
            last.bias.fill_(bias)
    expected = torch.tensor([-1.0, 0.5, 2.0]).sigmoid().mean()
    for found in detections(detector, images):
        assert len(found["masks"])
        assert found["masks"].shape[1] == 1
        torch.testing.assert_close(found["masks"].amax(), expected)


@pytest.mark.parametrize("kind", ["cascade_rcnn", "cascade_mask_rcnn"])
def test_boxes_that_leave_the_image_are_trained_through(kind: str) -> None:
    detector, (images, targets) = small_detector(kind), batch()
    for stage in detector.roi_heads.stages:
        fixed_outputs(stage, [0.0, 1.0, 0.0, 0.0], AWAY)
    found = losses(detector, images, targets)
    assert all(loss.isfinite() for loss in found.values())
    sum(found.values(), torch.zeros(())).backward()
    assert all(value.grad.isfinite().all() for value in detector.parameters() if value.grad is not None)
    assert [len(each["boxes"]) for each in detections(detector, images)] == [0, 0]


def test_no_region_at_all_costs_nothing() -> None:
    detector = small_detector("cascade_mask_rcnn").train()
    features = detector.backbone(torch.zeros(1, 3, 64, 64))
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 64, 64)}
    _, found = detector.roi_heads(features, [torch.zeros(0, 4)], [(64, 64)], [none])
    assert {name: loss.item() for name, loss in found.items()} == {
        "loss_classifier": 0.0,
        "loss_box_reg": 0.0,
        "loss_mask": 0.0,
    }


def test_the_loss_of_overlap_is_the_generalised_iou() -> None:
    one = CascadeSettings((0.5,), ((10.0, 10.0, 5.0, 5.0),), (1.0,))
    heads = HeadSettings(fc_channels=32, samples=32, box_loss="giou", giou_weight=3.0)
    detector = small_detector("", settings=small_settings("cascade_rcnn", cascade=one, heads=heads))
    (stage,), (images, targets) = detector.roi_heads.stages, batch()
    fixed_outputs(stage, [0.0] * 4, SHIFT[0])
    regions = recorded(detector.roi_heads.stages)
    found = losses(detector, images, targets)["loss_box_reg"]
    _, resized = detector.transform(images, targets)
    costs = []
    for boxes, target in zip(regions[0], resized, strict=True):
        overlap, nearest = box_iou(target["boxes"], boxes).max(dim=0)
        moved = boxes + (boxes[:, 2:3] - boxes[:, 0:1]) * torch.tensor([0.1, 0.0, 0.1, 0.0])
        giou = generalized_box_iou(moved, target["boxes"])[torch.arange(len(boxes)), nearest]
        costs.append(torch.where(overlap >= 0.5, 1 - giou, 0.0))
    torch.testing.assert_close(found, 3.0 * torch.cat(costs).mean())


def test_the_heads_of_the_published_swin_rows() -> None:
    heads = HeadSettings("batch", "4conv1fc", fc_channels=32, box_loss="giou", samples=32)
    detector = small_detector("", settings=small_settings("cascade_mask_rcnn", heads=heads))
    for stage in detector.roi_heads.stages:
        kinds = [type(module).__name__ for module in stage.box_head.modules()]
        assert (kinds.count("Conv2d"), kinds.count("BatchNorm2d"), kinds.count("Linear")) == (4, 4, 1)
    images, targets = batch()
    assert all(loss.isfinite() for loss in losses(detector, images, targets).values())
    assert all(len(each["masks"]) == len(each["boxes"]) for each in detections(detector, images))
