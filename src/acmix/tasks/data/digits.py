"""The handwritten digits that come with scikit-learn: real data, nothing to download."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from acmix.errors import UserError
from acmix.tasks.data.base import ImageDataModule
from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.seeding import epoch_uniforms

__all__ = ["DigitsDataModule", "DigitsSplit", "digits_split"]

_TEST_IMAGES = 360
_VAL_IMAGES = 137
_GREY_LEVELS = 16
_SIZE = 8


class DigitsSplit(NamedTuple):
    """The digits in their three parts; images float32 [N, 8, 8] in [0, 1], labels int64 [N] in 0 to 9.

    Attributes:
        train_images: 1300 images.
        train_labels: Their digits.
        val_images: 137 images.
        val_labels: Their digits.
        test_images: 360 images.
        test_labels: Their digits.
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    val_images: NDArray[np.float32]
    val_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


@cache
def digits_split() -> DigitsSplit:
    """Splits scikit-learn's 1797 handwritten digits, always in the same way and in equal shares of each digit.

    Source: the test set of the UCI "Optical Recognition of Handwritten Digits", as `sklearn.datasets.load_digits`
    ships it.

    Returns:
        Read-only arrays: training (1300), validation (137) and held-out test (360).

    Example:
        >>> split = digits_split()
        >>> split.train_images.shape, split.val_images.shape, split.test_images.shape
        ((1300, 8, 8), (137, 8, 8), (360, 8, 8))
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / _GREY_LEVELS).astype(np.float32)
    labels = digits.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(labels)), test_size=_TEST_IMAGES, stratify=labels, random_state=0)
    train, val = train_test_split(rest, test_size=_VAL_IMAGES, stratify=labels[rest], random_state=0)
    parts = [array[np.sort(part)] for part in (train, val, test) for array in (images, labels)]
    for part in parts:
        part.flags.writeable = False
    return DigitsSplit(*parts)


class DigitsDataModule(ImageDataModule):
    """scikit-learn's handwritten digits: 1300 for training, 137 for validation, 360 held out for the test.

    The split is fixed, whatever the seed. Prediction runs over the test images. Images are single-channel, enlarged
    bilinearly where `image_size` asks for it, and normalised by mean and standard deviation of the training images.

    Args:
        batch_size: Images per batch and process.
        num_workers: Worker processes; 0 is fastest here.
        seed: Seed of order and augmentation, >= 0.
        image_size: Height and width of the batches; the originals have 8.
        augment: Turns and shifts the training images a little, anew in each epoch; never mirrors them.
        max_rotation: Largest turn in degrees, either way.
        max_shift: Largest shift in pixels of the 8x8 original, in each direction.
    """

    in_chans = 1

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        image_size: int = 8,
        augment: bool = False,
        max_rotation: float = 10.0,
        max_shift: float = 0.75,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, image_size)
        self.side = image_size
        if max_rotation < 0 or max_shift < 0:
            raise UserError(f"max_rotation is {max_rotation}, max_shift {max_shift}: give numbers of at least 0")
        self.augment = augment
        self.max_rotation = max_rotation
        self.max_shift = max_shift

    @property
    def class_names(self) -> list[str]:
        """The ten digits."""
        return [str(digit) for digit in range(10)]

    def setup(self, stage: str | None = None) -> None:
        """Splits, enlarges and normalises the images; the same for every stage.

        Args:
            stage: Not used.
        """
        split = digits_split()
        mean, std = float(split.train_images.mean()), float(split.train_images.std())

        def source(images: NDArray[np.float32], labels: NDArray[np.int64], moves: "_SmallMoves | None") -> _Digits:
            return _Digits(_enlarge(images, self.side), labels, mean, std, moves)

        moves = _SmallMoves(self.seed, self.max_rotation, self.max_shift) if self.augment else None
        self.sources = {
            "train": source(split.train_images, split.train_labels, moves),
            "val": source(split.val_images, split.val_labels, None),
            "test": source(split.test_images, split.test_labels, None),
        }
        self.sources["predict"] = self.sources["test"]


class _SmallMoves:
    """Random small rotations and shifts, sampled bilinearly, black outside.

    In NumPy: on batches this small, torch's threads cost more than they give wherever other work keeps the cores busy.

    Args:
        seed: Seed of the run's data.
        max_rotation: Degrees.
        max_shift: Pixels of the 8x8 original.
    """

    def __init__(self, seed: int, max_rotation: float, max_shift: float) -> None:
        self.seed = seed
        self.max_angle = float(np.deg2rad(max_rotation))
        self.max_shift = max_shift

    def __call__(self, images: NDArray[np.float32], key: BatchKey, count: int) -> NDArray[np.float32]:
        """Moves each image [B, H, W]; `count` is the number of samples in the data set."""
        size = images.shape[-1]
        draws = 2 * epoch_uniforms(self.seed, key.epoch, count, 3)[key.indices, :, None, None] - 1
        angle, shift = draws[:, 0] * self.max_angle, draws[:, 1:] * np.float32(self.max_shift * size / _SIZE)
        centre = np.float32((size - 1) / 2)
        rows, columns = np.mgrid[:size, :size].astype(np.float32) - centre
        cos, sin = np.cos(angle), np.sin(angle)
        # One black pixel around the image is enough: further out everything is as black.
        y = np.clip(cos * rows + sin * columns + centre + shift[:, 0], -1, size) + 1
        x = np.clip(cos * columns - sin * rows + centre + shift[:, 1], -1, size) + 1
        padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
        top, left = y.astype(np.int64), x.astype(np.int64)
        y -= top
        x -= left
        each = np.arange(len(images))[:, None, None]
        upper = padded[each, top, left] * (1 - x) + padded[each, top, left + 1] * x
        lower = padded[each, top + 1, left] * (1 - x) + padded[each, top + 1, left + 1] * x
        moved: NDArray[np.float32] = upper * (1 - y) + lower * y
        return moved


class _Digits:
    """The images of one part, in memory: float32 [N, H, W] in [0, 1]."""

    def __init__(
        self,
        images: NDArray[np.float32],
        targets: NDArray[np.int64],
        mean: float,
        std: float,
        moves: _SmallMoves | None,
    ) -> None:
        self.images = images
        self.targets = targets
        self.mean = np.float32(mean)
        self.std = np.float32(std)
        self.moves = moves

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, key: BatchKey) -> Batch:
        images = self.images[key.indices]
        if self.moves is not None:
            images = self.moves(images, key, len(self))
        normalised = (images - self.mean) / self.std
        return Batch(torch.from_numpy(normalised).unsqueeze(1), torch.from_numpy(self.targets[key.indices]), {})


def _enlarge(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    if size == _SIZE:
        return images
    enlarged = F.interpolate(torch.tensor(images).unsqueeze(1), size=(size, size), mode="bilinear", antialias=True)
    result: NDArray[np.float32] = enlarged.squeeze(1).numpy()
    return result
