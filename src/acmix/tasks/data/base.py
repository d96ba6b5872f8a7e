"""What all image data modules share: loaders whose batches depend on seed, epoch and index alone."""

from abc import ABC, abstractmethod

from lightning.pytorch import LightningDataModule

from acmix.errors import UserError
from acmix.tasks.data.loader import BatchSource, EpochLoader
from acmix.tasks.data.notes import warn
from acmix.tasks.data.sampler import EpochBatches, EpochOrder

__all__ = ["ImageDataModule"]

_PARTS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


def _parts_of(stage: str | None) -> tuple[str, ...]:
    """The parts of a data set that a stage reads, all for None."""
    return _PARTS[stage] if stage else ("train", "val", "test", "predict")


class ImageDataModule(LightningDataModule, ABC):
    """Images for training, validation, test and prediction.

    Batches are `(images, targets)`: with class labels float32 [B, C, H, W] and int64 [B]; for detection and
    segmentation see their data modules. What a batch holds, augmentation included, is a
    function of seed, epoch and sample number, never of a running state: another number of workers, of processes (at the
    same total batch size) or a restart in mid-epoch reads the same data. See `EpochLoader` for the restart. The global
    random generators are left as they are.

    Training leaves out the incomplete last batch of an epoch, evaluation reads everything once, on any number of
    processes. Lightning's `use_distributed_sampler` has no effect here: the samples are divided already.

    A subclass gives `class_names` and `in_chans`, and fills `sources` in `setup`.

    Args:
        batch_size: Images per batch and process.
        num_workers: Worker processes; 0 makes the batches in the main process.
        seed: Seed of order and augmentation, >= 0.
        image_size: Height and width H = W of the batches; None where images keep sizes of their own.

    Attributes:
        sources: The data by name (`train`, `val`, `test`, `predict`); present after `setup` of the stage.
        skipped: Files that were left out because they cannot be read, with the reason.
    """

    in_chans: int = 3

    def __init__(self, batch_size: int, num_workers: int, seed: int, image_size: int | None) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
            ("image_size", image_size, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"{name} is {value}: give a whole number of at least {least}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.image_size = image_size
        self.sources: dict[str, BatchSource] = {}
        self.skipped: dict[str, str] = {}
        self._loaders: list[EpochLoader] = []

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their numbers; known before `setup`."""

    @property
    def num_classes(self) -> int:
        """Number of classes; known before `setup`."""
        return len(self.class_names)

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Fills `sources` with what the stage needs; what is there already stays.

        Args:
            stage: `fit`, `validate`, `test`, `predict`, or None for all.
        """

    def fill(self, stage: str | None) -> None:
        """Fills `sources` with what a stage needs, where `setup` leaves it to `make_source` and `stand_in`."""
        for name in _parts_of(stage):
            self._fill(name)

    def make_source(self, name: str) -> BatchSource:
        """A part of the data that has files of its own."""
        raise NotImplementedError

    def stand_in(self, name: str) -> str | None:
        """The part that is read in the place of another one; None where that has files of its own."""
        return None

    def _fill(self, name: str) -> None:
        if name in self.sources:
            return
        other = self.stand_in(name)
        if other is None:
            self.sources[name] = self.make_source(name)
        else:
            self._fill(other)
            self.sources[name] = self.sources[other]

    def train_dataloader(self) -> EpochLoader:
        """Returns the training batches, in a new order each epoch."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> EpochLoader:
        """Returns the validation batches."""
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader:
        """Returns the test batches."""
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader:
        """Returns the batches to predict."""
        return self._loader("predict")

    def teardown(self, stage: str | None = None) -> None:
        """Ends the worker processes.

        Args:
            stage: The stage that ends; not used.
        """
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def _loader(self, name: str, *, training: bool = False) -> EpochLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        source = self.sources[name]
        # Lightning asks for the same batches in each epoch when it is to overfit.
        reshuffle = not (trainer is not None and trainer.overfit_batches)  # type: ignore[attr-defined]  # set outside its __init__
        order = EpochOrder(len(source), self.seed, shuffle=training, reshuffle=reshuffle)
        loader = EpochLoader(
            source,
            EpochBatches(order, self.batch_size, drop_last=training, rank=rank, world_size=world_size),
            num_workers=self.num_workers,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            first_batch=self._completed_batches,
            on_skip=self._report_skipped,
        )
        self._loaders.append(loader)
        return loader

    def _completed_batches(self) -> int:
        """Number of batches of the current epoch that the trainer has completed."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def _report_skipped(self, skipped: dict[str, str]) -> None:
        for path, reason in skipped.items():
            if path not in self.skipped:
                self.skipped[path] = reason
                warn(f"skipped {path}: {reason} ({len(self.skipped)} skipped so far)")
