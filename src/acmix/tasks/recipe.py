"""How a network is trained: optimizer and learning-rate schedule, built by timm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import timm.optim
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn
from torch.optim import Optimizer

from acmix.errors import UserError
from acmix.tasks.names import nearest

__all__ = ["Recipe", "build_optimizer", "build_schedule"]


@dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule and weight averaging of a training run.

    Attributes:
        optimizer: timm's name: `momentum` (plain SGD), `sgd` (with Nesterov), `adamw`, `lamb`, ...
        lr: Learning rate at the top of the schedule.
        weight_decay: Weight decay; none on biases, norms and other one-dimensional parameters, alpha and beta among
            them.
        momentum: Momentum, for optimizers that have one.
        optimizer_args: Further arguments of the optimizer, such as `betas`.
        schedule: `cosine` and `poly` fall from `lr` to `min_lr`; `multistep` is multiplied by `decay_rate` at each
            milestone; `constant` stays.
        power: Of `poly`: the share of `lr - min_lr` that is left is (share of the run that is left) ** power.
        milestones: Of `multistep`: epochs after whose end the learning rate falls.
        decay_rate: Of `multistep`.
        interval: Whether the learning rate changes at each step or at each epoch.
        warmup_epochs: Linear rise from `warmup_lr` to `lr` over so many epochs, part of the schedule's length.
        warmup_steps: The same in optimizer steps, with `interval: step`; give one of the two.
        warmup_lr: Learning rate at the start of the warm-up.
        min_lr: Learning rate at the end of the cosine.
        ema_decay: Decay per step of an exponential moving average of the weights, which is then what is validated
            and tested; none keeps no average.
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.9
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    schedule: Literal["cosine", "constant", "poly", "multistep"] = "cosine"
    power: float = 1.0
    milestones: tuple[float, ...] = ()
    decay_rate: float = 0.1
    interval: Literal["step", "epoch"] = "step"
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        if self.warmup_steps and (self.warmup_epochs or self.interval == "epoch"):
            raise UserError(
                f"recipe: warmup_steps is {self.warmup_steps} with warmup_epochs {self.warmup_epochs} and interval "
                f"{self.interval}: steps need interval step, and stand alone"
            )
        if (self.schedule == "multistep") != bool(self.milestones):
            raise UserError(
                f"recipe: schedule is {self.schedule} with milestones {list(self.milestones)}: give milestones to "
                "multistep, and to it alone"
            )

    @classmethod
    def of(cls, settings: "Recipe | Mapping[str, Any]") -> "Recipe":
        """A recipe from its fields as a mapping, which is how a checkpoint holds one."""
        return settings if isinstance(settings, Recipe) else cls(**settings)


def build_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over the network's parameters, one-dimensional ones without weight decay.

    Raises:
        UserError: timm has no optimizer of that name, or the optimizer does not take these arguments.
    """
    known = [str(name) for name in timm.optim.list_optimizers()]
    if recipe.optimizer.lower() not in known:
        raise UserError(f"no optimizer {recipe.optimizer!r}; {nearest(recipe.optimizer, known)}")
    try:
        optimizer: Optimizer = timm.optim.create_optimizer_v2(
            network,
            opt=recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            **recipe.optimizer_args,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {recipe.optimizer!r} refuses its settings: {error}") from error
    return optimizer


def build_schedule(optimizer: Optimizer, recipe: Recipe, updates: int, updates_per_epoch: int) -> Scheduler:
    """The recipe's learning rate as a function of the epoch or of the number of updates.

    timm's schedulers keep no running state: asked for the same step, they set the same learning rate.

    Args:
        optimizer: Gets the learning rate set in all its groups.
        recipe: Shape, warm-up and end of the schedule.
        updates: Optimizer steps of the whole run.
        updates_per_epoch: Optimizer steps of one epoch.
    """
    by_epoch = recipe.interval == "epoch"
    # In steps, timm's "epoch" is one step.
    unit = 1 if by_epoch else updates_per_epoch
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=math.ceil(updates / updates_per_epoch) if by_epoch else updates,
        # timm counts from 1 here, and calls the power of `poly` its decay rate.
        decay_milestones=[round(milestone * unit) + 1 for milestone in recipe.milestones],
        decay_rate=recipe.power if recipe.schedule == "poly" else recipe.decay_rate,
        warmup_epochs=recipe.warmup_steps or round(recipe.warmup_epochs * unit),
        warmup_lr=recipe.warmup_lr,
        min_lr=recipe.min_lr,
        step_on_epochs=by_epoch,
        updates_per_epoch=1,
    )
    assert isinstance(schedule, Scheduler)
    return schedule
