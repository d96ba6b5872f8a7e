"""The pixels' cross-entropy, which leaves ignored pixels out."""

import torch
from torch import Tensor
from torch.nn import functional as F

from acmix.tasks.data.segmentation_labels import IGNORE

__all__ = ["pixel_cross_entropy"]


def pixel_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels that count, 0 where there are none.

    Args:
        logits: [B, K, H, W].
        targets: Class numbers int64 [B, H, W], 255 where a pixel is ignored.
        weights: Weight of each class [K]; the mean is then weighted too, as in `torch.nn.functional.cross_entropy`.

    Returns:
        A scalar, float32.
    """
    total = F.cross_entropy(logits.float(), targets, weights, ignore_index=IGNORE, reduction="sum")
    valid = targets != IGNORE
    if weights is None:
        return total / valid.sum().clamp(min=1)
    weight = (weights[targets.masked_fill(~valid, 0)] * valid).sum()
    # No count: where all classes that occur weigh nothing, the sum is zero too.
    return total / torch.where(weight > 0, weight, torch.ones_like(weight))
