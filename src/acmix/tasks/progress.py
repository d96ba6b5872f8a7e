"""A progress bar with images per second, and one lasting line per epoch."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from acmix.tasks.console import tell
from acmix.tasks.history import History
from acmix.tasks.metric_names import shown_values

__all__ = ["Progress", "describe_epoch"]

_LOG_SECONDS = 60.0


class Progress(TQDMProgressBar):
    """Shows how a run goes: a bar on a terminal, a line a minute in a log file, a line per epoch in both.

    Args:
        history: Counts images and collects the numbers of the epochs; comes before this callback.
    """

    def __init__(self, history: History) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 0)
        self.history = history
        self._logged_at = 0.0

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {**metrics, "images/s": f"{self.history.images_per_second:.0f}"}

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts bar and clock; a resumed run may begin in mid-epoch."""
        super().on_train_start()
        self.on_train_epoch_start(trainer)
        self._logged_at = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Counts the epochs from 1, as the lines and the table do."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or writes a line where there is none."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.is_disabled and time.monotonic() - self._logged_at >= _LOG_SECONDS:
            self._logged_at = time.monotonic()
            done = f"{batch_idx + 1}/{trainer.num_training_batches} batches"
            tell(f"epoch {trainer.current_epoch + 1}: {done}, {self.history.images_per_second:.0f} images/s")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the epoch's line."""
        super().on_train_epoch_end(trainer, pl_module)
        tell(describe_epoch(self.history.rows[-1], trainer.max_epochs))


def describe_epoch(row: dict[str, float], epochs: int | None) -> str:
    """One line with an epoch's numbers."""
    told = [f"epoch {row['epoch']}" + (f"/{epochs}" if epochs and epochs > 0 else "")]
    for part, label in (("train", "training"), ("val", "validation")):
        numbers = shown_values(row, part)
        told += [f"{label} {', '.join(numbers)}"] if numbers else []
    told.append(f"{row['images/s']:.0f} images/s")
    return "  ".join(told)
