"""A run that is stopped anywhere and taken up again ends as the run that went through, to the bit."""

import csv
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from acmix.cli import main
from acmix.interop.checkpoint import read_checkpoint
from acmix.tasks.interruption import Stopped, StopRequest, stop_on_signals
from tasks.conftest import SignalAt

Fit = Callable[..., int]

# Drop path, Mixup, augmentation and an average: all that could depend on what ran before.
RANDOM = [
    *("--model.model", "acmix_resnet14"),
    *("--model.model_args", '{"stem": "small", "channels": [4, 4, 8, 8], "drop_path_rate": 0.3}'),
    *("--model.targets.mixup", "0.4"),
    *("--model.recipe.ema_decay", "0.9"),
    *("--data.augment", "true"),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tasks.conftest import TINY

    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main(["fit", *TINY, *RANDOM, "--output", str(folder)]) == 0
    return folder


def _printed_command(out: str) -> list[str]:
    line = next(line for line in out.splitlines() if line.startswith("acmix fit"))
    return shlex.split(line)[1:]


def _numbers(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in {"images/s", "seconds"}} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(("train", 0, 0), id="first-step"),
        pytest.param(("train", 1, 1), id="mid-epoch"),
        pytest.param(("train", 0, 3), id="last-step-of-an-epoch"),
        pytest.param(("validation", 1, 0), id="mid-validation"),
        pytest.param(("validation end", 0, 0), id="epoch-end"),
    ],
)
def test_a_resumed_run_ends_like_one_that_went_through(
    where: tuple[str, int, int],
    uninterrupted: Path,
    fit: Fit,
    place: Callable[[Callback], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place(SignalAt(where))
    assert fit("cut", *RANDOM) == 130
    assert main(_printed_command(capsys.readouterr().out)) == 0
    for name in ("last.ckpt", "best.ckpt"):
        whole = read_checkpoint(uninterrupted / "checkpoints" / name)["state_dict"]
        resumed = read_checkpoint(tmp_path / "cut" / "checkpoints" / name)["state_dict"]
        assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    assert _numbers(tmp_path / "cut") == _numbers(uninterrupted)


def test_sigterm_stops_as_ctrl_c_does_with_its_own_code(
    fit: Fit, place: Callable[[Callback], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(SignalAt(("train", 0, 1), signal.SIGTERM))
    assert fit("cut") == 143
    assert "--ckpt_path" in _printed_command(capsys.readouterr().out)
    assert read_checkpoint(tmp_path / "cut" / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_an_update_of_several_batches_is_finished_first(
    fit: Fit, place: Callable[[Callback], None], tmp_path: Path
) -> None:
    place(SignalAt(("train", 0, 0), signal.SIGTERM))
    assert fit("cut", "--trainer.accumulate_grad_batches", "2") == 143
    checkpoint = read_checkpoint(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 1
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 2


class _FailAt(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            raise RuntimeError("in the middle of a step")


def test_a_failure_within_a_step_keeps_the_last_whole_checkpoint(
    fit: Fit, place: Callable[[Callback], None], tmp_path: Path
) -> None:
    place(SignalAt(("train", 0, 0)))
    fit("cut")
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    place(_FailAt())
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        main(["fit", "--config", str(tmp_path / "cut" / "config.yaml"), "--ckpt_path", str(last)])
    assert last.read_bytes() == before


def test_resuming_with_a_data_order_of_its_own_is_refused(
    fit: Fit, place: Callable[[Callback], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(SignalAt(("train", 0, 1)))
    fit("cut")
    words = _printed_command(capsys.readouterr().out)
    assert main([*words, "--data.batch_size", "16"]) == 2
    assert re.search(r"acmix: error: .*batch size", capsys.readouterr().err)


def test_the_second_signal_stops_at_once() -> None:
    with stop_on_signals() as request:
        request.patient = True
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signum == signal.SIGINT
        with pytest.raises(Stopped) as stop:
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.value.exit_code == 130


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as request:
        assert signal.getsignal(signal.SIGTERM) is request
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_data_worker_leaves_the_decision_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    request = StopRequest()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    request(signal.SIGINT, None)
    assert request.signum == 0
