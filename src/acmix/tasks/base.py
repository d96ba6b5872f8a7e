"""What all tasks share: the steps of training and evaluation, optimizer, schedule, averaging, checkpoints."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from lightning.pytorch import LightningModule
from timm.scheduler.scheduler import Scheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric

from acmix.errors import UserError
from acmix.tasks.console import tell
from acmix.tasks.randomness import seed_step
from acmix.tasks.recipe import Recipe, build_optimizer, build_schedule
from acmix.tasks.same_network import check_same_network

__all__ = ["Stage", "Task"]

Stage = Literal["train", "val", "test"]


class Task(LightningModule, ABC):
    """A template with four hooks: `build_network`, `build_metrics`, `training_loss` and `evaluate`.

    A concrete task's typed constructor is its configuration's schema. The values stay attributes; they are also saved,
    as plain values, under `hyper_parameters` of each checkpoint, so that a reader of a checkpoint knows the network.

    Args:
        recipe: Optimizer, schedule and averaging.

    Attributes:
        monitor: The logged number by which the best checkpoint is chosen.
        mode: Whether the best is the greatest (`max`) or the least (`min`).
        weights: A checkpoint to start from.
        starts_fresh: Whether weights to start from are still to be loaded; false once these or a checkpoint's are.
        evaluates_loss: Whether evaluation has a loss; torchvision's detectors have one in training alone.
        class_names: Names of the classes, from the data or from a loaded checkpoint; empty where neither has them.
        model: The network in training.
        ema: The moving average of the network, where the recipe asks for one.
    """

    monitor: ClassVar[str] = "val/loss"
    mode: ClassVar[Literal["min", "max"]] = "min"
    evaluates_loss: ClassVar[bool] = True

    weights: str | Path | None = None
    model: nn.Module
    ema: ModelEmaV3 | None

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = Recipe.of(recipe)
        self.class_names: list[str] = []
        self.starts_fresh = True
        self._schedule: Scheduler | None = None

    def assemble(self, settings: Mapping[str, Any]) -> None:
        """Builds network and metrics; a concrete task's constructor calls it when its own attributes are set.

        Args:
            settings: The constructor's arguments but the recipe, as plain values for the checkpoints.
        """
        self.save_hyperparameters({**settings, "recipe": dataclasses.asdict(self.recipe)})
        self.model = self.build_network()
        self.ema = None if self.recipe.ema_decay is None else ModelEmaV3(self.model, decay=self.recipe.ema_decay)
        self.train_metrics = self._stage_metrics("train")
        self.val_metrics = self._stage_metrics("val")
        self.test_metrics = self._stage_metrics("test")
        # In the checkpoint: an epoch that is interrupted and resumed still reports the mean over all of its steps.
        for metric in self.metrics("train").values():
            metric.persistent(True)

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network to train."""

    @abstractmethod
    def build_metrics(self, stage: Stage) -> dict[str, Metric]:
        """Fresh metrics of a stage beside its mean `loss`; `top1` is logged as `train/top1`, `val/top1`, ..."""

    @abstractmethod
    def training_loss(self, batch: Any) -> Tensor:
        """The loss of a training batch, a scalar."""

    @abstractmethod
    def evaluate(self, batch: Any, metrics: Mapping[str, Metric]) -> None:
        """Updates the metrics, `loss` among them, with a batch; the network to ask is `self.evaluated`."""

    def load_start(self, path: str | Path) -> str:
        """Loads the weights that training starts from.

        Args:
            path: Of a checkpoint.

        Returns:
            One line that says what was loaded.
        """
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Takes the names of the data's classes, and the weights to start from, unless a checkpoint is to be."""
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", [])
        self.class_names = [str(name) for name in names]
        if self.weights is not None and self.starts_fresh and self.trainer.ckpt_path is None:
            self.starts_fresh = False
            loaded = self.load_start(self.weights)
            if self.ema is not None:
                self.ema.set(self.model)
            tell(loaded)

    def evaluation_table(self) -> str:
        """What an evaluation has to say beyond its numbers, such as a row per class; empty where it has nothing."""
        return ""

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated, tested and used: the averaged one where there is one."""
        return self.model if self.ema is None else cast("nn.Module", self.ema.module)

    def forward(self, images: Tensor) -> Tensor:
        """The evaluated network's output for images [B, C, H, W]."""
        return cast("Tensor", self.evaluated(images))

    def configure_optimizers(self) -> Optimizer:
        """The recipe's optimizer; `on_train_batch_start` sets the learning rate."""
        return build_optimizer(self.model, self.recipe)

    def on_train_start(self) -> None:
        """Lays out the schedule, now that the number of batches is known."""
        trainer = self.trainer
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        limits = [trainer.max_steps, (trainer.max_epochs or -1) * per_epoch]
        if max(limits) < 0:
            raise UserError("a schedule needs an end; set --trainer.max_epochs or --trainer.max_steps")
        updates = min(limit for limit in limits if limit >= 0)
        self._schedule = build_schedule(trainer.optimizers[0], self.recipe, updates, per_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes randomness and learning rate functions of the step alone, so that a resumed run repeats them."""
        assert self._schedule is not None
        seed_step(self.current_epoch, batch_idx, self.global_rank)
        self._schedule.step(self.current_epoch)
        self._schedule.step_update(self.global_step)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step's loss, logged as it is; `on_train_epoch_end` logs the mean."""
        loss = self.training_loss(batch)
        self.metrics("train")["loss"].update(loss.detach())
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        self.log_dict({"step/loss": loss.detach(), "step/lr": self.learning_rate})
        return loss

    @property
    def learning_rate(self) -> float:
        """The learning rate of this step."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimizer step, after which the moving average follows the weights."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.model)

    def training_summary(self) -> dict[str, Tensor]:
        """Means over the training epoch so far, by the names under which they are logged."""
        return self._values("train")

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's means; a loss that is no number ends the run here, before the epoch's checkpoint."""
        summary = self.training_summary()
        # The last step's update shows in the validation alone.
        for loss in (summary["train/loss"], self.trainer.callback_metrics.get("val/loss")):
            if loss is not None and not math.isfinite(loss):
                raise UserError(
                    f"training diverged: the loss is {float(loss)} in epoch {self.current_epoch + 1}; "
                    "lower --model.recipe.lr, warm up longer, or clip with --trainer.gradient_clip_val 1"
                )
        self._log(summary)
        self._reset("train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Updates the validation metrics."""
        self.evaluate(batch, self.metrics("val"))

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the whole validation set."""
        self._log(self._values("val"))
        self._reset("val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Updates the test metrics."""
        self.evaluate(batch, self.metrics("test"))

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the whole test set."""
        self._log(self._values("test"))
        self._reset("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the names of the classes."""
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the class names; refuses a checkpoint of another network or of other classes than the data's."""
        check_same_network(checkpoint, dict(self.hparams), self.state_dict())
        self.starts_fresh = False
        names = list(checkpoint.get("class_names", []))
        if self.class_names and names and names != self.class_names:
            raise UserError(
                f"the checkpoint is for the classes {_some(names)}, the data have {_some(self.class_names)}; "
                "their classes must have the same names"
            )
        self.class_names = names or self.class_names

    def _stage_metrics(self, stage: Stage) -> nn.ModuleDict:
        # A loss that is no number shall show, not be left out of the mean.
        has_loss = stage == "train" or self.evaluates_loss
        loss = {"loss": MeanMetric(nan_strategy="disable")} if has_loss else {}
        return nn.ModuleDict({**loss, **self.build_metrics(stage)})

    def metrics(self, stage: Stage) -> dict[str, Metric]:
        """The metrics of a stage by name."""
        held = {"train": self.train_metrics, "val": self.val_metrics, "test": self.test_metrics}[stage]
        return {name: cast("Metric", metric) for name, metric in held.items()}

    def _log(self, values: dict[str, Tensor]) -> None:
        # Equal on all processes already; without the word Lightning warns that they might not be.
        self.log_dict(values, sync_dist=True)

    def _values(self, stage: Stage) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name, metric in self.metrics(stage).items():
            value = metric.compute()
            named = value if isinstance(value, Mapping) else {name: value}
            values |= {f"{stage}/{each}": number for each, number in named.items()}
        return values

    def _reset(self, stage: Stage) -> None:
        for metric in self.metrics(stage).values():
            metric.reset()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
