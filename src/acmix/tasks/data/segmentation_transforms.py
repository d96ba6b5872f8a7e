"""How images and their labels are varied together, and how images become input."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from acmix.errors import UserError
from acmix.tasks.data.seeding import preserved_rng, seed_sample
from acmix.tasks.data.segmentation_labels import IGNORE

__all__ = ["SegmentationAugmentation", "TrainingTransform", "normalise"]

_TRIES = 10
# Long over short side of ADE20K's recipes, 2048 by 512.
_LONGEST = 4
# The published ranges: 32 of 256 levels, a half more or less, 18 of 360 degrees.
_DISTORTIONS: tuple[dict[str, Any], ...] = (
    {"brightness": (0.875, 1.125)},
    {"contrast": (0.5, 1.5)},
    {"saturation": (0.5, 1.5)},
    {"hue": 0.05},
)


@dataclass(frozen=True)
class SegmentationAugmentation:
    """How training images and their labels are varied; the defaults are the published ones but for `distortion`.

    Attributes:
        crop: Height and width of the random crop; smaller images are padded with ignored pixels.
        short_side: Short side of the image before it is resized by a random ratio (ADE20K's recipes: 512); None: its
            own.
        long_side: Keeps the long side to this many pixels before, where the short side then is shorter; None: to four
            times `short_side`, as published.
        ratio: Smallest and largest ratio of the random resize.
        hflip: Probability of mirroring left and right.
        max_class_share: Crops in which nothing counts, or of which one class covers more than this share of what
            counts, are drawn again, up to 10 times.
        distortion: Probability of each of the changes to brightness, contrast, saturation and hue (published: 0.5).
    """

    crop: tuple[int, int] = (512, 512)
    short_side: int | None = None
    long_side: int | None = None
    ratio: tuple[float, float] = (0.5, 2.0)
    hflip: float = 0.5
    max_class_share: float = 0.75
    distortion: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hflip", "max_class_share", "distortion"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation: {name} is {getattr(self, name)}: give a number from 0 to 1")
        sides = {"crop": min(self.crop), "short_side": self.short_side, "long_side": self.long_side}
        for name, side in sides.items():
            if side is not None and side < 1:
                raise UserError(f"augmentation: {name} is {getattr(self, name)}: give pixels, at least 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"augmentation: ratio is {self.ratio}: give the smallest and the largest, above 0")
        if self.long_side is not None and self.short_side is None:
            raise UserError("augmentation: long_side limits what short_side enlarges; set short_side too")


class TrainingTransform:
    """torchvision's transforms on image and labels, their random numbers fixed by (seed, epoch, index).

    Args:
        augmentation: How images are varied.
        seed: Seed of the run's data.
        mean: Colour of padding, per channel, in [0, 1].
    """

    def __init__(self, augmentation: SegmentationAugmentation, seed: int, mean: tuple[float, ...]) -> None:
        self.augmentation = augmentation
        self.seed = seed
        # Zero, when it is normalised.
        grey = [round(255 * value) for value in mean]
        fill: Any = {tv_tensors.Image: grey, tv_tensors.Mask: IGNORE}
        self.crop = v2.RandomCrop(augmentation.crop, pad_if_needed=True, fill=fill)
        # Not torchvision's `RandomPhotometricDistort`, which exchanges the colours too.
        changes = [v2.RandomApply([v2.ColorJitter(**each)], augmentation.distortion) for each in _DISTORTIONS]
        self.finish = v2.Compose([v2.RandomHorizontalFlip(augmentation.hflip), *changes])

    def __call__(self, image: Tensor, labels: Tensor, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Varies a sample.

        Args:
            image: uint8 [3, H, W].
            labels: uint8 [H, W].
            epoch: Number of the epoch.
            index: Number of the sample.

        Returns:
            uint8 [3, *crop] and uint8 [*crop].
        """
        with preserved_rng():
            seed_sample(self.seed, epoch, index)
            pair = self._resized(tv_tensors.Image(image), tv_tensors.Mask(labels))
            pair = self._cropped(*pair)
            varied: tuple[Tensor, Tensor] = self.finish(*pair)
        return varied

    def _resized(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.augmentation.ratio
        factor = low + (high - low) * float(torch.rand(()))
        height, width = image.shape[-2:]
        if self.augmentation.short_side is not None:
            short, long = self.augmentation.short_side, self.augmentation.long_side
            factor *= min(short / min(height, width), (long or _LONGEST * short) / max(height, width))
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        if size == [height, width]:
            return image, labels
        nearest = vision.resize(labels, size, interpolation=v2.InterpolationMode.NEAREST_EXACT)
        return vision.resize(image, size, antialias=True), nearest

    def _cropped(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(_TRIES):
            cropped: tuple[Tensor, Tensor] = self.crop(image, labels)
            counts = torch.bincount(cropped[1].flatten(), minlength=IGNORE + 1)[:IGNORE]
            if 0 < counts.max() <= self.augmentation.max_class_share * counts.sum():
                break
        return cropped


def normalise(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """An image for the network.

    Args:
        image: uint8 [3, H, W].
        mean: Per channel, of values in [0, 1]; subtracted.
        std: Per channel; divided by.

    Returns:
        float32 [3, H, W].
    """
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return torch.as_tensor(image).float().div_(255).sub_(shift).div_(scale)
