"""Semantic segmentation with any network of timm's registry as the backbone, the zoo of this library among them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from acmix.errors import UserError
from acmix.tasks.base import Stage, Task
from acmix.tasks.data.segmentation_labels import IGNORE
from acmix.tasks.dense.backbone import BackboneSettings, with_arguments
from acmix.tasks.dense.weights import load_start
from acmix.tasks.nested_settings import settings_of
from acmix.tasks.recipe import Recipe
from acmix.tasks.segmentation.decoder import DecoderSettings
from acmix.tasks.segmentation.inference import Inference, segment_all
from acmix.tasks.segmentation.losses import pixel_cross_entropy
from acmix.tasks.segmentation.metrics import DatasetIoU, format_classes
from acmix.tasks.segmentation.network import build_segmenter

__all__ = ["SegmentationTask"]

_BACKBONE = BackboneSettings()
_DECODER = DecoderSettings()
_RECIPE = Recipe()
_INFERENCE = Inference()


class SegmentationTask(Task):
    """Trains and evaluates a network that gives each pixel a class.

    Training batches are `(images [B, C, H, W], targets int64 [B, H, W])`; those of evaluation are lists of images
    [C, H, W] and of targets [H, W], of any sizes; a target may have another size than its image, the logits get the
    target's. Pixels of class 255 are ignored. Logs `train/loss`, `val/loss` (mean over the images), `val/miou`,
    `val/pixel_accuracy`, and the same as `test/...`.

    Args:
        model: A name from `acmix.list_models()` or timm's registry: `acmix_pvt_tiny`, `acmix_resnet26`, `resnet50`, ...
        num_classes: Classes K, those that are ignored not counted; the command line takes it from the data.
        in_chans: Number of image channels; the command line takes it from the data.
        model_args: Further arguments of the network, such as `stem`, `channels` or `drop_path_rate`.
        backbone: Levels, frozen parts and norms of the backbone.
        decoder: Semantic FPN or UperNet.
        weights: A checkpoint to start from: a classifier's for the backbone, or that of a whole segmentation network,
            whose heads are replaced where they are for another number of classes.
        recipe: Optimizer, schedule and averaging.
        inference: Resizing and windows in validation, test and prediction.
        class_weights: Weight of each class in the loss [K]; None: all count the same.
        compile: Whether the network is compiled with `torch.compile`.
    """

    monitor: ClassVar[str] = "val/miou"
    mode: ClassVar[Literal["min", "max"]] = "max"

    def __init__(  # noqa: PLR0913 - the options of the command line; keyword-only after the eighth
        self,
        model: str = "acmix_resnet26",
        num_classes: int = 150,
        in_chans: int = 3,
        model_args: dict[str, Any] | None = None,
        backbone: BackboneSettings = _BACKBONE,
        decoder: DecoderSettings = _DECODER,
        weights: str | Path | None = None,
        recipe: Recipe = _RECIPE,
        *,
        inference: Inference = _INFERENCE,
        class_weights: list[float] | None = None,
        compile: bool = False,  # noqa: A002  the word that PyTorch's users know
    ) -> None:
        super().__init__(recipe)
        if not 2 <= num_classes <= IGNORE:
            raise UserError(f"segmentation takes 2 to {IGNORE} classes, got {num_classes}; check the data's classes")
        self.model_name = model
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.model_args = dict(model_args or {})
        self.backbone = settings_of(BackboneSettings, backbone)
        self.decoder = settings_of(DecoderSettings, decoder)
        self.inference = settings_of(Inference, inference)
        self.weights = weights
        self.compile_network = compile
        settings = {
            "model": model,
            "num_classes": num_classes,
            "in_chans": in_chans,
            "model_args": self.model_args,
            "backbone": asdict(self.backbone),
            "decoder": asdict(self.decoder),
            "weights": None if weights is None else str(weights),
            "inference": asdict(self.inference),
            "class_weights": class_weights,
            "compile": compile,
        }
        self.assemble(settings)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", _checked(class_weights, num_classes), persistent=False)

    def build_network(self) -> nn.Module:
        """Backbone, decoder and heads."""
        backbone = with_arguments(self.backbone, self.model_args)
        return build_segmenter(self.model_name, self.num_classes, self.in_chans, backbone, self.decoder)

    def build_metrics(self, stage: Stage) -> dict[str, Metric]:
        """In evaluation `iou`, which gives mean intersection over union and pixel accuracy."""
        return {} if stage == "train" else {"iou": DatasetIoU(self.num_classes)}

    def load_start(self, path: str | Path) -> str:
        """Loads a classifier's weights or those of a whole segmentation network."""
        return load_start(self.model, self.model_name, path, self.in_chans)

    def setup(self, stage: str) -> None:
        """Compiles, when the weights to start from are there."""
        super().setup(stage)
        if self.compile_network:
            self.model.compile()

    def training_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy of all pixels that count, and the auxiliary head's by its weight."""
        images, targets = batch
        outputs = self.model(images)
        if isinstance(outputs, Tensor):
            return pixel_cross_entropy(outputs, targets, self.class_weights)
        main, auxiliary = (pixel_cross_entropy(logits, targets, self.class_weights) for logits in outputs)
        return main + self.decoder.auxiliary * auxiliary

    def evaluate(self, batch: tuple[Any, Any], metrics: Mapping[str, Metric]) -> None:
        """Plain cross-entropy, and the confusion of classes."""
        images, targets = batch
        for place, logits in self._logits(images, targets):
            target = targets[place]
            metrics["loss"].update(pixel_cross_entropy(logits[None], target[None]))
            metrics["iou"].update(logits.argmax(dim=0)[None], target[None])

    def predict_step(self, batch: tuple[Any, Any], batch_idx: int) -> list[Tensor]:
        """The class of each pixel, int64 [H, W] of the target's size; which classes the targets hold is left aside."""
        images, targets = batch
        classes = {place: logits.argmax(dim=0) for place, logits in self._logits(images, targets)}
        return [classes[place] for place in range(len(images))]

    def evaluation_table(self) -> str:
        """Intersection over union, accuracy and share of each class in the last evaluation; empty before one."""
        metrics = [cast("DatasetIoU", self.metrics(stage)["iou"]) for stage in ("test", "val")]
        confusion = next((metric.confusion for metric in metrics if metric.confusion is not None), None)
        if confusion is None:
            return ""
        names = self.class_names or [str(number) for number in range(self.num_classes)]
        return format_classes(confusion, names)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what a user of the network needs: the classes' names, and how images become its input."""
        super().on_save_checkpoint(checkpoint)
        data = getattr(self.trainer, "datamodule", None)
        checkpoint["input"] = {
            name: value for name in ("mean", "std", "scale") if (value := _plain(getattr(data, name, None))) is not None
        }

    def _logits(self, images: Any, targets: Any) -> Iterator[tuple[int, Tensor]]:
        sizes = [(target.shape[-2], target.shape[-1]) for target in targets]
        return segment_all(self.evaluated, list(images), sizes, self.inference)


def _checked(weights: list[float] | None, num_classes: int) -> Tensor | None:
    if weights is None:
        return None
    usable = len(weights) == num_classes and all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
    if not usable:
        raise UserError(
            f"class_weights are {weights}: give {num_classes} numbers of at least 0, one a class, not all 0"
        )
    return torch.tensor(weights, dtype=torch.float32)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
