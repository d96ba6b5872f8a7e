"""What comes to a detector is looked at before torchvision, whose errors would not name the image, sees it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.tasks.data.detection_transforms import THINNEST_BOX

__all__ = ["check_precision", "check_targets", "told_batch_norm"]

# Pixels. What flips in float32 may take from a side.
_ROUNDING = 1e-3
# Pixels. What rounding may put a box beyond the border.
_BEYOND = 1e-2


def check_targets(
    images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], num_classes: int, masks: bool = False
) -> None:
    """Refuses targets that a detector cannot learn from.

    Args:
        images: Of [C, H, W] each.
        targets: One for each image: `boxes` [N, 4] in pixels, `labels` [N] and, where asked for, `masks` [N, H, W];
            N may be 0. `image_id` names the image in messages; without it its place in the batch does.
        num_classes: Labels are 1 to so many.
        masks: Whether the detector needs masks.

    Raises:
        UserError: A label out of range; a box out of the image or of no area; a wrong shape; no masks.
    """
    if len(images) != len(targets):
        raise UserError(f"{len(images)} images came with {len(targets)} targets: give each image one")
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        name = f"image {int(target['image_id'])}" if "image_id" in target else f"image {index} of the batch"
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            told = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
            raise UserError(
                f"{name}: {told} came, boxes (N, 4) and labels (N) are needed, (0, 4) and (0) for no object"
            )
        height, width = image.shape[-2:]
        _check_labels(name, labels, num_classes)
        _check_boxes(name, boxes, height, width)
        if masks:
            _check_masks(name, target.get("masks"), (len(labels), height, width))


def _check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    wrong = labels[(labels < 1) | (labels > num_classes)]
    if len(wrong):
        raise UserError(
            f"{name}: label {int(wrong[0])} is out of range: labels are 1 to {num_classes}, 0 is background"
        )


def _check_boxes(name: str, boxes: Tensor, height: int, width: int) -> None:
    inside = (boxes >= -_BEYOND) & (boxes <= boxes.new_tensor([width, height, width, height]) + _BEYOND)
    wide = boxes[:, 2:] - boxes[:, :2] >= (THINNEST_BOX - _ROUNDING)
    # Where a coordinate is no number, both are false.
    good = inside.all(dim=1) & wide.all(dim=1)
    if bool(good.all()):
        return
    index = int(torch.where(~good)[0][0])
    told = [round(value, 3) for value in boxes[index].tolist()]
    needed = f"0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}, in pixels"
    raise UserError(f"{name}: box {index} is {told}, but (x1, y1, x2, y2) must have {needed}; clip it or leave it out")


def _check_masks(name: str, masks: Tensor | None, shape: tuple[int, int, int]) -> None:
    if masks is None:
        raise UserError(f"{name}: the targets hold no masks; a detector with masks needs them, one without does not")
    if tuple(masks.shape) != shape:
        raise UserError(f"{name}: masks {tuple(masks.shape)} came, {shape} are needed: objects, height and width")


def check_precision(network: nn.Module) -> None:
    """Refuses weights of 16 bits: boxes would be rounded to several pixels, and torchvision's heads mix both.

    Args:
        network: A detector.

    Raises:
        UserError: Its weights have less than 32 bits.
    """
    dtype = next(network.parameters()).dtype
    if dtype.itemsize < 4:
        told = f"the detector's weights are {dtype}, it needs 32 bits"
        raise UserError(f"{told}; run it under autocast instead, --trainer.precision bf16-mixed or 16-mixed")


@contextmanager
def told_batch_norm() -> Iterator[None]:
    """What torch says where a batch norm in training sees one value a channel, in one clear line.

    Raises:
        UserError: In place of that error.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        told = "a batch norm cannot train on one image whose map has one place"
        raise UserError(f"{told}; give more images a batch or larger ones, freeze it, or choose norm group") from error
