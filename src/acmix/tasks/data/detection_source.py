"""What all detection data can tell beside their batches."""

from typing import Protocol, runtime_checkable

from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey

__all__ = ["DetectionSource"]


@runtime_checkable
class DetectionSource(Protocol):
    """A `BatchSource` of images with boxes.

    Batches are lists of images, float32 [3, H, W] in [0, 1], and of dictionaries: `boxes` float32 [N, 4] (left, top,
    right, bottom in pixels), `labels` int64 [N] from 1, `masks` uint8 [N, H, W] where the data have them, `image_id`
    int64 scalar, `area` float32 [N], `iscrowd` int64 [N], and `orig_size` int64 [2], height and width of the original,
    where H and W may be those of a smaller copy.

    Attributes:
        category_ids: The data set's own numbers of the classes; label n stands for `category_ids[n - 1]`.
    """

    category_ids: list[int]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def file_name(self, image_id: int) -> str:
        """The image's file as the data set names it, or a name for one that is no file.

        Args:
            image_id: The `image_id` of its target.

        Returns:
            The name.
        """
        ...

    def batch(self, key: BatchKey) -> Batch:
        """Makes a batch.

        Args:
            key: Epoch and sample numbers [B].

        Returns:
            Images and targets.
        """
        ...
