"""Object detection and instance segmentation with any network of timm's registry as the backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from acmix.errors import UserError
from acmix.packages import require
from acmix.tasks.base import Stage, Task
from acmix.tasks.dense.backbone import BackboneSettings, with_arguments
from acmix.tasks.dense.weights import load_start
from acmix.tasks.detection.detector import build_detector
from acmix.tasks.detection.metrics import CocoMeanAveragePrecision
from acmix.tasks.detection.settings import DetectorSettings
from acmix.tasks.nested_settings import settings_of
from acmix.tasks.recipe import Recipe

__all__ = ["DetectionTask"]

_BACKBONE = BackboneSettings()
_DETECTOR = DetectorSettings()
_RECIPE = Recipe()

_Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


class DetectionTask(Task):
    """Trains and evaluates a detector of torchvision's make.

    Batches are `(images, targets)`: lists of float32 [C, H, W] in 0 to 1 and of torchvision's dictionaries `boxes`,
    `labels` (1 to the number of classes), `image_id`, `area`, `iscrowd` and, for detectors of masks, `masks`. Logs
    `train/loss` and COCO's twelve numbers as `val/map`, `val/map_50`, ..., those of masks as `val/segm_map`, ..., and
    the same as `test/...`.

    Args:
        model: A name from `acmix.list_models()` or timm's registry: `acmix_pvt_tiny`, `acmix_resnet50`, `resnet50`, ...
        num_classes: Classes without the background; the command line takes it from the data.
        in_chans: Number of image channels; the command line takes it from the data.
        model_args: Further arguments of the network, such as `stem`, `channels` or `drop_path_rate`.
        backbone: Levels, frozen parts and norms of the backbone.
        detector: Which detector, and what can be chosen about it.
        weights: A checkpoint to start from: a classifier's for the backbone, or that of a whole detector.
        recipe: Optimizer, schedule and averaging.
    """

    monitor: ClassVar[str] = "val/map"
    mode: ClassVar[Literal["min", "max"]] = "max"
    evaluates_loss: ClassVar[bool] = False

    def __init__(
        self,
        model: str = "acmix_resnet50",
        num_classes: int = 80,
        in_chans: int = 3,
        model_args: dict[str, Any] | None = None,
        backbone: BackboneSettings = _BACKBONE,
        detector: DetectorSettings = _DETECTOR,
        weights: str | Path | None = None,
        recipe: Recipe = _RECIPE,
    ) -> None:
        require("faster_coco_eval")
        super().__init__(recipe)
        if num_classes < 1:
            raise UserError(f"a detector needs at least 1 class, got {num_classes}; check the data's categories")
        self.model_name = model
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.model_args = dict(model_args or {})
        self.backbone = settings_of(BackboneSettings, backbone)
        self.detector = settings_of(DetectorSettings, detector)
        self.weights = weights
        settings = {
            "model": model,
            "num_classes": num_classes,
            "in_chans": in_chans,
            "model_args": self.model_args,
            "backbone": asdict(self.backbone),
            "detector": asdict(self.detector),
            "weights": None if weights is None else str(weights),
        }
        self.assemble(settings)

    def build_network(self) -> nn.Module:
        """Backbone, feature pyramid and heads."""
        backbone = with_arguments(self.backbone, self.model_args)
        return build_detector(self.model_name, self.num_classes, self.in_chans, backbone, self.detector)

    def build_metrics(self, stage: Stage) -> dict[str, Metric]:
        """In evaluation `coco`, which gives the twelve numbers."""
        return {} if stage == "train" else {"coco": CocoMeanAveragePrecision(self.detector.has_masks)}

    def load_start(self, path: str | Path) -> str:
        """Loads a classifier's weights or those of a whole detector."""
        return load_start(self.model, self.model_name, path, self.in_chans)

    def training_loss(self, batch: _Batch) -> Tensor:
        """The sum of the detector's losses, each of which is logged by step."""
        images, targets = batch
        losses: Mapping[str, Tensor] = self.model(images, targets)
        self.log_dict({f"step/{name}": value.detach() for name, value in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def evaluate(self, batch: _Batch, metrics: Mapping[str, Metric]) -> None:
        """Keeps detections and objects for COCO's evaluation."""
        images, targets = batch
        metrics["coco"].update(self.evaluated(images), targets)

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Tensor]]:
        """The detections of each image; what the targets hold is left aside."""
        images: Sequence[Tensor] = batch[0]
        return cast("list[dict[str, Tensor]]", self.evaluated(list(images)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the classes' names, and how images become the network's input."""
        super().on_save_checkpoint(checkpoint)
        images = self.detector.images
        checkpoint["input"] = {"mean": list(images.mean), "std": list(images.std)}

    def evaluation_table(self) -> str:
        """What each class reached in the last evaluation; empty before one."""
        metrics = [cast("CocoMeanAveragePrecision", self.metrics(stage)["coco"]) for stage in ("test", "val")]
        metric = next((each for each in metrics if each.classes), None)
        names = self.class_names or [str(number) for number in range(1, self.num_classes + 1)]
        return "" if metric is None else metric.per_class_table(names)
