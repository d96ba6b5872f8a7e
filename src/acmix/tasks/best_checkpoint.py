"""Keeps the checkpoint with the best number of the validation data."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from acmix.tasks.base import Task
from acmix.tasks.run_directory import RunDirectory

__all__ = ["BestCheckpoint", "validates_within_epochs"]


def validates_within_epochs(trainer: Any) -> bool:
    """Whether validation goes by steps or parts of epochs.

    Args:
        trainer: The trainer's configuration. Of Lightning's intervals 1.0 is an epoch, and 1 a batch.
    """
    interval = trainer.val_check_interval
    whole = interval is None or (isinstance(interval, float) and interval == 1.0)
    return trainer.check_val_every_n_epoch is None or not whole


class BestCheckpoint(ModelCheckpoint):
    """The epoch with the best monitored number, or the step where validation comes within epochs.

    Args:
        task: Says which number, and whether the greatest or the least is best.
        directory: Where the file goes.
        within_epochs: See `validates_within_epochs`.
    """

    def __init__(self, task: Task, directory: RunDirectory, *, within_epochs: bool) -> None:
        super().__init__(
            dirpath=directory.checkpoints,
            filename=directory.best.stem,
            monitor=task.monitor,
            mode=task.mode,
            enable_version_counter=False,
            save_on_train_epoch_end=not within_epochs,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the number after the epochs that have one: not all validate."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
