"""Writes what a detector finds: COCO's result file and pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data.detection_masks import encode_masks
from acmix.tasks.data.detection_source import DetectionSource
from acmix.tasks.data.loader import EpochLoader
from acmix.tasks.detection.pictures import draw_detections
from acmix.tasks.processes import merged

__all__ = ["DetectionPredictions", "coco_results"]


class DetectionPredictions(Callback):
    """Collects detections; writes `predictions.json`, `images.json` and `pictures/`.

    `predictions.json` is COCO's result format, which COCO's evaluation reads: image and category ids of the data set,
    boxes and masks in pixels of the original images, all detections whatever their score. `images.json` lists the ids,
    files and sizes of the images. Pictures are named after the files, with `.png` behind.

    Args:
        folder: Where to write.
        pictures: Most pictures to draw.
        threshold: Least score of what is drawn.
    """

    def __init__(self, folder: Path, pictures: int = 32, threshold: float = 0.5) -> None:
        if pictures < 0:
            raise UserError(f"pictures is {pictures}: give a number of at least 0")
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold is {threshold}: give a score from 0 to 1")
        self.path = folder
        self.pictures = pictures
        self.threshold = threshold
        self._source: DetectionSource | None = None
        self._results: dict[int, list[dict[str, Any]]] = {}
        self._images: dict[int, dict[str, Any]] = {}
        self._drawn: set[Path] = set()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where the images come from."""
        loader = trainer.predict_dataloaders
        source = loader.source if isinstance(loader, EpochLoader) else None
        if not isinstance(source, DetectionSource):
            raise UserError(
                f"{type(source).__name__} is no data for detection: give a data module of images with boxes"
            )
        self._source = source
        self._results, self._images, self._drawn = {}, {}, set()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the detections of a batch, and draws them while there is room for pictures."""
        assert self._source is not None
        images, targets = batch
        share = self.pictures // trainer.world_size + (trainer.global_rank < self.pictures % trainer.world_size)
        for image, target, found in zip(images, targets, outputs, strict=True):
            image_id = int(target["image_id"])
            if image_id in self._results:
                continue
            height, width = target["orig_size"].tolist()
            name = self._source.file_name(image_id)
            size = (image.shape[-2], image.shape[-1])
            self._images[image_id] = {"id": image_id, "file_name": name, "width": width, "height": height}
            self._results[image_id] = [
                {"image_id": image_id, **one}
                for one in coco_results(found, size, (height, width), self._source.category_ids)
            ]
            if len(self._drawn) < share:
                names = getattr(pl_module, "class_names", None) or [str(one) for one in self._source.category_ids]
                self._draw(image, found, names, name, image_id)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, the detections of all processes together."""
        results, images = (merged(each, trainer.world_size) for each in (self._results, self._images))
        if trainer.is_global_zero:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.path / "predictions.json", [one for number in sorted(results) for one in results[number]])
            _write(self.path / "images.json", [images[number] for number in sorted(images)])

    def _draw(self, image: Tensor, found: Mapping[str, Tensor], names: list[str], name: str, image_id: int) -> None:
        path = self.path / "pictures" / f"{name}.png"
        if path in self._drawn:
            path = path.with_name(f"{path.stem}.{image_id}.png")
        self._drawn.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_detections(image, found, names, threshold=self.threshold).save(path)


def coco_results(
    found: Mapping[str, Tensor], size: tuple[int, int], original: tuple[int, int], category_ids: list[int]
) -> list[dict[str, Any]]:
    """Detections in COCO's result format, but for the image's id.

    Args:
        found: `boxes` [N, 4], `labels` [N] from 1, `scores` [N] and, where there are masks, `masks` [N, 1, H, W].
        size: Height and width of the image that the detector saw.
        original: Height and width of the original.
        category_ids: The data set's own numbers of the classes.

    Returns:
        Per detection `category_id`, `bbox` (left, top, width, height in pixels of the original), `score`, and
        `segmentation` as compressed run lengths in text.
    """
    down, across = original[0] / size[0], original[1] / size[1]
    boxes = found["boxes"].detach().cpu().double() * torch.tensor([across, down, across, down], dtype=torch.float64)
    corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    results: list[dict[str, Any]] = [
        {"category_id": category_ids[label - 1], "bbox": [round(value, 4) for value in box], "score": score}
        for box, label, score in zip(corners, found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ]
    if "masks" in found:
        for one, mask in zip(results, found["masks"], strict=True):
            if size != original:
                mask = F.interpolate(mask[None].float(), size=original, mode="bilinear", align_corners=False)[0]
            counts = encode_masks(mask.reshape(1, *original))[0].decode("ascii")
            one["segmentation"] = {"size": list(original), "counts": counts}
    return results


def _write(path: Path, content: list[dict[str, Any]]) -> None:
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(content, file)
    new.replace(path)
