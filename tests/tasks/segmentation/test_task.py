"""The segmentation task as a Lightning module, on a folder of tiny scenes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from acmix.errors import UserError
from acmix.tasks import ClassificationTask, Recipe, SegmentationTask
from acmix.tasks.data import SegmentationFolderDataModule
from acmix.tasks.data.segmentation_transforms import SegmentationAugmentation
from acmix.tasks.quiet import quiet
from acmix.tasks.segmentation import DecoderSettings, Inference
from acmix.tasks.segmentation.losses import pixel_cross_entropy
from tasks.segmentation.networks import CLASSES, DECODERS, images, targets

SMALL = {"channels": [8, 8, 16, 16]}
NAMES = ["sky", "wall", "road", "tree", "car"]


def make_task(decoder: str = "semantic_fpn", classes: int = CLASSES, **settings: Any) -> SegmentationTask:
    torch.manual_seed(0)
    return SegmentationTask("acmix_resnet14", classes, 3, SMALL, decoder=DECODERS[decoder], **settings)


@pytest.fixture
def data(tmp_path: Path) -> SegmentationFolderDataModule:
    """Images whose colours give their classes away, of several sizes."""
    rng = np.random.default_rng(0)
    for part, count in (("training", 4), ("validation", 3)):
        for number in range(count):
            size = (40 + 8 * (number % 2), 48)
            labels = rng.integers(0, CLASSES, (6, 6), dtype=np.uint8).repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
            pixels = np.stack([labels * 50, 255 - labels * 50, labels % 2 * 200], axis=2)
            labels[:2] = 255
            for kind, array in (("images", pixels), ("annotations", labels)):
                path = tmp_path / "scenes" / kind / part / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    augmentation = SegmentationAugmentation((32, 32), ratio=(0.75, 1.5))
    return SegmentationFolderDataModule(tmp_path / "scenes", NAMES, 2, 0, augmentation=augmentation)


def make_trainer(folder: Path, **options: Any) -> Trainer:
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**{"accelerator": "cpu", "default_root_dir": folder, "max_epochs": 1, **silent, **options})


def test_a_task_trains_evaluates_and_comes_back(data: SegmentationFolderDataModule, tmp_path: Path) -> None:
    recipe = Recipe(optimizer="adamw", lr=1e-3, schedule="poly", power=0.9, ema_decay=0.5)
    task = make_task("upernet", recipe=recipe, inference=Inference("slide", 32, 16), class_weights=[1, 2, 1, 1, 1])
    trainer = make_trainer(tmp_path)
    with quiet():
        trainer.fit(task, datamodule=data)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        assert {"train/loss", "val/loss", "val/miou", "val/pixel_accuracy"} <= set(logged)
        assert all(np.isfinite(value) for value in logged.values())
        trainer.save_checkpoint(tmp_path / "task.ckpt")
        assert task.evaluation_table().splitlines()[2].startswith("sky")
        back = SegmentationTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True).eval()
        assert (back.decoder, back.inference, back.recipe) == (task.decoder, task.inference, task.recipe)
        assert (back.class_names, back.model_args) == (NAMES, SMALL)
        with torch.no_grad():
            assert torch.equal(back(images()), task.eval()(images()))
        (again,) = make_trainer(tmp_path).validate(back, datamodule=data, verbose=False)
    assert again["val/miou"] == pytest.approx(logged["val/miou"])


def test_it_learns_what_colours_mean(data: SegmentationFolderDataModule, tmp_path: Path) -> None:
    recipe = Recipe(optimizer="adamw", lr=1e-2)
    task = make_task(recipe=recipe)
    trainer = make_trainer(tmp_path, max_epochs=12, check_val_every_n_epoch=12)
    with quiet():
        first = make_trainer(tmp_path, inference_mode=False).validate(task, datamodule=data, verbose=False)
        trainer.fit(task, datamodule=data)
    assert float(trainer.callback_metrics["val/miou"]) > first[0]["val/miou"] + 0.15


def test_the_figures_are_those_of_all_pixels_together(data: SegmentationFolderDataModule, tmp_path: Path) -> None:
    task = make_task().eval()
    with quiet():
        (logged,) = make_trainer(tmp_path).validate(task, datamodule=data, verbose=False)
    matrix = np.zeros((CLASSES, CLASSES))
    with torch.no_grad():
        for images_, targets_ in data.val_dataloader():
            for image, target in zip(images_, targets_, strict=True):
                classes = task(image[None])[0].argmax(0)
                kept = target != 255
                np.add.at(matrix, (target[kept].numpy(), classes[kept].numpy()), 1)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    overlap = np.diag(matrix)[union > 0] / union[union > 0]
    assert logged["val/miou"] == pytest.approx(overlap.mean(), rel=1e-5)
    assert logged["val/pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), rel=1e-5)


def test_the_auxiliary_loss_counts_by_its_weight() -> None:
    task = make_task("upernet").train()
    batch = images(), targets()
    torch.manual_seed(0)
    loss = task.training_loss(batch)
    torch.manual_seed(0)
    main, auxiliary = (pixel_cross_entropy(logits, batch[1]) for logits in task.model(batch[0]))
    assert loss.item() == pytest.approx((main + 0.4 * auxiliary).item())


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_without_a_pixel_that_counts_has_no_loss(decoder: str) -> None:
    task = make_task(decoder).train()
    loss = task.training_loss((images(), torch.full((2, 64, 64), 255)))
    loss.backward()
    assert loss.item() == 0
    assert all(not value.grad.any() for value in task.model.parameters() if value.grad is not None)


def test_labels_may_have_another_size_than_their_images() -> None:
    task = make_task().eval()
    metrics = task.metrics("val")
    with torch.no_grad():
        task.evaluate(([images(1, 20, 24)[0], images(1, 33, 17)[0]], list(targets(2, 40, 48))), metrics)
    assert metrics["iou"].compute()["pixel_accuracy"].isfinite()
    predicted = task.predict_step(([images(1, 20, 24)[0]], [targets(1, 40, 48)[0]]), 0)
    assert [tuple(each.shape) for each in predicted] == [(40, 48)]


def test_there_is_no_table_before_an_evaluation() -> None:
    assert make_task().evaluation_table() == ""


def test_a_classifiers_weights_start_the_backbone(data: SegmentationFolderDataModule, tmp_path: Path) -> None:
    classifier = ClassificationTask("acmix_resnet14", 7, 3, SMALL)
    torch.save(classifier.model.state_dict(), tmp_path / "classifier.pt")
    task = make_task(weights=tmp_path / "classifier.pt")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    with quiet():
        make_trainer(tmp_path).validate(task, datamodule=data, verbose=False)
    stored = classifier.model.state_dict()
    for name, value in task.model.state_dict().items():
        expected = stored[name.removeprefix("backbone.body.")] if name.startswith("backbone") else before[name]
        assert torch.equal(value, expected), name


def test_a_whole_networks_weights_start_all_but_other_classes(
    data: SegmentationFolderDataModule, tmp_path: Path
) -> None:
    other = make_task("upernet", classes=9)
    torch.save(other.model.state_dict(), tmp_path / "other.pt")
    task = make_task("upernet", weights=tmp_path / "other.pt")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    with quiet():
        make_trainer(tmp_path).validate(task, datamodule=data, verbose=False)
    new = {"head.1.weight", "head.1.bias", "auxiliary.4.weight", "auxiliary.4.bias"}
    for name, value in task.model.state_dict().items():
        expected = before[name] if name in new else other.model.state_dict()[name]
        assert torch.equal(value, expected), name


def test_another_decoders_checkpoint_is_refused(data: SegmentationFolderDataModule, tmp_path: Path) -> None:
    torch.save(make_task("upernet").model.state_dict(), tmp_path / "other.pt")
    task = make_task(weights=tmp_path / "other.pt")
    with quiet(), pytest.raises(UserError, match="holds the weights of another network"):
        make_trainer(tmp_path).validate(task, datamodule=data, verbose=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": 1}, "segmentation takes 2 to 255 classes, got 1"),
        ({"classes": 256}, "segmentation takes 2 to 255 classes, got 256"),
        ({"class_weights": [1.0, 2.0]}, "class_weights are .1.0, 2.0.: give 5 numbers"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_task(**settings)


def test_settings_come_back_from_plain_mappings() -> None:
    task = make_task("upernet")
    hparams = dict(task.hparams)
    again = SegmentationTask(**{**hparams, "recipe": Recipe.of(hparams["recipe"])})
    assert again.decoder == DecoderSettings("upernet", channels=16, aux_channels=8)
