"""Image data for classification; what a run reads depends on seed, epoch and index alone."""

from acmix.tasks.data.augmentation import Augmentation
from acmix.tasks.data.base import ImageDataModule
from acmix.tasks.data.digits import DigitsDataModule, DigitsSplit, digits_split
from acmix.tasks.data.image_folder import ImageFolderDataModule

__all__ = [
    "Augmentation",
    "DigitsDataModule",
    "DigitsSplit",
    "ImageDataModule",
    "ImageFolderDataModule",
    "digits_split",
]
