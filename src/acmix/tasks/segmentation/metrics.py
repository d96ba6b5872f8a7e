"""How well classes overlap: intersection over union over a whole data set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from acmix.tables import format_table
from acmix.tasks.data.segmentation_labels import IGNORE

__all__ = ["DatasetIoU", "format_classes", "intersection_over_union"]


def intersection_over_union(confusion: Tensor) -> Tensor:
    """Intersection over union of each class.

    Args:
        confusion: Pixels [K, K] by target (rows) and prediction (columns).

    Returns:
        float64 [K]; NaN for a class that occurs neither in the targets nor in the predictions.
    """
    counts = confusion.double()
    hits = counts.diagonal()
    return hits / (counts.sum(dim=0) + counts.sum(dim=1) - hits)


class DatasetIoU(MulticlassConfusionMatrix):
    """Mean intersection over union and accuracy, of pixels of all images together; ignored pixels do not count.

    Classes that never occur, neither in the targets nor in the predictions, are left out of the mean, as in the
    published figures.

    Args:
        num_classes: Classes K.

    Attributes:
        confusion: The matrix [K, K] of the last `compute`, by target and prediction; None before.
    """

    def __init__(self, num_classes: int) -> None:
        # The data module has checked the labels; checking each batch again would wait for the device.
        super().__init__(num_classes, ignore_index=IGNORE, validate_args=False)
        self.confusion: Tensor | None = None

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]  # two numbers from one matrix
        """`miou` and `pixel_accuracy`, scalars float32; NaN where no pixel counts."""
        matrix: Any = super().compute()
        self.confusion = matrix.detach().cpu()
        # On the CPU: not every device has double precision.
        counts = self.confusion.double()
        values = {
            "miou": intersection_over_union(counts).nanmean(),
            "pixel_accuracy": counts.diagonal().sum() / counts.sum(),
        }
        return {name: value.to(matrix.device, torch.float32) for name, value in values.items()}


def format_classes(confusion: Tensor, class_names: Sequence[str]) -> str:
    """A table of the classes: intersection over union, share of the class's pixels that are found, share of pixels.

    Args:
        confusion: Pixels [K, K] by target and prediction.
        class_names: Their names [K].

    Returns:
        Lines of text; the last one is the mean over the classes that occur, and the accuracy over all pixels.
    """
    counts = confusion.double()
    overlap, found = intersection_over_union(counts), counts.diagonal() / counts.sum(dim=1)
    shares = counts.sum(dim=1) / counts.sum().clamp(min=1)
    rows = [
        [name, *(_percent(value) for value in values)]
        for name, *values in zip(class_names, overlap.tolist(), found.tolist(), shares.tolist(), strict=True)
    ]
    total = float(counts.diagonal().sum() / counts.sum().clamp(min=1))
    mean = [_percent(float(torch.nanmean(overlap))), _percent(float(torch.nanmean(found)))]
    rows.append(["mean", *mean, ""])
    rows.append(["all pixels", "", _percent(total), _percent(float(shares.sum()))])
    return format_table(["class", "IoU %", "accuracy %", "pixels %"], rows)


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.2f}"
