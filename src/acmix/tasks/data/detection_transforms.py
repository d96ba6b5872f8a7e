"""How images and their objects are scaled, mirrored and recoloured."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from acmix.tasks.data.coco_records import Objects
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.seeding import epoch_uniforms

__all__ = ["THINNEST_BOX", "Variation", "clip_objects", "scale_image", "scale_objects"]

THINNEST_BOX = 1e-2
"""Least width and height, in pixels, of a box to learn from: thinner ones vanish when they are resized."""

_DRAWS = 4


@dataclass(frozen=True)
class Variation:
    """Random changes to the training images; those of a sample are a function of seed, epoch and its number.

    Attributes:
        seed: Seed of the run's data.
        count: Number of samples in the data set.
        hflip: Probability of mirroring left and right.
        color_jitter: Brightness, contrast and saturation are multiplied with factors in [1 - c, 1 + c].
    """

    seed: int
    count: int
    hflip: float
    color_jitter: float

    def __call__(self, image: Tensor, objects: Objects, key: BatchKey, place: int) -> tuple[Tensor, Objects]:
        """Changes an image.

        Args:
            image: Float32 [3, H, W] in [0, 1].
            objects: Its objects.
            key: The batch.
            place: Which of the batch's samples it is.

        Returns:
            The image and its objects.
        """
        draws = epoch_uniforms(self.seed, key.epoch, self.count, _DRAWS)[key.indices[place]].tolist()
        if draws[0] < self.hflip:
            width = np.float32(image.shape[-1])
            boxes = objects.boxes.copy()
            boxes[:, 0], boxes[:, 2] = width - objects.boxes[:, 2], width - objects.boxes[:, 0]
            # A copy: of a single column NumPy would keep the view, whose stride torch does not take.
            masks = None if objects.masks is None else objects.masks[:, :, ::-1].copy()
            image, objects = image.flip(-1), objects._replace(boxes=boxes, masks=masks)
        if self.color_jitter:
            brightness, contrast, saturation = (1 + self.color_jitter * (2 * draw - 1) for draw in draws[1:])
            image = functional.adjust_brightness(image, brightness)
            image = functional.adjust_contrast(image, contrast)
            image = functional.adjust_saturation(image, saturation)
        return image, objects


def scale_image(image: Image.Image, scale: float) -> Tensor:
    """Makes a tensor of an image.

    Args:
        image: In RGB.
        scale: Factor of height and width; what comes out has at least one pixel.

    Returns:
        Float32 [3, H, W] in [0, 1].
    """
    if scale != 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255


def scale_objects(objects: Objects, old: tuple[int, int], new: tuple[int, int]) -> Objects:
    """Scales objects as their image was.

    Args:
        objects: The objects.
        old: Height and width before.
        new: Height and width now.

    Returns:
        Objects in the new pixels; masks take the nearest pixel.
    """
    if old == new:
        return objects
    down, across = new[0] / old[0], new[1] / old[1]
    boxes = objects.boxes * np.array([across, down, across, down], dtype=np.float32)
    masks = objects.masks
    if masks is not None:
        rows, columns = (
            ((np.arange(now) + 0.5) * was / now).astype(np.int64) for was, now in zip(old, new, strict=True)
        )
        masks = np.ascontiguousarray(masks[:, rows][:, :, columns])
    return objects._replace(boxes=boxes, masks=masks, areas=objects.areas * np.float32(down * across))


def clip_objects(objects: Objects, height: int, width: int) -> Objects:
    """Makes objects ready for training: single ones only, their boxes within the image.

    Args:
        objects: The objects.
        height: Of the image.
        width: Of the image.

    Returns:
        The objects that are no crowd and have an extent within the image, of a hundredth of a pixel at least.
    """
    limits: NDArray[np.float32] = np.array([width, height, width, height], dtype=np.float32)
    boxes = np.clip(objects.boxes, 0, limits)
    kept = ~objects.crowd & (boxes[:, 2:] - boxes[:, :2] >= THINNEST_BOX).all(axis=1)
    masks = None if objects.masks is None else objects.masks[kept]
    return Objects(boxes[kept], objects.labels[kept], objects.crowd[kept], objects.areas[kept], masks)
