"""Masks as COCO's run lengths: hundreds of bytes instead of a picture each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["decode_masks", "encode_masks", "mask_areas", "run_lengths"]

_THRESHOLD = 0.5


def encode_masks(masks: Tensor) -> list[bytes]:
    """Encodes masks.

    Args:
        masks: [N, H, W] or, as torchvision predicts them, [N, 1, H, W]; a pixel belongs to the object where a
            floating-point mask is above one half, or another one is not zero.

    Returns:
        COCO's compressed run lengths, N of them.
    """
    from faster_coco_eval.core import mask as coco_masks

    if masks.dim() == 4:
        masks = masks.squeeze(1)
    if not len(masks):
        return []
    binary = masks > _THRESHOLD if masks.is_floating_point() else masks != 0
    # The encoder reads [H, W, N] in Fortran's order, in which the runs go down the columns.
    columns = binary.transpose(1, 2).to(device="cpu", dtype=torch.uint8).contiguous().numpy()
    return [encoded["counts"] for encoded in coco_masks.encode(columns.transpose(2, 1, 0))]


def decode_masks(counts: Sequence[bytes], height: int, width: int) -> NDArray[np.uint8]:
    """Decodes masks.

    Args:
        counts: COCO's compressed run lengths, N of them.
        height: Of the masks.
        width: Of the masks.

    Returns:
        Zeros and ones [N, height, width].
    """
    from faster_coco_eval.core import mask as coco_masks

    if not counts:
        return np.zeros((0, height, width), dtype=np.uint8)
    decoded = coco_masks.decode([run_lengths(one, height, width) for one in counts])
    return np.ascontiguousarray(decoded.transpose(2, 0, 1))


def mask_areas(counts: Sequence[bytes], height: int, width: int) -> NDArray[np.float64]:
    """Counts the pixels of masks.

    Args:
        counts: COCO's compressed run lengths, N of them.
        height: Of the masks.
        width: Of the masks.

    Returns:
        Areas [N].
    """
    from faster_coco_eval.core import mask as coco_masks

    if not counts:
        return np.zeros(0)
    return np.asarray(coco_masks.area([run_lengths(one, height, width) for one in counts]), dtype=np.float64)


def run_lengths(counts: bytes, height: int, width: int) -> dict[str, Any]:
    """A mask as the COCO tools take it.

    Args:
        counts: COCO's compressed run lengths.
        height: Of the mask.
        width: Of the mask.

    Returns:
        The dictionary with `size` and `counts`.
    """
    return {"size": [height, width], "counts": counts}
