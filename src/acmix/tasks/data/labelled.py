"""Stored images with class numbers, as batches."""

import numpy as np
import torch
from numpy.typing import NDArray

from acmix.errors import UserError
from acmix.tasks.data.images import ImageStore
from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.transforms import BatchTransform

__all__ = ["LabelledImages"]


class LabelledImages:
    """Makes batches of stored images; a `BatchSource`.

    Args:
        store: The images.
        targets: Their class numbers, int64 [N].
        transform: Makes them ready for the network.
    """

    def __init__(self, store: ImageStore, targets: NDArray[np.int64], transform: BatchTransform) -> None:
        self.store = store
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, key: BatchKey) -> Batch:
        """Reads and transforms images; those that are to be skipped are missing from the batch.

        Args:
            key: Epoch and sample numbers [B].

        Returns:
            Images [B, C, H, W] and targets [B].

        Raises:
            UserError: A file cannot be read and is not to be skipped, or none of the batch's files can be read.
        """
        images, kept, skipped = self.store.read(key.indices)
        if not kept.any():
            path, reason = next(iter(skipped.items()))
            raise UserError(f"none of the {len(kept)} images of a batch can be read, the first is {path}: {reason}")
        readable = BatchKey(key.epoch, key.indices[kept])
        return Batch(self.transform(images, readable), torch.from_numpy(self.targets[readable.indices]), skipped)
