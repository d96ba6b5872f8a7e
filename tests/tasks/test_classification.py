"""The classification task as a Lightning module, without the command line."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from acmix.errors import UserError
from acmix.tasks import ClassificationTask, Recipe, Targets
from acmix.tasks.data import DigitsDataModule
from acmix.tasks.quiet import quiet
from acmix.tasks.randomness import seed_step

SMALL = {"stem": "small", "channels": [4, 4, 8, 8]}


def _task(**settings: object) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask("conv_resnet14", 10, 1, SMALL, **settings)  # type: ignore[arg-type]  # checked where used


def _batch(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 10


def test_label_smoothing_is_in_the_training_loss_alone() -> None:
    task = _task(targets=Targets(label_smoothing=0.1))
    images, targets = _batch()
    task.eval()
    loss = task.training_loss((images, targets))
    expected = torch.nn.functional.cross_entropy(task(images), targets, label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item())
    task.evaluate((images, targets), task.metrics("val"))
    plain = torch.nn.functional.cross_entropy(task(images), targets)
    assert task.metrics("val")["loss"].compute().item() == pytest.approx(plain.item())


@pytest.mark.parametrize("count", [1, 4, 5])
def test_mixing_takes_batches_of_any_size(count: int) -> None:
    task = _task(targets=Targets(mixup=1.0, cutmix=1.0, label_smoothing=0.1)).eval()
    images, targets = _batch(count)
    before = images.clone()
    seed_step(0, 0, 0)
    _, soft = task._mixed(task.mixup, images, targets)  # type: ignore[arg-type]  # mixing is on
    assert torch.equal(images, before)
    assert soft.shape == (count, 10)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(count))


def test_a_step_draws_the_same_whatever_came_before() -> None:
    seed_step(2, 7, 0)
    first = torch.rand(3)
    seed_step(2, 7, 0)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("other", [(3, 7, 0), (2, 8, 0), (2, 7, 1)], ids=["epoch", "batch", "rank"])
def test_another_step_draws_anew(other: tuple[int, int, int]) -> None:
    seed_step(2, 7, 0)
    first = torch.rand(3)
    seed_step(*other)
    assert not torch.equal(torch.rand(3), first)


def test_five_classes_have_no_top_five() -> None:
    task = ClassificationTask("conv_resnet14", 5, 1, SMALL)
    assert list(task.metrics("val")) == ["loss", "top1"]


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 classes, got 1"):
        ClassificationTask("conv_resnet14", 1, 1, SMALL)


def test_a_task_trains_and_comes_back_in_python_too(tmp_path: Path) -> None:
    task = _task(recipe=Recipe(optimizer="adamw", lr=1e-3, ema_decay=0.9), targets=Targets(label_smoothing=0.1))
    silent = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    trainer = Trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=1, accelerator="cpu", **silent)
    with quiet():
        trainer.fit(task, datamodule=DigitsDataModule(batch_size=8))
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    back = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True).eval()
    assert (back.model_name, back.recipe, back.targets) == (task.model_name, task.recipe, task.targets)
    images, _ = _batch()
    with torch.no_grad():
        assert torch.equal(back(images), task.eval()(images))
