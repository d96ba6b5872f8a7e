"""Image classification with any network of timm's registry, the zoo of this library among them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from acmix.errors import UserError
from acmix.tasks.base import Stage, Task
from acmix.tasks.data.augmentation import ImageFormat
from acmix.tasks.networks import build_network
from acmix.tasks.recipe import Recipe
from acmix.tasks.weights import load_weights

__all__ = ["ClassificationTask", "Targets"]


@dataclass(frozen=True)
class Targets:
    """How hard the targets are.

    Attributes:
        label_smoothing: Probability that is spread evenly over all classes.
        mixup: Mixup's alpha, the parameter of its Beta distribution; 0 is off.
        cutmix: CutMix's alpha; 0 is off. With both on, each batch gets one of them.
        mixing_probability: Share of the batches that are mixed.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixing_probability: float = 1.0

    @property
    def mix(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0


_RECIPE = Recipe()
_TARGETS = Targets()


class ClassificationTask(Task):
    """Trains and evaluates an image classifier.

    Batches are `(images [B, C, H, W], targets [B])`. Logs `train/loss`, `train/top1` (of unmixed batches), `val/loss`,
    `val/top1`, `val/top5`, and the same as `test/...`.

    Args:
        model: A name from `acmix.list_models()` or timm's registry: `acmix_resnet26`, `conv_resnet26`, `resnet50`, ...
        num_classes: Number of classes; the command line takes it from the data.
        in_chans: Number of image channels; the command line takes it from the data.
        model_args: Further arguments of the network, such as `stem`, `channels` or `drop_path_rate`.
        weights: A checkpoint to start from. Its head is replaced where it is for another number of classes.
        recipe: Optimizer, schedule and averaging.
        targets: Label smoothing, Mixup and CutMix.
        compile: Whether the network is compiled with `torch.compile`.
    """

    monitor: ClassVar[str] = "val/top1"
    mode: ClassVar[Literal["min", "max"]] = "max"

    def __init__(
        self,
        model: str = "acmix_resnet26",
        num_classes: int = 1000,
        in_chans: int = 3,
        model_args: dict[str, Any] | None = None,
        weights: str | Path | None = None,
        recipe: Recipe = _RECIPE,
        targets: Targets = _TARGETS,
        compile: bool = False,  # noqa: A002  the word that PyTorch's users know
    ) -> None:
        super().__init__(recipe)
        if num_classes < 2:
            raise UserError(f"a classifier needs at least 2 classes, got {num_classes}; check the data's class folders")
        self.model_name = model
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.model_args = dict(model_args or {})
        self.weights = weights
        self.targets = targets if isinstance(targets, Targets) else Targets(**dict(targets))
        self.compile_network = compile
        settings = {
            "model": model,
            "num_classes": num_classes,
            "in_chans": in_chans,
            "model_args": self.model_args,
            "weights": None if weights is None else str(weights),
            "targets": asdict(self.targets),
            "compile": compile,
        }
        self.assemble(settings)
        self.mixup = self._build_mixup()

    def build_network(self) -> nn.Module:
        """The named network."""
        return build_network(self.model_name, self.num_classes, self.in_chans, self.model_args)

    def build_metrics(self, stage: Stage) -> dict[str, Metric]:
        """Accuracies; of mixed images there is none."""
        if stage == "train":
            return {} if self.targets.mix else {"top1": self._accuracy(1)}
        return {f"top{top}": self._accuracy(top) for top in (1, 5) if top < self.num_classes}

    def load_start(self, path: str | Path) -> str:
        """Loads a network's weights, with a new head where the classes are others."""
        return load_weights(self.model, path)

    def setup(self, stage: str) -> None:
        """Compiles, when the weights to start from are there."""
        super().setup(stage)
        if self.compile_network:
            self.model.compile()

    def training_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy with the smoothed, and perhaps mixed, targets."""
        images, targets = batch
        if self.mixup is not None:
            return F.cross_entropy(*self._mixed(self.mixup, images, targets))
        logits = self.model(images)
        self.metrics("train")["top1"].update(logits.detach(), targets)
        return F.cross_entropy(logits, targets, label_smoothing=self.targets.label_smoothing)

    def evaluate(self, batch: tuple[Tensor, Tensor], metrics: Mapping[str, Metric]) -> None:
        """Plain cross-entropy and accuracies."""
        images, targets = batch
        logits = self(images)
        metrics["loss"].update(F.cross_entropy(logits, targets), len(targets))
        for name, metric in metrics.items():
            if name != "loss":
                metric.update(logits, targets)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities [B, classes]; labels, where the batch has them, are left aside."""
        images = batch[0] if isinstance(batch, tuple | list) else batch
        return torch.softmax(self(images).float(), dim=-1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what a user of the network needs: the classes' names, and how images become its input."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["input"] = _input_form(getattr(self.trainer, "datamodule", None))

    def _accuracy(self, top: int) -> Metric:
        # The targets come from the data module; checking each batch again would wait for the device.
        return MulticlassAccuracy(self.num_classes, top_k=top, average="micro", validate_args=False)

    def _build_mixup(self) -> Mixup | None:
        targets = self.targets
        if not targets.mix:
            return None
        return Mixup(
            mixup_alpha=targets.mixup,
            cutmix_alpha=targets.cutmix,
            prob=targets.mixing_probability,
            label_smoothing=targets.label_smoothing,
            num_classes=self.num_classes,
        )

    def _mixed(self, mixup: Mixup, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, classes] and soft targets [B, classes]; timm mixes pairs, so an odd batch keeps its last image."""
        even = len(images) // 2 * 2
        soft = mixup_target(targets, self.num_classes, smoothing=self.targets.label_smoothing)
        if even:
            images = images.clone()
            _, soft[:even] = mixup(images[:even], targets[:even])
        return self.model(images), soft


def _input_form(data: Any) -> dict[str, Any]:
    """Image size, mean and deviation of the data, as far as the data module says."""
    form = getattr(data, "form", None)
    if isinstance(form, ImageFormat):
        return {"image_size": form.size, "mean": list(form.mean), "std": list(form.std)}
    source: Any = getattr(data, "sources", {}).get("train")
    if hasattr(source, "mean") and hasattr(source, "std"):
        return {"image_size": data.image_size, "mean": [float(source.mean)], "std": [float(source.std)]}
    return {}
