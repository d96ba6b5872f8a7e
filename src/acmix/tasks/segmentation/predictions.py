"""Writes what a network sees in each image: masks, pictures, and a list of both."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data.images import read_image
from acmix.tasks.data.loader import EpochLoader
from acmix.tasks.processes import merged
from acmix.tasks.segmentation.overlay import draw_overlay
from acmix.tasks.segmentation.palette import class_colours
from acmix.tasks.segmentation.task import SegmentationTask

__all__ = ["SegmentationPredictions", "mask_names"]

Row = tuple[str, str, str]


class SegmentationPredictions(Callback):
    """Writes `masks/<name>.png`, `overlays/<name>.png` and the list `predictions.csv` into a folder.

    A mask is a PNG of 8 bits whose numbers are the classes, with a palette for people. Names are those of the images,
    with the folders in which they lie below what all have in common; numbers where the data are not files.

    Args:
        path: The folder; files of the same names in it are replaced.

    Attributes:
        written: Of each image its file or number, its mask and its picture; filled at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[Row] = []
        self._rows: dict[int, Row] = {}
        self._batches: list[list[int]] = []
        self._files: list[str] = []
        self._names: list[str] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes which images each batch holds, and makes the folders."""
        loader = trainer.predict_dataloaders
        assert isinstance(loader, EpochLoader)
        self._files = loader.files
        self._names = (
            mask_names(self._files) if self._files else [f"{index:06d}" for index in range(len(loader.source))]
        )
        self._batches = [key.indices.tolist() for key in loader.batch_sampler]
        try:
            for name in ("masks", "overlays"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the folder {self.path} for predictions cannot be written ({error.strerror}: {error.filename}); "
                "choose another with --output"
            ) from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the files of a batch."""
        assert isinstance(pl_module, SegmentationTask)
        names = pl_module.class_names or [str(number) for number in range(pl_module.num_classes)]
        colours = class_colours(len(names))
        for index, image, classes in zip(self._batches[batch_idx], batch[0], outputs, strict=True):
            mask = classes.to("cpu", torch.uint8).numpy()
            files = [self.path / kind / f"{self._names[index]}.png" for kind in ("masks", "overlays")]
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
            _with_palette(mask, colours).save(files[0])
            original = read_image(self._files[index]) if self._files else _shown(image)
            if original.size != mask.shape[::-1]:
                original = original.resize(mask.shape[::-1])
            draw_overlay(original, mask, names, colours).save(files[1])
            source = self._files[index] if self._files else str(index)
            written, shown = (file.relative_to(self.path).as_posix() for file in files)
            self._rows[index] = (source, written, shown)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the list, the rows of all processes together."""
        rows = merged(self._rows, trainer.world_size)
        self.written = [rows[index] for index in sorted(rows)]
        if trainer.is_global_zero:
            self._write_list()

    def _write_list(self) -> None:
        path = self.path / "predictions.csv"
        new = path.with_suffix(".new")
        with new.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file" if self._files else "index", "mask", "overlay"))
            writer.writerows(self.written)
        new.replace(path)


def mask_names(files: list[str]) -> list[str]:
    """A name for each file, below the folder that all have in common: its path without the suffix.

    Where two files differ in their suffix alone, both keep it.

    Args:
        files: Image files.

    Returns:
        Names, no two the same also where capitals do not count, such as `night/001`.
    """
    paths = [Path(file).absolute() for file in files]
    common = os.path.commonpath([path.parent for path in paths])
    whole = [path.relative_to(common).as_posix() for path in paths]
    short = [path.relative_to(common).with_suffix("").as_posix() for path in paths]
    seen: dict[str, int] = {}
    for name in short:
        seen[name.casefold()] = seen.get(name.casefold(), 0) + 1
    names, used = [], set[str]()
    for name, full in zip(short, whole, strict=True):
        wanted = candidate = name if seen[name.casefold()] == 1 else full
        number = 2
        while candidate.casefold() in used:
            candidate = f"{wanted}-{number}"
            number += 1
        used.add(candidate.casefold())
        names.append(candidate)
    return names


def _with_palette(mask: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(mask)
    picture.putpalette(colours.tobytes())
    return picture


def _shown(image: Tensor) -> Image.Image:
    """A normalised image of one or three channels, its values stretched to black and white."""
    values = image.detach().float().cpu()
    values = values.expand(3, -1, -1) if len(values) == 1 else values[:3]
    low, high = values.min(), values.max()
    stretched = (values - low) / (high - low).clamp(min=1e-6)
    return Image.fromarray((255 * stretched).round().to(torch.uint8).permute(1, 2, 0).numpy())
