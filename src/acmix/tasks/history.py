"""A run's numbers, one row per epoch: `metrics.csv` and `curves.png`, also across interruptions."""

import csv
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from acmix.tasks.base import Task
from acmix.tasks.curves import draw_curves
from acmix.tasks.run_directory import RunDirectory

__all__ = ["History", "Row"]

Row = dict[str, float]


class History(Callback):
    """Collects one row per epoch and writes table and picture anew after each.

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
        self._mark = 0.0

    @property
    def images_per_second(self) -> float:
        """Training speed of the epoch so far, over all processes."""
        return self._images / self._seconds if self._seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Rows and the unfinished epoch's counts."""
        unfinished = {"validated": self._validated, "images": self._images, "seconds": self._seconds}
        return {"rows": self.rows, **unfinished}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up rows and counts."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._validated = dict(state_dict["validated"])
        self._images = state_dict["images"]
        self._seconds = state_dict["seconds"]

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
                "lr": pl_module.learning_rate,
                **_plain(pl_module.training_summary()),
                **self._validated,
                "images/s": round(self.images_per_second, 1),
                "seconds": round(self._seconds, 2),
            }
        )
        if trainer.is_global_zero and self.directory is not None:
            _write(self.rows, self.directory)


def _write(rows: list[Row], directory: RunDirectory) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    new = directory.metrics.with_suffix(".new")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    new.replace(directory.metrics)
    draw_curves(rows, directory.curves)


def _plain(values: Mapping[str, Tensor]) -> Row:
    return {name: round(float(value), 6) for name, value in values.items()}
