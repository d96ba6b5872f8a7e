"""Cascade R-CNN (Cai and Vasconcelos 2018): stages that refine boxes one after another, of torchvision's parts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from acmix.tasks.detection.cascade_losses import (
    StageSamples,
    Target,
    box_losses,
    class_boxes,
    draw_samples,
    mask_loss,
)

__all__ = ["CascadeRoIHeads"]

# Pixels; as torchvision's proposals.
_THINNEST = 1e-3

Shapes = list[tuple[int, int]]


class CascadeRoIHeads(nn.Module):
    """Stands in the place of torchvision's `RoIHeads`, of which it holds one for each stage.

    In training a stage's boxes, clipped and without gradient, are the next one's proposals. As in the code that the
    published numbers were made with (MMDetection), each stage matches anew at its own IoU, with the objects themselves
    among its proposals, and draws its own sample; objects are not refined. At test the boxes are the last stage's, the
    logits the mean over the stages, each on its own boxes, and the masks the mean over the stages on the last boxes.

    With classes that have boxes of their own, a region is refined by the box of its object's class in training, and of
    its most probable class where it is background and at test.

    Args:
        stages: torchvision's `RoIHeads`, all with masks or none.
        loss_weights: Of each stage's losses.
        giou_weight: See `box_losses`.
    """

    def __init__(self, stages: Sequence[nn.Module], loss_weights: Sequence[float], giou_weight: float | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.loss_weights = tuple(loss_weights)
        self.giou_weight = giou_weight

    def forward(
        self, features: Any, proposals: list[Tensor], image_shapes: Shapes, targets: list[Target] | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections in evaluation, losses in training, as torchvision's `RoIHeads`.

        Args:
            features: Maps by name.
            proposals: Boxes [N, 4] of each image.
            image_shapes: Height and width of each image.
            targets: Objects of each image.

        Returns:
            Boxes, labels, scores and masks of each image, none in training; weighted sums of the losses over the
            stages under torchvision's names, none in evaluation.
        """
        if not self.training:
            return self._detect(features, proposals, image_shapes), {}
        if targets is None:
            raise ValueError("targets should not be None in training")
        return [], self._losses(features, proposals, image_shapes, targets)

    def _losses(
        self, features: Any, proposals: list[Tensor], shapes: Shapes, targets: list[Target]
    ) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for index, (stage, weight) in enumerate(zip(self.stages, self.loss_weights, strict=True)):
            samples = draw_samples(stage, proposals, targets)
            outputs = _classify(stage, features, samples.regions, shapes)
            losses = box_losses(stage, outputs, samples, targets, self.giou_weight)
            if _has_mask(stage):
                losses["loss_mask"] = mask_loss(stage, features, samples, shapes, targets)
            for name, loss in losses.items():
                sums[name] = sums[name] + weight * loss if name in sums else weight * loss
            if index + 1 < len(self.stages):
                proposals = _next_proposals(stage, outputs, samples, shapes, targets)
        return sums

    def _detect(self, features: Any, proposals: list[Tensor], shapes: Shapes) -> list[dict[str, Tensor]]:
        last: Any = self.stages[-1]
        logits, offsets = outputs = _classify(self.stages[0], features, proposals, shapes)
        for before, stage in zip(self.stages, self.stages[1:], strict=False):
            classes = outputs[0][:, 1:].argmax(dim=1) + 1
            # None is left out, that logits of all stages be of the same regions.
            proposals = _refine(before, outputs[1], proposals, classes, shapes)
            outputs = _classify(stage, features, proposals, shapes)
            logits, offsets = logits + outputs[0], outputs[1]
        found = last.postprocess_detections(logits / len(self.stages), offsets, proposals, shapes)
        detections = [
            {"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in zip(*found, strict=True)
        ]
        if _has_mask(last):
            self._add_masks(features, detections, shapes)
        return detections

    def _add_masks(self, features: Any, detections: list[dict[str, Tensor]], shapes: Shapes) -> None:
        labels = [detection["labels"] for detection in detections]
        first: Any = self.stages[0]
        cut = first.mask_roi_pool(features, [detection["boxes"] for detection in detections], shapes)
        stages: list[Any] = list(self.stages)
        masks = [maskrcnn_inference(stage.mask_predictor(stage.mask_head(cut)), labels) for stage in stages]
        for detection, of_stages in zip(detections, zip(*masks, strict=True), strict=True):
            detection["masks"] = torch.stack(of_stages).mean(dim=0)


def _has_mask(stage: Any) -> bool:
    return bool(stage.has_mask())


def _classify(stage: Any, features: Any, regions: list[Tensor], shapes: Shapes) -> tuple[Tensor, Tensor]:
    """Logits [R, C] and offsets [R, C * 4] of all regions."""
    logits, offsets = stage.box_predictor(stage.box_head(stage.box_roi_pool(features, regions, shapes)))
    return logits, offsets


@torch.no_grad()
def _refine(stage: Any, offsets: Tensor, regions: list[Tensor], classes: Tensor, shapes: Shapes) -> list[Tensor]:
    """The regions where the stage puts them, clipped."""
    boxes = class_boxes(stage, offsets, regions, classes).split([len(region) for region in regions])
    return [clip_boxes_to_image(each, shape) for each, shape in zip(boxes, shapes, strict=True)]


@torch.no_grad()
def _next_proposals(
    stage: Any, outputs: tuple[Tensor, Tensor], samples: StageSamples, shapes: Shapes, targets: list[Target]
) -> list[Tensor]:
    """Refined samples but for the objects themselves, which join again, and boxes of no area."""
    logits, offsets = outputs
    labels = torch.cat(samples.labels)
    classes = torch.where(labels > 0, labels, logits[:, 1:].argmax(dim=1) + 1)
    refined = _refine(stage, offsets, samples.regions, classes, shapes)
    kept = []
    for index, (boxes, target) in enumerate(zip(refined, targets, strict=True)):
        if len(target["boxes"]):
            objects = target["boxes"][samples.matched[index]].to(boxes)
            boxes = boxes[(samples.regions[index] != objects).any(dim=1)]
        kept.append(boxes[remove_small_boxes(boxes, _THINNEST)])
    return kept
