"""Scenes of handwritten digits, for detection and segmentation: nothing to download."""

from typing import Literal, get_args

from acmix.errors import UserError
from acmix.tasks.data.base import ImageDataModule
from acmix.tasks.data.digits import digits_split
from acmix.tasks.data.scene_composition import SceneForm
from acmix.tasks.data.scene_sources import DetectionScenes, Scenes, SegmentationScenes

__all__ = ["DigitScenesDataModule"]

SceneTask = Literal["detection", "segmentation"]
_DIGITS = [str(digit) for digit in range(10)]


class DigitScenesDataModule(ImageDataModule):
    """scikit-learn's handwritten digits, composed to scenes on procedural backgrounds.

    Digits are those of `digits_split`: scenes of validation and test show digits that no training scene shows. The
    strokes are real, the composition is synthetic. Later digits may cover earlier ones in part; of each at least 60 %
    stays visible. Validation and test scenes are always the same, whatever the seed; prediction runs over the test's.

    Batches for detection are lists of images [3, H, W] in [0, 1] and of dictionaries as torchvision's detectors take
    them, masks included; label d + 1 is digit d. For segmentation images are normalised to (x - 0.5) / 0.25; training
    batches are float32 [B, 3, H, W] and int64 [B, H, W], those of evaluation lists of single images and maps; class 0
    is the background, class d + 1 digit d.

    Args:
        task: What the batches are for.
        batch_size: Images per batch and process.
        num_workers: Worker processes; 0 makes the batches in the main process.
        seed: Seed of order and, with `fresh`, of the training scenes, >= 0.
        image_size: Height and width H = W.
        train_scenes: Scenes per training epoch.
        val_scenes: Validation scenes.
        test_scenes: Test scenes.
        max_digits: Most digits in a scene; the least is one.
        digit_sizes: Smallest and largest digit, in pixels.
        fresh: Draws new training scenes in each epoch; otherwise all epochs read the same.

    Example:
        >>> data = DigitScenesDataModule("detection")
        >>> data.num_classes, data.class_names[0]
        (10, '0')
    """

    def __init__(  # noqa: PLR0913 - the options of the command line; keyword-only after the eighth
        self,
        task: SceneTask,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        image_size: int = 96,
        train_scenes: int = 600,
        val_scenes: int = 100,
        test_scenes: int = 200,
        *,
        max_digits: int = 6,
        digit_sizes: tuple[int, int] = (14, 36),
        fresh: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, image_size)
        if task not in get_args(SceneTask):
            raise UserError(f"task is {task!r}: choose from {', '.join(get_args(SceneTask))}")
        counts = {"train": train_scenes, "val": val_scenes, "test": test_scenes}
        for name, value in (
            {f"{part}_scenes": count for part, count in counts.items()} | {"max_digits": max_digits}
        ).items():
            if value < 1:
                raise UserError(f"{name} is {value}: give a whole number of at least 1")
        smallest, largest = digit_sizes
        if not 8 <= smallest <= largest <= image_size:
            raise UserError(
                f"digit_sizes are {smallest} and {largest}: give the smallest, of at least 8 pixels, and the largest, "
                f"of at most image_size {image_size}"
            )
        self.task = task
        self.counts = counts
        self.form = SceneForm(image_size, max_digits, (smallest, largest))
        self.fresh = fresh

    @property
    def class_names(self) -> list[str]:
        """The ten digits; for segmentation the background before them."""
        return _DIGITS if self.task == "detection" else ["background", *_DIGITS]

    def setup(self, stage: str | None = None) -> None:
        """Makes the sources; the same for every stage.

        Args:
            stage: Not used.
        """
        split = digits_split()
        for number, (part, count) in enumerate(self.counts.items()):
            training = part == "train"
            scenes = Scenes(
                getattr(split, f"{part}_images"),
                getattr(split, f"{part}_labels"),
                self.form,
                count,
                number,
                self.seed if training and self.fresh else None,
            )
            self.sources[part] = (
                DetectionScenes(scenes) if self.task == "detection" else SegmentationScenes(scenes, stacked=training)
            )
        self.sources["predict"] = self.sources["test"]
