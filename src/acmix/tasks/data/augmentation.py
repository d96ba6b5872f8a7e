"""How images are varied in training and what they look like afterwards."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from acmix.errors import UserError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augmentation", "ImageFormat", "Interpolation"]

Interpolation: TypeAlias = Literal["bilinear", "bicubic", "random"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied; the names are timm's where timm has the option.

    Attributes:
        crop: `resized`: ImageNet's random crop of random size and shape; `padded`: the CIFAR recipe, a crop of full
            size from the padded image; `center`: always the same crop.
        scale: With `resized`: smallest and largest share of the image's area.
        ratio: With `resized`: smallest and largest width over height.
        padding: With `padded`: black pixels added at each side.
        hflip: Probability of mirroring left and right.
        vflip: Probability of mirroring top and bottom.
        color_jitter: Strength of changes to brightness, contrast and saturation; None: timm's 0.4 with `resized`, none
            otherwise. As in timm, not used together with `auto_augment`.
        auto_augment: timm's word for a policy, such as `rand-m9-mstd0.5-inc1`, `augmix-m3-w3` or `original`.
        re_prob: Probability of erasing a random rectangle.
        re_mode: What an erased rectangle is filled with: zeros, one random colour, or random pixels.
        re_count: Largest number of erased rectangles.
    """

    crop: Literal["resized", "padded", "center"] = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 4
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | None = None
    auto_augment: str | None = None
    re_prob: float = 0.0
    re_mode: Literal["const", "rand", "pixel"] = "pixel"
    re_count: int = 1

    def __post_init__(self) -> None:
        for name, words in (("crop", ("resized", "padded", "center")), ("re_mode", ("const", "rand", "pixel"))):
            if getattr(self, name) not in words:
                raise UserError(f"augmentation: {name} is {getattr(self, name)!r}: choose from {', '.join(words)}")
        for name in ("hflip", "vflip", "re_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augmentation: {name} is {getattr(self, name)}: give a probability from 0 to 1")
        if self.padding < 0:
            raise UserError(f"augmentation: padding is {self.padding}: give a number of pixels of at least 0")

    @property
    def jitter(self) -> float:
        """Strength of colour jitter with the default filled in."""
        if self.color_jitter is None:
            return 0.4 if self.crop == "resized" else 0.0
        return self.color_jitter


@dataclass(frozen=True)
class ImageFormat:
    """What images look like after the transforms.

    Attributes:
        size: Height and width.
        mean: Per channel, of values in [0, 1]; subtracted.
        std: Per channel; divided by.
        interpolation: For resizing; `random` (bilinear or bicubic) is bilinear in evaluation.
        crop_pct: In evaluation the shorter edge is resized to `size / crop_pct` before the centre crop.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    crop_pct: float
