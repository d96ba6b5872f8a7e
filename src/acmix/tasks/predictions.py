"""Writes what a network says about each image as a table."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from acmix.tasks.classification import ClassificationTask
from acmix.tasks.data.loader import EpochLoader
from acmix.tasks.processes import merged

__all__ = ["PredictionTable"]


class PredictionTable(Callback):
    """Collects predictions and writes them as CSV: file or index, class, probability.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[int, tuple[str, str, str]] = {}
        self._batches: list[list[int]] = []
        self._files: list[str] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes which images each batch holds."""
        loader = trainer.predict_dataloaders
        assert isinstance(loader, EpochLoader)
        self._files = loader.files
        self._batches = [key.indices.tolist() for key in loader.batch_sampler]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the rows of a batch."""
        assert isinstance(pl_module, ClassificationTask)
        assert isinstance(outputs, Tensor)
        names = pl_module.class_names
        # Images that cannot be read are missing from the batch, if the data module is set to skip them.
        skipped = trainer.datamodule.skipped if trainer.datamodule is not None else {}  # type: ignore[attr-defined]  # set outside its __init__
        read = [index for index in self._batches[batch_idx] if self._name(index) not in skipped]
        probabilities, classes = outputs.max(dim=1)
        for index, probability, number in zip(read, probabilities.tolist(), classes.tolist(), strict=True):
            self._rows[index] = (self._name(index), names[number] if names else str(number), f"{probability:.6f}")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the table, the rows of all processes together."""
        rows = merged(self._rows, trainer.world_size)
        if trainer.is_global_zero:
            self._write(rows)

    def _name(self, index: int) -> str:
        return self._files[index] if self._files else str(index)

    def _write(self, rows: dict[int, tuple[str, str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        with new.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file" if self._files else "index", "class", "probability"))
            writer.writerows(rows[index] for index in sorted(rows))
        new.replace(self.path)
