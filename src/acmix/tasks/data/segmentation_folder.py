"""Images with a class for each pixel, in ADE20K's folder layout."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from acmix.errors import UserError
from acmix.tasks.data.augmentation import IMAGENET_MEAN, IMAGENET_STD
from acmix.tasks.data.base import ImageDataModule
from acmix.tasks.data.notes import warn
from acmix.tasks.data.segmentation_labels import IGNORE, LabelRule
from acmix.tasks.data.segmentation_listing import Pairs, list_pairs, list_unlabelled
from acmix.tasks.data.segmentation_source import LabelledPixels, PairStore, PixelFormat
from acmix.tasks.data.segmentation_transforms import SegmentationAugmentation, TrainingTransform

__all__ = ["SegmentationFolderDataModule"]

_STANDARD = SegmentationAugmentation()


class SegmentationFolderDataModule(ImageDataModule):
    """Images in ADE20K's layout: `root/images/training/*.jpg` with `root/annotations/training/*.png`, and so on.

    An annotation is a PNG of one channel with the image's name and size. Its numbers are the classes 0 to K - 1; with
    `reduce_zero_label`, as in ADE20K, 0 is ignored and k stands for class k - 1. 255 and `ignored_labels` are ignored.

    Training batches are float32 [B, 3, H, W] and int64 [B, H, W], ignored pixels are 255. Those of evaluation are lists
    of whole images [3, h, w] and of labels [H, W], which keep the size of the file whatever `scale` makes of the image.

    Validation reads `val_folder`. The test reads `test_folder`; where there is none, the validation images. Prediction
    reads `predict_folder`, any folder of images, whose labels are all ignored; without one, the test images.

    Args:
        root: The folder that holds `images` and `annotations`.
        classes: The classes: their number, their names, or a text file with one name a line.
        batch_size: Images per batch and process.
        num_workers: Worker processes; 0 makes the batches in the main process.
        seed: Seed of order and augmentation, >= 0.
        augmentation: How training images are varied.
        cache: `ram` decodes each file once and keeps it, images scaled, in memory; `none` reads the files every time.
            The batches are the same.
        scale: Factor to the images' sides, for small experiments.
        reduce_zero_label: Whether 0 in the files is ignored and k is class k - 1.
        ignored_labels: Numbers in the files that are ignored, beside 255.
        train_folder: Name of the training folder in `images` and `annotations`.
        val_folder: Name of the validation folder.
        test_folder: Name of the test folder; None: `test` if its annotations are there.
        predict_folder: Folder of images to predict, below `root` or absolute.
        mean: Per channel, of values in [0, 1]; subtracted.
        std: Per channel; divided by.

    Raises:
        UserError: An option is out of range. In `setup`: a folder is missing or empty, an image or annotation has no
            counterpart. While reading: a file is damaged, an annotation has several channels, another size than its
            image, or a label that is no class.

    Example:
        >>> data = SegmentationFolderDataModule("ade20k", classes=150, batch_size=16, reduce_zero_label=True)
        >>> data.num_classes
        150
    """

    def __init__(  # noqa: PLR0913 - the options of the command line; keyword-only after the eighth
        self,
        root: str | Path,
        classes: int | list[str] | str = 150,
        batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        augmentation: SegmentationAugmentation = _STANDARD,
        cache: Literal["none", "ram"] = "none",
        scale: float = 1.0,
        *,
        reduce_zero_label: bool = False,
        ignored_labels: list[int] | None = None,
        train_folder: str = "training",
        val_folder: str = "validation",
        test_folder: str | None = None,
        predict_folder: str | Path | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, None)
        if not scale > 0:
            raise UserError(f"scale is {scale}: give a factor above 0")
        if min([0, *(ignored_labels or [])]) < 0:
            raise UserError(f"ignored_labels are {ignored_labels}: give numbers of at least 0")
        self.root = Path(root).expanduser()
        self.classes = classes
        self.augmentation = augmentation
        self.cache = cache
        self.scale = scale
        self.reduce_zero_label = reduce_zero_label
        self.ignored_labels = list(ignored_labels or [])
        self.train_folder = train_folder
        self.val_folder = val_folder
        self.test_folder = test_folder
        self.predict_folder = predict_folder
        self.mean, self.std = mean, std

    @cached_property
    def class_names(self) -> list[str]:
        """The classes' names; their numbers where there are none."""
        classes = self.classes
        if isinstance(classes, int):
            names = [str(number) for number in range(classes)]
        elif isinstance(classes, str):
            names = _names_in(Path(classes).expanduser())
        else:
            names = [str(name) for name in classes]
        if not 2 <= len(names) <= IGNORE:
            raise UserError(
                f"classes names {len(names)} classes: give 2 to {IGNORE}, those that are ignored not counted"
            )
        return names

    def setup(self, stage: str | None = None) -> None:
        """Lists the files that the stage needs and, with `cache="ram"`, decodes them.

        Args:
            stage: `fit`, `validate`, `test`, `predict`, or None for all.
        """
        self.fill(stage)

    def stand_in(self, name: str) -> str | None:
        """Validation for a test without images of its own, and the test for a prediction without any."""
        if name == "test" and self._test_folder is None:
            warn(f"no folder 'test' in {self.root / 'annotations'}: the test reads the validation images")
            return "val"
        return "test" if name == "predict" and self.predict_folder is None else None

    @property
    def _test_folder(self) -> str | None:
        if self.test_folder is not None:
            return self.test_folder
        return "test" if (self.root / "annotations" / "test").is_dir() else None

    def make_source(self, name: str) -> LabelledPixels:
        """Lists the files of a part, and reads them where they are kept in memory."""
        rule = LabelRule(self.num_classes, reduce_zero=self.reduce_zero_label, ignored=self.ignored_labels)
        store = PairStore(self._pairs(name), rule, self.scale)
        if self.cache == "ram" and name != "predict":
            store.keep(name)
        transform = TrainingTransform(self.augmentation, self.seed, self.mean) if name == "train" else None
        return LabelledPixels(store, PixelFormat(self.mean, self.std, self.scale), transform)

    def _pairs(self, name: str) -> Pairs:
        if name == "predict":
            return list_unlabelled(self.root / Path(self.predict_folder or "").expanduser())
        folder = {"train": self.train_folder, "val": self.val_folder, "test": self._test_folder}[name]
        assert folder is not None
        return list_pairs(self.root, folder)


def _names_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"classes {path} is no text file ({error}): give a number, a list of names, or a file with a name a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]
