"""Image data for all tasks; what a run reads depends on seed, epoch and index alone."""

from acmix.tasks.data.augmentation import Augmentation
from acmix.tasks.data.base import ImageDataModule
from acmix.tasks.data.coco import CocoDetectionDataModule
from acmix.tasks.data.digits import DigitsDataModule, DigitsSplit, digits_split
from acmix.tasks.data.image_folder import ImageFolderDataModule
from acmix.tasks.data.scenes import DigitScenesDataModule
from acmix.tasks.data.segmentation_folder import SegmentationFolderDataModule

__all__ = [
    "Augmentation",
    "CocoDetectionDataModule",
    "DigitScenesDataModule",
    "DigitsDataModule",
    "DigitsSplit",
    "ImageDataModule",
    "ImageFolderDataModule",
    "SegmentationFolderDataModule",
    "digits_split",
]
