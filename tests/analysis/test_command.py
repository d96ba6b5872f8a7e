"""`acmix analyze`, through the command line."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import acmix
from acmix.analysis.trained import load_trained
from acmix.cli import main
from analysis.pictures import read_png

SMALL: dict[str, Any] = {"stem": "small", "channels": [8, 8, 8, 8]}


def network(name: str = "acmix_resnet14", in_chans: int = 1) -> nn.Module:
    torch.manual_seed(0)
    model = acmix.create_model(name, num_classes=10, in_chans=in_chans, **SMALL)
    for index, layer in enumerate(module for module in model.modules() if isinstance(module, acmix.ACmix)):
        if layer.alpha is not None:
            nn.init.constant_(layer.alpha, 0.1 * (index + 1))
    return model


def checkpoint(path: Path, name: str = "acmix_resnet14", in_chans: int = 1, **more: Any) -> Path:
    """A file as Lightning writes it for a classification task."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"model": name, "num_classes": 10, "in_chans": in_chans, "model_args": SMALL}
    state = {f"model.{key}": value for key, value in network(name, in_chans).state_dict().items()}
    torch.save(
        {"pytorch-lightning_version": "2.6.6", "state_dict": state, "hyper_parameters": settings} | more,
        path,
    )
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "rates.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_checkpoint_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path / "best.ckpt")
    assert main(["analyze", str(path)]) == 0
    folder = tmp_path / "analysis"
    printed = capsys.readouterr().out
    assert re.search(r"3 +layer3\.0\.conv2 +\+0\.3000 +\+0\.5000 +0\.3000 +0\.5000 +-0\.222", printed)
    for name in ("rates.csv", "rates.png", "attention.png"):
        assert f"  {folder / name}\n" in printed
        assert (folder / name).stat().st_size > 0
    assert [float(row["alpha"]) for row in rows(folder)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert np.unique(read_png(folder / "attention.png").reshape(-1, 3), axis=0).shape[0] > 50


def test_a_checkpoint_that_lightning_wrote_is_read(tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    from acmix.tasks import ClassificationTask
    from acmix.tasks.data import DigitsDataModule

    data = DigitsDataModule(image_size=12)
    data.setup()
    task = ClassificationTask("acmix_resnet14", num_classes=10, in_chans=1, model_args=SMALL)
    nn.init.constant_(task.model.layer4[0].conv2.beta, 0.125)
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, barebones=True)
    trainer.strategy.connect(task)
    task.trainer, trainer.datamodule = trainer, data
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert main(["analyze", str(tmp_path / "last.ckpt"), "--output", str(tmp_path / "out")]) == 0
    assert rows(tmp_path / "out")[3]["beta"] == "0.125"
    assert load_trained(tmp_path / "last.ckpt").preparation.image_size == 12


def test_a_colour_network_looks_at_a_photograph(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "best.ckpt", in_chans=3)
    assert main(["analyze", str(path), "--image-size", "24", "--layers", "layer2", "--heads"]) == 0
    assert {file.name for file in (tmp_path / "analysis").iterdir()} == {
        "rates.csv",
        "rates.png",
        "attention.png",
        "heads-02-layer2.0.conv2.png",
    }


def test_image_and_pixels_are_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path / "best.ckpt", input={"image_size": 16, "mean": [0.5], "std": [0.5]})
    gradient = np.linspace(0, 255, 40 * 30, dtype=np.uint8).reshape(40, 30)
    Image.fromarray(gradient).save(tmp_path / "mine.png")
    words = ["analyze", str(path), "--image", str(tmp_path / "mine.png"), "--pixels", "0,0", "39,29"]
    assert main(words) == 0
    assert read_png(tmp_path / "analysis" / "attention.png").shape[1] > 1000
    assert main([*words, "40,0"]) == 2
    assert "--pixels 40,0: outside of the image, which has rows 0 to 39 and columns 0 to 29" in capsys.readouterr().err


def test_several_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [checkpoint(tmp_path / f"seed{seed}" / "checkpoints" / "best.ckpt") for seed in range(2)]
    assert main(["analyze", *map(str, paths), "--output", str(tmp_path / "both")]) == 0
    assert [row["run"] for row in rows(tmp_path / "both")] == ["seed0"] * 4 + ["seed1"] * 4
    assert not (tmp_path / "both" / "attention.png").exists()
    assert "acmix_resnet14 (seed1)" in capsys.readouterr().out


def test_a_dropped_path_leaves_gaps(tmp_path: Path) -> None:
    assert main(["analyze", str(checkpoint(tmp_path / "best.ckpt", "attn_resnet14"))]) == 0
    assert {(row["beta"], row["log10_ratio"]) for row in rows(tmp_path / "analysis")} == {("", "")}


def test_a_bare_state_dict_needs_only_the_name(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    words = ["analyze", str(tmp_path / "weights.pt"), "--model", "acmix_resnet14"]
    assert main([*words, "--model-args", "stem=small", "channels=[8,8,8,8]"]) == 0
    assert len(rows(tmp_path / "analysis")) == 4


def test_two_channels_are_tabled_but_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(checkpoint(tmp_path / "best.ckpt", in_chans=2))]) == 0
    assert "takes images of 2 channels" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "analysis").iterdir()) == ["rates.csv", "rates.png"]


def test_the_same_checkpoint_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(checkpoint(tmp_path / "best.ckpt"))
    assert main(["analyze", path, path]) == 2
    assert "the same checkpoint twice" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acmix.packages.find_spec", lambda name: None if name == "matplotlib" else name)
    assert main(["analyze", str(tmp_path / "best.ckpt")]) == 2
    assert "matplotlib not installed; pip install 'acmix[training]'" in capsys.readouterr().err


class Stranger:
    """What a pickled checkpoint would bring along."""


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (lambda path: None, [], "no checkpoint at"),
        (lambda path: torch.save(Stranger(), path), [], "is refused: reading it would run code"),
        (lambda path: torch.save(network().state_dict(), path), [], "does not say which network it holds; add --model"),
        (lambda path: torch.save(network().state_dict(), path), ["--model", "acmix_resnet26"], "does not fit"),
        (lambda path: torch.save(network().state_dict(), path), ["--model", "acmix_resnet15"], "acmix_resnet14"),
        (lambda path: checkpoint(path, "conv_resnet14"), [], "holds conv_resnet14, which has no ACmix layer"),
        (lambda path: checkpoint(path), ["--layers", "layer9"], "no ACmix layer 'layer9'; this network has 1 layer1"),
        (lambda path: checkpoint(path), ["--image", "nowhere.png"], "nowhere.png: no such file"),
        (lambda path: checkpoint(path), ["--pixels", "3x4"], "'3x4' is no pixel; write row,column"),
        (lambda path: checkpoint(path), ["--image-size", "0"], "--image-size 0: expected at least 1"),
        (lambda path: checkpoint(path), ["--output", "/dev/null/x"], "cannot write to /dev/null/x"),
        (lambda path: checkpoint(path), ["--model-args", "stem"], "'stem' is no argument; write key=value"),
        (lambda path: checkpoint(path), ["--model-args", "stems=small"], "acmix_resnet14 cannot be built with"),
    ],
    ids=[
        "missing file",
        "pickle",
        "nameless",
        "other network",
        "unknown network",
        "no layer",
        "unknown layer",
        "missing image",
        "no pixel",
        "no size",
        "not writable",
        "no assignment",
        "unknown argument",
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, words: list[str], message: str
) -> None:
    make(tmp_path / "best.ckpt")
    assert main(["analyze", str(tmp_path / "best.ckpt"), *words]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1
