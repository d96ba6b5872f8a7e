"""Batches of images in COCO's layout."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data.coco_records import CocoRecords, Objects
from acmix.tasks.data.detection_transforms import Variation, clip_objects, scale_image, scale_objects
from acmix.tasks.data.images import ImageStore, OnBadImage, refuse
from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey

__all__ = ["CocoImages", "PlainImages"]


class CocoImages:
    """Images with objects; a `DetectionSource`.

    Args:
        store: The images.
        records: What is known of them and others.
        rows: Which of the records belong to the images [N].
        scale: Factor of height and width.
        on_bad_image: What to do with an image that has another size than its record says.
        variation: Random changes in training; None gives the targets of evaluation, crowds among them.
    """

    def __init__(
        self,
        store: ImageStore,
        records: CocoRecords,
        rows: NDArray[np.int64],
        scale: float,
        on_bad_image: OnBadImage,
        variation: Variation | None,
    ) -> None:
        self.store = store
        self.records = records
        self.rows = rows
        self.scale = scale
        self.on_bad_image = on_bad_image
        self.variation = variation
        self.category_ids = list(records.categories)

    def __len__(self) -> int:
        return len(self.rows)

    def file_name(self, image_id: int) -> str:
        """The image's file as the annotation file names it.

        Args:
            image_id: The data set's number of the image.

        Returns:
            The name.
        """
        return self.records.file_names[self._row_of[image_id]]

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {number: row for row, number in enumerate(self.records.image_ids.tolist())}

    def batch(self, key: BatchKey) -> Batch:
        """Reads images; those that are to be skipped are missing from the batch.

        Args:
            key: Epoch and sample numbers [B].

        Returns:
            Images [3, H, W] in [0, 1] and torchvision's target dictionaries.

        Raises:
            UserError: An image cannot be read or has another size than its record says, and is not to be skipped; or
                none of the batch can be read.
        """
        pictures, kept, skipped = self.store.read(key.indices)
        images, targets = [], []
        for place, picture in zip(np.flatnonzero(kept).tolist(), _single(pictures), strict=True):
            row = int(self.rows[key.indices[place]])
            height, width = self.records.sizes[row].tolist()
            if (picture.width, picture.height) != (width, height):
                reason = (
                    f"it has {picture.width}x{picture.height} pixels, for {self.records.path.name} it is "
                    f"image {self.records.image_ids[row]} of {width}x{height}"
                )
                path = self.store.paths[key.indices[place]].decode(errors="surrogateescape")
                if self.on_bad_image == "raise":
                    raise refuse(path, reason)
                skipped[path] = reason
                continue
            image = scale_image(picture, self.scale)
            size = (image.shape[1], image.shape[2])
            objects = scale_objects(self.records.of(row), (height, width), size)
            if self.variation is not None:
                objects = clip_objects(objects, *size)
                image, objects = self.variation(image, objects, key, place)
            images.append(image)
            targets.append(_target(objects, int(self.records.image_ids[row]), height, width))
        return Batch(_checked(images, skipped), targets, skipped)


class PlainImages:
    """Images of which nothing is known; a `DetectionSource` whose targets hold no objects.

    Args:
        store: The images.
        file_names: What they are called [N].
        category_ids: The data set's own numbers of the classes.
        scale: Factor of height and width.
    """

    def __init__(self, store: ImageStore, file_names: list[str], category_ids: list[int], scale: float) -> None:
        self.store = store
        self.file_names = file_names
        self.category_ids = category_ids
        self.scale = scale

    def __len__(self) -> int:
        return len(self.store)

    def file_name(self, image_id: int) -> str:
        """The image's file.

        Args:
            image_id: Number of the image.

        Returns:
            Its name, relative to the folder of images.
        """
        return self.file_names[image_id]

    def batch(self, key: BatchKey) -> Batch:
        """Reads images; those that are to be skipped are missing from the batch.

        Args:
            key: Epoch and sample numbers [B].

        Returns:
            Images [3, H, W] in [0, 1] and targets without objects.

        Raises:
            UserError: An image cannot be read and is not to be skipped, or none of the batch can be read.
        """
        pictures, kept, skipped = self.store.read(key.indices)
        images, targets = [], []
        nothing = np.zeros(0, dtype=np.int64)
        objects = Objects(
            np.zeros((0, 4), np.float32), nothing, nothing.astype(np.bool_), nothing.astype(np.float32), None
        )
        for index, picture in zip(key.indices[kept].tolist(), _single(pictures), strict=True):
            images.append(scale_image(picture, self.scale))
            targets.append(_target(objects, index, picture.height, picture.width))
        return Batch(_checked(images, skipped), targets, skipped)


def _single(pictures: NDArray[np.uint8] | Sequence[Image.Image]) -> list[Image.Image]:
    return [Image.fromarray(one) if isinstance(one, np.ndarray) else one for one in pictures]


def _checked(images: list[Tensor], skipped: dict[str, str]) -> list[Tensor]:
    if not images:
        path, reason = next(iter(skipped.items()))
        raise UserError(f"none of the {len(skipped)} images of a batch can be read, the first is {path}: {reason}")
    return images


def _target(objects: Objects, image_id: int, height: int, width: int) -> dict[str, Tensor]:
    target = {
        "boxes": torch.from_numpy(objects.boxes.copy()),
        "labels": torch.from_numpy(objects.labels),
        "image_id": torch.tensor(image_id),
        "area": torch.from_numpy(objects.areas.copy()),
        "iscrowd": torch.from_numpy(objects.crowd.astype(np.int64)),
        "orig_size": torch.tensor([height, width]),
    }
    return target if objects.masks is None else {**target, "masks": torch.from_numpy(objects.masks)}
