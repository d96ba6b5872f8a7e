"""Keeps `last.ckpt` such that a run resumed from it ends with the weights of a run that went through."""

import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from acmix.tasks.interruption import Stopped, StopRequest

__all__ = ["KeepLast"]


class KeepLast(Checkpoint):
    """Saves the newest checkpoint after each epoch, every few minutes, and when the run is asked to stop.

    A checkpoint is only taken where nothing is half done: between two updates of the weights, or in a validation, which
    a resumed run begins again. The file is replaced in one move, so there always is a whole one.

    Args:
        path: The checkpoint file.
        request: Tells whether the run is to stop.
        minutes: Longest training time between two checkpoints.
    """

    def __init__(self, path: Path, request: StopRequest, *, minutes: float = 10.0) -> None:
        self.path = path
        self.request = request
        self.seconds = 60.0 * minutes
        self._saved_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for the end of the step."""
        self._saved_at = time.monotonic()
        if self.request.installed:
            # Lightning's own answer to SIGTERM would end the run between two batches of one update.
            self.request.install()
        self.request.patient = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if the time has come, stops if asked to."""
        if not _between_updates(trainer, batch_idx):
            return
        stop = _agreed(trainer, self.request.signum != 0)
        if stop or _agreed(trainer, time.monotonic() - self._saved_at >= self.seconds):
            self._save(trainer)
        if stop:
            self._stop()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stops if asked to; the resumed run validates from the first batch on."""
        if not _agreed(trainer, self.request.signum != 0):
            return
        self._save_before_validation(trainer)
        self._stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, and stops if asked to."""
        self._save(trainer)
        if _agreed(trainer, self.request.signum != 0):
            self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is left to wait for."""
        self.request.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves what was learned before a failure that came with the data, such as an unreadable image."""
        self.request.patient = False
        if isinstance(exception, Stopped) or trainer.world_size > 1:
            # The processes of a distributed run do not fail at the same step, and saving waits for them all.
            return
        if trainer.validating:
            self._save_before_validation(trainer)
        elif _between_steps(trainer):
            self._save(trainer)

    def _stop(self) -> None:
        self.request.patient = False
        # Another process may have got the signal.
        raise Stopped(self.request.signum or signal.SIGINT)

    def _save_before_validation(self, trainer: Trainer) -> None:
        # Lightning takes up a validation that stands in its first batch as a whole.
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.reset()
        progress.increment_ready()
        progress.increment_started()
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        new = self.path.with_suffix(".new")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            new.replace(self.path)
        self._saved_at = time.monotonic()


def _agreed(trainer: Trainer, decision: bool) -> bool:
    """Whether any process decided so: all must save and stop at the same step."""
    if trainer.world_size == 1:
        return decision
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _between_updates(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the batch that ended closed an update, and the next thing is another batch of the same epoch."""
    if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
        return False
    check = trainer.val_check_batch
    # Where validation goes by steps of the run, Lightning counts the batches of all epochs.
    by_steps = trainer.check_val_every_n_epoch is None
    done = (trainer.fit_loop.epoch_loop.total_batch_idx if by_steps else batch_idx) + 1
    return not (isinstance(check, int) and done % check == 0)


def _between_steps(trainer: Trainer) -> bool:
    """Whether a failure came while the next batch was fetched: all that began is done, the epoch is not."""
    if not trainer.training or not trainer.global_step:
        return False
    batches = trainer.fit_loop.epoch_loop.batch_progress.current
    done = batches.ready == batches.completed and not trainer.is_last_batch
    return done and batches.completed % trainer.accumulate_grad_batches == 0
