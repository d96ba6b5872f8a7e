"""Images in ImageNet's folder layout."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from acmix.errors import UserError
from acmix.tasks.data.augmentation import IMAGENET_MEAN, IMAGENET_STD, Augmentation, ImageFormat, Interpolation
from acmix.tasks.data.base import ImageDataModule
from acmix.tasks.data.cache import RamStore
from acmix.tasks.data.images import FileStore, ImageStore, OnBadImage
from acmix.tasks.data.labelled import LabelledImages
from acmix.tasks.data.listing import Listing, find_classes, hold_out, list_folder, list_labelled
from acmix.tasks.data.notes import warn
from acmix.tasks.data.transforms import for_evaluation, for_training

__all__ = ["ImageFolderDataModule"]

_VAL_FOLDERS = ("val", "validation", "valid")
_STANDARD = Augmentation()


class ImageFolderDataModule(ImageDataModule):
    """Images in ImageNet's layout: `root/train/<class>/*.jpg`, `root/val/<class>/*.jpg`, `root/test/<class>/*.jpg`.

    Validation reads `val_folder`; where there is none, a fixed part of the training images, equal shares of each class
    whatever the seed, is held out. The test reads `test_folder`; where there is none, the validation images.
    Prediction reads `predict_folder`, any folder of images (their targets are -1); without one, the test images.

    The defaults are timm's recipe for ImageNet. For CIFAR: `image_size=32`, `cache="ram"`,
    `augmentation=Augmentation(crop="padded")`, `num_workers=0`; that path works on whole batches.

    Args:
        root: The folder that holds the folders below.
        batch_size: Images per batch and process.
        num_workers: Worker processes; 0 makes the batches in the main process.
        image_size: Height and width of the batches.
        seed: Seed of order and augmentation, >= 0.
        augmentation: How training images are varied.
        cache: `ram` decodes each image once and keeps it, at full size, in the memory of each process; `none` reads
            the files every time. The batches are the same.
        on_bad_image: `raise` stops at a file that is no image or is damaged; `skip` leaves it out of its batch,
            reports it, and lists it in `skipped`.
        train_folder: Name of the training folder.
        val_folder: Name of the validation folder; None: `val`, `validation` or `valid`, whichever is there.
        test_folder: Name of the test folder; None: `test` if it is there.
        predict_folder: Folder of images to predict, below `root` or absolute.
        val_fraction: Share of the training images that is held out where there is no validation folder.
        mean: Per channel, of values in [0, 1]; subtracted.
        std: Per channel; divided by.
        interpolation: For resizing; `random` is timm's bilinear or bicubic, in evaluation bilinear.
        crop_pct: Evaluation resizes the shorter edge to `image_size / crop_pct` before the centre crop; None: timm's
            0.875, or 1 where training does not crop to a random size.

    Raises:
        UserError: In `setup`: a folder is missing or empty, the classes of two folders differ; there or while reading:
            a file is no image or is damaged.

    Example:
        >>> data = ImageFolderDataModule("imagenet", batch_size=128, num_workers=8)
        >>> data.image_size, data.batch_size
        (224, 128)
    """

    def __init__(  # noqa: PLR0913 - the options of the command line; keyword-only after the eighth
        self,
        root: str | Path,
        batch_size: int = 64,
        num_workers: int = 2,
        image_size: int = 224,
        seed: int = 0,
        augmentation: Augmentation = _STANDARD,
        cache: Literal["none", "ram"] = "none",
        on_bad_image: OnBadImage = "raise",
        *,
        train_folder: str = "train",
        val_folder: str | None = None,
        test_folder: str | None = None,
        predict_folder: str | Path | None = None,
        val_fraction: float = 0.1,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        interpolation: Interpolation = "bilinear",
        crop_pct: float | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, image_size)
        for name, value in (("val_fraction", val_fraction), ("crop_pct", crop_pct)):
            if value is not None and not 0 < value <= 1:
                raise UserError(f"{name} is {value}: give a share above 0 and up to 1")
        self.root = Path(root).expanduser()
        self.augmentation = augmentation
        self.cache = cache
        self.on_bad_image: OnBadImage = on_bad_image
        self.train_folder = train_folder
        self.val_folder = val_folder
        self.test_folder = test_folder
        self.predict_folder = predict_folder
        self.val_fraction = val_fraction
        if crop_pct is None:
            crop_pct = 0.875 if augmentation.crop == "resized" else 1.0
        self.form = ImageFormat(image_size, tuple(mean), tuple(std), interpolation, crop_pct)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the class folders, sorted: of training, or of validation or test where that is all there is."""
        for folder in (self._train_path, self._val_path, self._test_path):
            if folder is not None and folder.is_dir():
                return find_classes(folder)
        raise self._missing(self.train_folder)

    def setup(self, stage: str | None = None) -> None:
        """Lists the files that the stage needs and, with `cache="ram"`, decodes them.

        Args:
            stage: `fit`, `validate`, `test`, `predict`, or None for all.
        """
        self.fill(stage)

    @property
    def _train_path(self) -> Path:
        return self.root / self.train_folder

    @property
    def _val_path(self) -> Path | None:
        if self.val_folder is not None:
            return self.root / self.val_folder
        return next((self.root / name for name in _VAL_FOLDERS if (self.root / name).is_dir()), None)

    @property
    def _test_path(self) -> Path | None:
        if self.test_folder is not None:
            return self.root / self.test_folder
        return self.root / "test" if (self.root / "test").is_dir() else None

    def stand_in(self, name: str) -> str | None:
        """Validation for a test without images of its own, and the test for a prediction without any."""
        if name == "test" and self._test_path is None:
            warn(f"no folder 'test' in {self.root}: the test reads the validation images")
            return "val"
        return "test" if name == "predict" and self.predict_folder is None else None

    def make_source(self, name: str) -> LabelledImages:
        """Lists the files of a part, and reads them where they are kept in memory."""
        return self._images(self._listing(name), name)

    def _listing(self, name: str) -> Listing:
        if name == "train":
            return self._train_and_held_out[0]
        if name == "val":
            return self._labelled(self._val_path) if self._val_path else self._held_out()
        if name == "test" and self._test_path is not None:
            return self._labelled(self._test_path)
        return list_folder(self.root / Path(self.predict_folder or "").expanduser())

    @cached_property
    def _train_and_held_out(self) -> tuple[Listing, Listing | None]:
        everything = self._labelled(self._train_path)
        if self._val_path is not None:
            return everything, None
        rest, held = hold_out(everything, self.val_fraction)
        warn(
            f"no folder {', '.join(repr(name) for name in _VAL_FOLDERS)} in {self.root}: "
            f"held out {len(held.paths):,} of {len(everything.paths):,} training images for validation"
        )
        return rest, held

    def _held_out(self) -> Listing:
        held = self._train_and_held_out[1]
        if held is None or not held.paths:
            raise UserError(
                f"each class in {self._train_path} has a single image, none can be held out for validation: "
                "add images or a folder 'val'"
            )
        return held

    def _labelled(self, folder: Path) -> Listing:
        if not folder.is_dir():
            raise self._missing(folder.name)
        return list_labelled(folder, self.class_names)

    def _missing(self, name: str) -> UserError:
        if not self.root.is_dir():
            return UserError(f"no data folder {self.root}: expected a folder that holds '{name}/<class>/*.jpg'")
        there = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir())
        return UserError(
            f"no folder '{name}' in {self.root} (folders there: {', '.join(there) or 'none'}): "
            f"expected '{name}/<class>/*.jpg'"
        )

    def _images(self, listing: Listing, name: str) -> LabelledImages:
        store: ImageStore
        if self.cache == "ram":
            store = RamStore(listing.paths, self.on_bad_image, name)
            self._report_skipped(dict(store.skipped.values()))
        else:
            store = FileStore(listing.paths, self.on_bad_image)
        transform = (
            for_training(self.augmentation, self.form, self.seed, len(listing.paths))
            if name == "train"
            else for_evaluation(self.form)
        )
        return LabelledImages(store, listing.targets, transform)
