"""A run's numbers, one row per epoch: `metrics.csv` and `curves.png`, also across interruptions."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from acmix.tasks.base import Task
from acmix.tasks.curves import draw_curves
from acmix.tasks.run_directory import RunDirectory

__all__ = ["History", "Row"]

Row = dict[str, float]


class History(Callback):
    """Collects one row per epoch and writes the table anew after each, and the picture while that takes little time.

    The rows travel in the checkpoints: a resumed run goes on with the rows up to its checkpoint.

    Args:
        directory: Where the files go; None writes none.

    Attributes:
        rows: The epochs so far; `epoch` counts from 1, `seconds` is training time without validation.
    """

    def __init__(self, directory: RunDirectory | None) -> None:
        self.directory = directory
        self.rows: list[Row] = []
        self._validated: Row = {}
        self._images = 0
        self._seconds = 0.0
        self._lr = 0.0
        self._mark = 0.0
        self._draw_at = 0.0

    @property
    def images_per_second(self) -> float:
        """Training speed of the epoch so far, over all processes."""
        return self._images / self._seconds if self._seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Rows and the unfinished epoch's counts."""
        unfinished = {"validated": self._validated, "images": self._images, "seconds": self._seconds, "lr": self._lr}
        return {"rows": self.rows, **unfinished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up rows and counts."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._validated = dict(state_dict["validated"])
        self._images = state_dict["images"]
        self._seconds = state_dict["seconds"]
        self._lr = state_dict["lr"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; a resumed run may begin in mid-epoch."""
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the counts of an epoch."""
        self._images, self._seconds, self._validated = 0, 0.0, {}
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts images and seconds, waiting for data included."""
        assert isinstance(pl_module, Task)
        self._lr = pl_module.learning_rate
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now
        self._images += len(batch[0]) * trainer.world_size

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the numbers of a validation; the clock does not count it."""
        self._mark = time.perf_counter()
        if not trainer.sanity_checking:
            logged = trainer.callback_metrics
            self._validated = _plain({name: value for name, value in logged.items() if name.startswith("val/")})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the epoch's row and refreshes the files."""
        assert isinstance(pl_module, Task)
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                "lr": float(f"{self._lr:.6g}"),
                **_plain(pl_module.training_summary()),
                **self._validated,
                "images/s": round(self.images_per_second, 1),
                "seconds": round(self._seconds, 2),
            }
        )
        if trainer.is_global_zero and self.directory is not None:
            _write(self.rows, self.directory.metrics)
            if time.monotonic() >= self._draw_at:
                self._draw(self.directory)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last state."""
        if trainer.is_global_zero and self.directory is not None and self.rows:
            self._draw(self.directory)

    def _draw(self, directory: RunDirectory) -> None:
        begin = time.monotonic()
        draw_curves(self.rows, directory.curves)
        end = time.monotonic()
        # Where epochs take a second, drawing after each would be a good part of the run.
        self._draw_at = end + 10 * (end - begin)


def _write(rows: list[Row], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    new = path.with_suffix(".new")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    new.replace(path)


def _plain(values: Mapping[str, Tensor]) -> Row:
    return {name: round(float(value), 6) for name, value in values.items()}
