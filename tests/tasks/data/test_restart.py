"""A run that stops anywhere and goes on reads what the uninterrupted run reads, augmentation included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.tasks.data import Augmentation, ImageFolderDataModule

# Lightning 2.6.6 makes a LeafSpec of torch's pytree, which torch 2.15 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

EPOCHS, BATCHES = 3, 4

Seen = list[tuple[int, int, bytes]]


class Recorder(LightningModule):
    """Learns next to nothing and writes down each batch: epoch, batch number, pixels."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen: Seen = []
        self.fail_at = fail_at

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        if self.fail_at is not None and len(self.seen) == self.fail_at:
            raise InterruptedError
        self.seen.append((self.current_epoch, batch_idx, images.numpy().tobytes()))
        return nn.functional.cross_entropy(self.layer(images.mean((2, 3))), targets)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0].mean((2, 3))).sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class SaveOnFailure(Callback):
    """Saves a checkpoint where the run fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


@pytest.fixture
def root(make_folder: Any) -> Path:
    return make_folder({"train": {"a": 9, "b": 7}, "val": {"a": 2, "b": 2}})


def data(root: Path, **options: Any) -> ImageFolderDataModule:
    arguments: dict[str, Any] = {
        "batch_size": 4,
        "num_workers": 0,
        "image_size": 8,
        "seed": 3,
        "augmentation": Augmentation(crop="padded"),
    }
    return ImageFolderDataModule(root, **{**arguments, **options})


def fit(data_module: ImageFolderDataModule, folder: Path, *, step: int | None = None, **options: Any) -> Recorder:
    """Trains and writes a checkpoint to the folder after every step; or resumes from the checkpoint of a step."""
    recorder = Recorder(fail_at=options.pop("fail_at", None))
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1 if step is None else 0)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[every_step, *options.pop("callbacks", [])],
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": EPOCHS, "num_sanity_val_steps": 0, **options},
    )
    trainer.fit(recorder, datamodule=data_module, ckpt_path=None if step is None else folder / f"step={step}.ckpt")
    return recorder


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"max_epochs": EPOCHS}, id="by epochs"),
        pytest.param({"max_epochs": -1, "max_steps": EPOCHS * BATCHES}, id="by steps"),
        pytest.param({"limit_val_batches": 0}, id="without validation"),
        pytest.param({"val_check_interval": 2}, id="validation within the epoch"),
    ],
)
def test_every_step_can_be_resumed(root: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    whole = fit(data(root), tmp_path / "saved", **options).seen
    assert [(epoch, batch) for epoch, batch, _ in whole] == [(e, b) for e in range(EPOCHS) for b in range(BATCHES)]
    for step in range(1, EPOCHS * BATCHES):
        resumed = fit(data(root), tmp_path / "saved", step=step, **options)
        assert resumed.seen == whole[step:], f"resumed after step {step}"


@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (2, 2)], ids=lambda pair: f"{pair[0]} then {pair[1]} workers")
def test_number_of_workers_may_change(root: Path, tmp_path: Path, workers: tuple[int, int]) -> None:
    whole = fit(data(root), tmp_path / "whole").seen
    assert fit(data(root, num_workers=workers[0]), tmp_path / "saved").seen == whole
    resumed = fit(data(root, num_workers=workers[1]), tmp_path / "saved", step=6)
    assert resumed.seen == whole[6:]


@pytest.mark.parametrize("step", [0, 3, 4, 6])
def test_an_interrupted_step_is_read_again(root: Path, tmp_path: Path, step: int) -> None:
    whole = fit(data(root), tmp_path / "whole").seen
    failed = tmp_path / "failed"
    save = SaveOnFailure(failed / f"step={step}.ckpt")
    with pytest.raises(InterruptedError):
        fit(data(root), failed, fail_at=step, callbacks=[save])
    assert fit(data(root), failed, step=step, callbacks=[save]).seen == whole[step:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"batch_size": 2}, "total batch size 4, this run has 2", id="batch size"),
        pytest.param({"seed": 4}, "seed 3, this run has 4", id="seed"),
        pytest.param({"train_folder": "val"}, "number of training images 16, this run has 4", id="data"),
    ],
)
def test_an_epoch_is_not_continued_with_other_data(
    root: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    fit(data(root), tmp_path / "saved")
    with pytest.raises(UserError, match=words):
        fit(data(root, **change), tmp_path / "saved", step=6)


def test_another_batch_size_is_welcome_at_an_epochs_end(root: Path, tmp_path: Path) -> None:
    end = ModelCheckpoint(tmp_path / "saved", "end-{step}", every_n_epochs=1, save_top_k=-1)
    fit(data(root), tmp_path / "saved", callbacks=[end])
    (tmp_path / f"saved/end-step={2 * BATCHES}.ckpt").rename(tmp_path / "saved/step=8.ckpt")
    end.save_top_k = 0
    resumed = fit(data(root, batch_size=2), tmp_path / "saved", step=8, callbacks=[end])
    assert [(epoch, batch) for epoch, batch, _ in resumed.seen] == [(2, batch) for batch in range(2 * BATCHES)]


def test_a_second_look_at_the_loader_begins_at_the_beginning(root: Path, tmp_path: Path) -> None:
    data_module = data(root)
    fit(data_module, tmp_path / "saved")
    assert len(list(data_module.train_dataloader())) == BATCHES


def test_overfitting_repeats_its_batches(root: Path, tmp_path: Path) -> None:
    options = {"overfit_batches": 2, "limit_val_batches": 0}
    seen = fit(data(root, augmentation=Augmentation(crop="center", hflip=0)), tmp_path / "saved", **options).seen
    assert [pixels for _, _, pixels in seen] == [pixels for _, _, pixels in seen[:2]] * EPOCHS
