"""Runs of the command line on a network and a data set so small that a run takes a second."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from acmix.cli import main
from acmix.tasks.run_cli import RunCLI

TINY = ["--config", str(Path(__file__).with_name("tiny.yaml"))]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are faster on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., int]:
    """Trains a tiny network into `tmp_path / name`; the command line's further words come last."""

    def run(name: str, *words: str) -> int:
        return main(["fit", *TINY, "--output", str(tmp_path / name), *words])

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["fit", *TINY, "--output", str(folder)]) == 0
    return folder


class SignalAt(Callback):
    """Sends this process a signal at a place of the training: hook, epoch, batch."""

    def __init__(self, place: tuple[str, int, int], signum: int = signal.SIGINT) -> None:
        self.place = place
        self.signum = signum

    def _at(self, hook: str, trainer: Trainer, batch: int) -> None:
        if (hook, trainer.current_epoch, batch) == self.place and not trainer.sanity_checking:
            os.kill(os.getpid(), self.signum)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._at("train", trainer, batch_idx)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._at("validation", trainer, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._at("validation end", trainer, 0)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callback], None]:
    """Puts a callback into the next run, and only into that."""
    waiting: list[Callback] = []
    own = RunCLI._fit_callbacks

    def with_waiting(cli: RunCLI) -> list[Callback]:
        taken, waiting[:] = list(waiting), []
        return [*taken, *own(cli)]

    monkeypatch.setattr(RunCLI, "_fit_callbacks", with_waiting)
    return waiting.append
