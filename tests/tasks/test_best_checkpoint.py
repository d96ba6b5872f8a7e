"""`best.ckpt` holds the weights of the number it was chosen by, wherever validation comes."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acmix.cli import main
from acmix.tasks.best_checkpoint import validates_within_epochs


class _Settings:
    def __init__(self, every: int | None, interval: float | None) -> None:
        self.check_val_every_n_epoch = every
        self.val_check_interval = interval


@pytest.mark.parametrize(
    ("every", "interval", "within"),
    [(1, None, False), (5, 1.0, False), (1, 0.5, True), (1, 1, True), (1, 100, True), (None, 100, True)],
)
def test_lightning_s_intervals(every: int | None, interval: float | None, within: bool) -> None:
    assert validates_within_epochs(_Settings(every, interval)) is within


def test_steps_of_the_run_are_kept_as_they_were_validated(fit: Callable[..., int], tmp_path: Path) -> None:
    # Four batches an epoch; validated are steps 3 and 6, one within each epoch.
    by_steps = ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "3"]
    assert fit("run", *by_steps, "--trainer.max_steps", "8", "--trainer.max_epochs", "-1") == 0
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] in (3, 6)
    tested = ["--config", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", "best"]
    assert main(["validate", *tested, "--output", str(tmp_path / "run")]) == 0


def test_epochs_that_do_not_validate_leave_it_alone(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("run", "--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "3") == 0
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 1
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [bool(row["val/top1"]) for row in csv.DictReader(file)] == [False, True, False]
    assert "could not find the monitored key" not in capsys.readouterr().err
