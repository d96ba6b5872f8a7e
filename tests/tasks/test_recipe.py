"""Optimizer groups and the learning rate as a function of the step."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import acmix
from acmix.errors import UserError
from acmix.tasks.recipe import Recipe, build_optimizer, build_schedule


def _lr(recipe: Recipe, *, epoch: int = 0, step: int = 0) -> float:
    optimizer = build_optimizer(nn.Linear(2, 2), recipe)
    schedule = build_schedule(optimizer, recipe, updates=100, updates_per_epoch=10)
    schedule.step(epoch)
    schedule.step_update(step)
    return float(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(("step", "lr"), [(0, 0.0), (5, 0.5), (10, 0.9755), (50, 0.5), (99, 0.00025)])
def test_cosine_by_step_rises_in_the_warm_up_and_falls_to_zero(step: int, lr: float) -> None:
    recipe = Recipe(lr=1.0, warmup_epochs=1)
    assert _lr(recipe, step=step) == pytest.approx(lr, abs=1e-4)


@pytest.mark.parametrize("epoch", range(10))
def test_cosine_by_epoch_is_that_of_torch(epoch: int) -> None:
    recipe = Recipe(lr=0.1, interval="epoch")
    assert _lr(recipe, epoch=epoch, step=77) == pytest.approx(0.05 * (1 + math.cos(math.pi * epoch / 10)))


def test_a_constant_rate_stays() -> None:
    assert _lr(Recipe(lr=0.3, schedule="constant"), step=73) == pytest.approx(0.3)


@pytest.mark.parametrize("step", [0, 10, 50, 99])
def test_poly_is_a_power_of_what_is_left(step: int) -> None:
    recipe = Recipe(lr=2.0, schedule="poly", power=0.9)
    assert _lr(recipe, step=step) == pytest.approx(2.0 * (1 - step / 100) ** 0.9)


@pytest.mark.parametrize(("step", "lr"), [(0, 0.0), (2, 0.4), (5, 1.0), (79, 1.0), (80, 0.1), (94, 0.1), (95, 0.01)])
def test_multistep_falls_when_so_many_epochs_are_over(step: int, lr: float) -> None:
    recipe = Recipe(lr=1.0, schedule="multistep", milestones=(8, 9.5), warmup_steps=5)
    assert _lr(recipe, step=step) == pytest.approx(lr)


@pytest.mark.parametrize(("epoch", "lr"), [(7, 1.0), (8, 0.1), (10, 0.1), (11, 0.01)])
def test_multistep_by_epoch(epoch: int, lr: float) -> None:
    recipe = Recipe(lr=1.0, schedule="multistep", milestones=(8, 11), interval="epoch")
    assert _lr(recipe, epoch=epoch) == pytest.approx(lr)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"warmup_steps": 5, "warmup_epochs": 1}, "warmup_steps is 5 with warmup_epochs 1"),
        ({"warmup_steps": 5, "interval": "epoch"}, "steps need interval step"),
        ({"schedule": "multistep"}, "give milestones to multistep"),
        ({"milestones": (3,)}, "give milestones to multistep"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Recipe(**settings)


def test_the_rate_depends_on_the_step_alone() -> None:
    recipe = Recipe(lr=1.0, warmup_epochs=2)
    optimizer = build_optimizer(nn.Linear(2, 2), recipe)
    schedule = build_schedule(optimizer, recipe, updates=100, updates_per_epoch=10)
    for step in (80, 3, 41):
        schedule.step_update(step)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(_lr(recipe, step=41))


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_one_dimensional_parameters_are_not_decayed(name: str) -> None:
    layer = nn.Sequential(acmix.ACmix(8, 8), nn.BatchNorm2d(8))
    optimizer = build_optimizer(layer, Recipe(optimizer=name, weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, parameter in layer.named_parameters() if id(parameter) in decayed}
    assert names == {name for name, parameter in layer.named_parameters() if parameter.ndim > 1}
    assert {"0.alpha", "0.beta"} <= {name for name, _ in layer.named_parameters()} - names


def test_optimizer_arguments_are_passed_on() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), Recipe(optimizer="adamw", optimizer_args={"betas": [0.8, 0.9]}))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.9)


def test_an_unknown_optimizer_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no optimizer 'adamx'; did you mean .*adam"):
        build_optimizer(nn.Linear(2, 2), Recipe(optimizer="adamx"))


def test_a_recipe_comes_back_from_its_fields() -> None:
    assert Recipe.of({"optimizer": "lamb", "lr": 0.2}) == Recipe(optimizer="lamb", lr=0.2)
