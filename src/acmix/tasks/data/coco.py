"""Images with boxes and masks in COCO's layout."""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from acmix.errors import UserError
from acmix.packages import require
from acmix.tasks.data.base import ImageDataModule
from acmix.tasks.data.cache import RamStore
from acmix.tasks.data.coco_faults import OnBadRecord
from acmix.tasks.data.coco_files import missing_annotations, missing_folder, missing_images
from acmix.tasks.data.coco_images import CocoImages, PlainImages
from acmix.tasks.data.coco_records import CocoRecords, read_records
from acmix.tasks.data.detection_source import DetectionSource
from acmix.tasks.data.detection_transforms import Variation
from acmix.tasks.data.images import FileStore, ImageStore, OnBadImage
from acmix.tasks.data.listing import list_folder
from acmix.tasks.data.notes import inform

__all__ = ["CocoDetectionDataModule"]


class CocoDetectionDataModule(ImageDataModule):
    """Images in COCO's layout: folders of images, and for each part a JSON file of annotations.

    The defaults are COCO 2017's names; its test images have no public annotations, so the test reads the validation
    images. Prediction reads `predict_folder`, any folder of images; without one, the test images.

    Batches are lists of images, float32 [3, H, W] in [0, 1], and of dictionaries as torchvision's detectors take them;
    see `DetectionSource`. Label n is the n-th category in the order of the ids. Training leaves out crowds and clips
    boxes to the image; evaluation has all objects with their boxes as the file has them, so that its results are
    COCO's.

    Args:
        root: The folder that holds the folders and files below.
        batch_size: Images per batch and process.
        num_workers: Worker processes; 0 makes the batches in the main process.
        seed: Seed of order and variation, >= 0.
        masks: Reads the masks too: polygons or run lengths.
        hflip: Probability of mirroring a training image left and right.
        color_jitter: In training brightness, contrast and saturation vary by factors in [1 - c, 1 + c].
        scale: Factor of height and width, of images, boxes and masks; 0.5 makes experiments four times as cheap.
        cache: `ram` decodes each image once and keeps it, at full size, in the memory of each process; `none` reads
            the files every time. The batches are the same.
        on_bad_image: `raise` stops at an image that is missing, damaged, or not of the size in its record; `skip`
            leaves it out of its batch, reports it, and lists it in `skipped`; a batch of nothing else ends the run.
        on_bad_record: `raise` stops at a record that is at fault; `skip` leaves it out and tells how many there were.
        filter_empty: Leaves out training images without objects, as the published results do.
        train_images: Folder of the training images.
        train_annotations: Their annotations.
        val_images: Folder of the validation images.
        val_annotations: Their annotations.
        test_images: Folder of the test images; None: that of validation.
        test_annotations: Their annotations; None: the test reads the validation images.
        predict_folder: Folder of images to predict, below `root` or absolute.

    Raises:
        UserError: In `setup`: a folder or file is missing, an annotation file is at fault, two files have different
            categories; there or while reading: an image cannot be read.

    Example:
        >>> data = CocoDetectionDataModule("coco", batch_size=2, masks=True)
        >>> data.batch_size, data.masks
        (2, True)
    """

    def __init__(  # noqa: PLR0913 - the options of the command line; keyword-only after the eighth
        self,
        root: str | Path,
        batch_size: int = 2,
        num_workers: int = 2,
        seed: int = 0,
        masks: bool = False,
        hflip: float = 0.5,
        color_jitter: float = 0.0,
        scale: float = 1.0,
        *,
        cache: Literal["none", "ram"] = "none",
        on_bad_image: OnBadImage = "raise",
        on_bad_record: OnBadRecord = "raise",
        filter_empty: bool = True,
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_annotations: str = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_annotations: str | None = None,
        predict_folder: str | Path | None = None,
    ) -> None:
        if masks:
            require("faster_coco_eval")
        super().__init__(batch_size, num_workers, seed, None)
        for name, value in (("hflip", hflip), ("color_jitter", color_jitter)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} is {value}: give a number from 0 to 1")
        if not 0 < scale <= 1:
            raise UserError(f"scale is {scale}: give a factor above 0 and up to 1")
        if test_images is not None and test_annotations is None:
            raise UserError(f"test_images is {test_images}, but test_annotations is not set: set both or neither")
        self.root = Path(root).expanduser()
        self.masks = masks
        self.hflip = hflip
        self.color_jitter = color_jitter
        self.scale = scale
        self.cache = cache
        self.on_bad_image: OnBadImage = on_bad_image
        self.on_bad_record: OnBadRecord = on_bad_record
        self.filter_empty = filter_empty
        self.folders = {"train": train_images, "val": val_images, "test": test_images or val_images}
        self.annotations = {"train": train_annotations, "val": val_annotations}
        if test_annotations is not None:
            self.annotations["test"] = test_annotations
        self.predict_folder = predict_folder
        self._records: dict[Path, CocoRecords] = {}

    @property
    def class_names(self) -> list[str]:
        """The categories in the order of their ids; the first needed file that is there tells them."""
        return list(self._categories.values())

    @property
    def category_ids(self) -> list[int]:
        """The file's own numbers of the classes; label n stands for `category_ids[n - 1]`."""
        return list(self._categories)

    def setup(self, stage: str | None = None) -> None:
        """Reads the annotations that the stage needs and, with `cache="ram"`, decodes the images.

        Args:
            stage: `fit`, `validate`, `test`, `predict`, or None for all.
        """
        self.fill(stage)

    def stand_in(self, name: str) -> str | None:
        """Validation for a test without images of its own, and the test for a prediction without any."""
        if name == "test" and "test" not in self.annotations:
            inform("no test_annotations: the test reads the validation images")
            return "val"
        return "test" if name == "predict" and self.predict_folder is None else None

    def make_source(self, name: str) -> DetectionSource:
        """Checks the annotations of a part, and reads its images where they are kept in memory."""
        if name != "predict":
            return self._annotated(name)
        folder = self.root / Path(self.predict_folder or "").expanduser()
        paths = list_folder(folder).paths
        names = [os.path.relpath(path, folder) for path in paths]
        return PlainImages(self._store(paths, name), names, self.category_ids, self.scale)

    def _annotated(self, name: str) -> CocoImages:
        folder = self.root / self.folders[name]
        if not folder.is_dir():
            raise missing_folder(folder, f"root or {name}_images")
        records = self._read(name)
        if records.categories != self._categories:
            raise UserError(
                f"{records.path} has other categories than {self._first}: "
                f"{_difference(records.categories, self._categories)}; make the two files agree"
            )
        rows = np.arange(len(records))
        if name == "train" and self.filter_empty:
            rows = records.with_objects()
            if not len(rows):
                raise UserError(f"{records.path}: no image has an object, so there is nothing to train with")
        missing = missing_images(folder, records, rows)
        for row in missing:
            reason = f"no such file, but {records.path} names it for image {records.image_ids[row]}"
            if self.on_bad_image == "raise":
                raise UserError(
                    f"{folder / records.file_names[row]}: {reason} ({len(missing):,} of {len(rows):,} files are "
                    f"missing); set {name}_images to the right folder, add the files, or set on_bad_image to skip"
                )
            self._report_skipped({str(folder / records.file_names[row]): reason})
        rows = np.setdiff1d(rows, missing)
        if not len(rows):
            raise UserError(f"none of the images that {records.path} names is in {folder}: set {name}_images")
        store = self._store([str(folder / records.file_names[row]) for row in rows.tolist()], name)
        varied = Variation(self.seed, len(rows), self.hflip, self.color_jitter) if name == "train" else None
        return CocoImages(store, records, rows, self.scale, self.on_bad_image, varied)

    @cached_property
    def _first(self) -> Path:
        """The file that tells the categories: one that is read anyway, or else the smallest."""
        if self._records:
            return next(iter(self._records))
        for name in ("val", "test", "train"):
            path = self.root / self.annotations.get(name, "")
            if path.is_file():
                return self._read(name).path
        path = self.root / self.annotations["val"]
        raise missing_annotations(path, "root or val_annotations")

    @cached_property
    def _categories(self) -> dict[int, str]:
        return self._records[self._first].categories

    def _read(self, name: str) -> CocoRecords:
        path = self.root / self.annotations[name]
        if path not in self._records:
            if not path.is_file():
                raise missing_annotations(path, f"root or {name}_annotations")
            self._records[path] = read_records(path, masks=self.masks, on_bad_record=self.on_bad_record)
        return self._records[path]

    def _store(self, paths: list[str], name: str) -> ImageStore:
        if self.cache == "none":
            return FileStore(paths, self.on_bad_image)
        store = RamStore(paths, self.on_bad_image, name)
        self._report_skipped(dict(store.skipped.values()))
        return store


def _difference(there: dict[int, str], expected: dict[int, str]) -> str:
    only = [f"{number} '{name}'" for number, name in there.items() if expected.get(number) != name]
    lacks = [f"{number} '{name}'" for number, name in expected.items() if there.get(number) != name]
    told = [f"{word} {', '.join(names[:5])}" for word, names in (("adds", only), ("lacks", lacks)) if names]
    return f"it {' and '.join(told)}"
