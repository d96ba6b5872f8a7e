"""Checkpoints to start a training from."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import acmix
from acmix.cli import main
from acmix.interop import read_state_dict
from acmix.nn.authors_keys import AUTHORS_KEYS
from tasks.conftest import TINY

THEIRS = {ours: theirs for theirs, ours in AUTHORS_KEYS.items()}
OPTIONS = {"stem": "small", "channels": [4, 4, 8, 8], "acmix": {"num_heads": 2}}
WORDS = ["--model.model", "acmix_resnet14", "--model.model_args.acmix.num_heads", "2", "--trainer.max_epochs", "1"]


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    """A checkpoint with the authors' names, biases of `dep_conv` and a head for three classes."""
    network = acmix.create_model("acmix_resnet14", num_classes=3, in_chans=1, **OPTIONS)
    state = {}
    for name, value in network.state_dict().items():
        front, mark, last = name.partition(".conv2.")
        state[f"{front}.conv2.{THEIRS[last]}" if mark else name] = value
        if last == "shift.weight":
            state[f"{front}.conv2.dep_conv.bias"] = torch.ones(len(value))
    torch.save({"model": state}, tmp_path / "fork.pth")
    return tmp_path / "fork.pth"


def test_a_forks_weights_with_biases_start_a_training_and_its_average(
    fit: Callable[..., int], fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--model.weights", str(fork), "--model.recipe.ema_decay", "0.9"]
    assert fit("run", *words) == 0
    assert "its head is for 3 classes, a new one for 10" in capsys.readouterr().out
    state = read_state_dict(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert state.keys() == acmix.create_model("acmix_resnet14", in_chans=1, **OPTIONS).state_dict().keys()


def test_what_does_not_fit_is_listed_under_our_names(
    fork: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(fork, weights_only=True)["model"]
    del state["layer2.0.conv2.fc.weight"]
    torch.save(state | {"extra.weight": torch.ones(1)}, fork)
    assert main(["fit", *TINY, *WORDS, "--output", str(tmp_path / "run"), "--model.weights", str(fork)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "1 missing: layer2.0.conv2.fc.weight; 1 foreign: extra.weight" in line


def test_biases_that_need_a_place_of_their_own_say_how_they_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "img_size": 8, "patch_size": 2, "window_size": 2}
    network = acmix.create_model("acmix_swin_tiny", num_classes=10, in_chans=1, **small)
    renamed = {"alpha": "rate1", "beta": "rate2", "shift.weight": "dep_conv.weight"}
    state = {}
    for name, value in network.state_dict().items():
        front, mark, last = name.partition(".attn.")
        state[f"{front}{mark}{renamed.get(last, last)}" if mark else name] = value * 0 if last == "alpha" else value
        if last == "shift.weight":
            state[f"{front}.attn.dep_conv.bias"] = torch.ones(len(value))
    torch.save(state, tmp_path / "fork.pth")
    words = ["fit", *TINY, "--model.model", "acmix_swin_tiny", "--model.model_args", json.dumps(small)]
    words += ["--trainer.max_epochs", "1", "--model.weights", str(tmp_path / "fork.pth"), "--output"]
    assert main([*words, str(tmp_path / "run")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("give them a place with --model.model_args.acmix.conv_bias true")
    assert main([*words, str(tmp_path / "run"), "--model.model_args.acmix.conv_bias", "true"]) == 0
