"""What a stage of a cascade learns from, and its losses."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss
from torchvision.ops import generalized_box_iou_loss

__all__ = ["StageSamples", "box_losses", "class_boxes", "draw_samples", "mask_loss"]

Target = dict[str, Tensor]


@dataclass(frozen=True)
class StageSamples:
    """The regions that a stage learns from; lists have an entry for each image.

    Attributes:
        regions: Boxes [R, 4].
        matched: The object [R] that each region overlaps most; 0 where there is none.
        labels: Class [R] of that object; 0 for background.
        offsets: From each region to its object [R, 4], in the stage's weights.
    """

    regions: list[Tensor]
    matched: list[Tensor]
    labels: list[Tensor]
    offsets: list[Tensor]


def draw_samples(stage: Any, proposals: list[Tensor], targets: list[Target]) -> StageSamples:
    """The sampling of torchvision: the objects themselves join the proposals, all are matched, some are drawn.

    Args:
        stage: torchvision's `RoIHeads`.
        proposals: Boxes [N, 4] of each image.
        targets: Objects of each image.
    """
    regions, matched, labels, offsets = stage.select_training_samples(proposals, targets)
    return StageSamples(regions, matched, labels, list(offsets))


def class_boxes(stage: Any, offsets: Tensor, regions: list[Tensor], classes: Tensor) -> Tensor:
    """The boxes of one class of each region.

    Args:
        stage: torchvision's `RoIHeads`.
        offsets: Of all classes [R, C * 4].
        regions: Boxes of each image, R together.
        classes: Which class [R].

    Returns:
        Boxes [R, 4].
    """
    places = torch.arange(len(classes), device=classes.device)
    chosen = offsets.unflatten(1, (-1, 4))[places, classes]
    decoded: Tensor = stage.box_coder.decode_single(chosen, torch.cat(regions))
    return decoded


def box_losses(
    stage: Any, outputs: tuple[Tensor, Tensor], samples: StageSamples, targets: list[Target], giou_weight: float | None
) -> dict[str, Tensor]:
    """Losses of class and box, under torchvision's names.

    Args:
        stage: torchvision's `RoIHeads`.
        outputs: Logits [R, C] and offsets [R, C * 4] of all regions.
        samples: The regions.
        targets: Objects of each image.
        giou_weight: None: smooth L1 on offsets, torchvision's loss; else so many times 1 less the generalised IoU of
            the positive regions' boxes, over the number of all regions.
    """
    logits, offsets = outputs
    if not len(logits):
        return {"loss_classifier": logits.sum(), "loss_box_reg": offsets.sum()}
    classifier, box = fastrcnn_loss(logits, offsets, samples.labels, samples.offsets)
    if giou_weight is not None:
        box = giou_weight * _giou_loss(stage, offsets, samples, targets)
    return {"loss_classifier": classifier, "loss_box_reg": box}


def _giou_loss(stage: Any, offsets: Tensor, samples: StageSamples, targets: list[Target]) -> Tensor:
    labels = torch.cat(samples.labels)
    positive = labels > 0
    predicted = class_boxes(stage, offsets, samples.regions, labels)[positive]
    objects = [
        target["boxes"][matched[label > 0]]
        for target, matched, label in zip(targets, samples.matched, samples.labels, strict=True)
    ]
    loss: Tensor = generalized_box_iou_loss(predicted, torch.cat(objects).to(predicted), reduction="sum")
    return loss / len(labels)


def mask_loss(stage: Any, features: Any, samples: StageSamples, shapes: Any, targets: list[Target]) -> Tensor:
    """The loss of the masks of the positive regions as torchvision has it, zero where there is none.

    Args:
        stage: torchvision's `RoIHeads` with a mask head.
        features: Maps by name.
        samples: The regions.
        shapes: Height and width of each image.
        targets: Objects of each image.
    """
    positive = [label > 0 for label in samples.labels]
    regions = [region[chosen] for region, chosen in zip(samples.regions, positive, strict=True)]
    matched = [match[chosen] for match, chosen in zip(samples.matched, positive, strict=True)]
    logits = stage.mask_predictor(stage.mask_head(stage.mask_roi_pool(features, regions, shapes)))
    masks, labels = [target["masks"] for target in targets], [target["labels"] for target in targets]
    loss: Tensor = maskrcnn_loss(logits, regions, masks, labels, matched)
    return loss
