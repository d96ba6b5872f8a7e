"""What a user gets wrong: one line on standard error, exit code 2, nothing lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acmix.cli import main
from tasks.conftest import TINY

Fit = Callable[..., int]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must be refused, and returns the line."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.model", "acmix_resnet41"], "acmix_resnet14"),
        (["--model.model_args", '{"stem": "huge"}'], "stem='huge', expected one of"),
        (["--model.model_args", '{"widths": 3}'], "unexpected keyword argument 'widths'"),
        (["--model.recipe.optimizer", "sdg"], "no optimizer 'sdg'; did you mean sgd"),
        (["--model.recipe.optimizer_args", '{"beta": 1}'], "optimizer 'adamw' refuses its settings"),
        (["--model.recipe.lr", "fast"], "recipe.lr: Expected a float. Got value: fast"),
        (
            ["--model.recipe.schedule", "linear"],
            "recipe.schedule: Expected a one of ['cosine', 'constant', 'poly', 'multistep']",
        ),
        (["--model.modle", "acmix_resnet14"], "no option --model.modle; did you mean --model.model, "),
        (["--data.batch_size", "0"], "batch_size is 0"),
        (["--trainer.epochs", "3"], "no option --trainer.epochs; did you mean --trainer."),
        (["--trainer.accelerator", "abacus"], "invalid accelerator"),
        (["--trainer.max_epochs", "-1"], "a schedule needs an end"),
        (["--config", "digit"], "no configuration 'digit', neither a file nor a shipped one; did you mean digits?"),
        (["--ckpt_path", "nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["--model.weights", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["--model.num_classes", "5"], "the data decide num_classes"),
        (["--model.init_args.in_chans=5"], "the data decide in_chans"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_setting(words: list[str], told: str, refused: Callable[..., str], tmp_path: Path) -> None:
    assert told in refused("fit", *TINY, "--output", str(tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"model: [", "is no YAML file"),
        (b"\x89PNG\xff\xfe\x00", "is no YAML file"),
        (b"just text", "holds a str, expected `model:`"),
        (b"modell: {a: 1}", "does not accept option 'modell.a'"),
        (b"model: {class_path: acmix.tasks.Nothing}", "has no attribute 'Nothing'"),
    ],
    ids=["broken", "binary", "text", "key", "class"],
)
def test_a_wrong_configuration_file(content: bytes, told: str, refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert told in refused("fit", "--config", str(path))


def test_no_configuration_at_all(refused: Callable[..., str]) -> None:
    assert "| cifar10 | cifar10_pvt" in refused("fit")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_of_an_untrained_network(command: str, refused: Callable[..., str]) -> None:
    assert "which checkpoint?" in refused(command, "--config", "digits")


def test_a_run_directory_that_cannot_be_written(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused("fit", *TINY, "--output", str(tmp_path / "file" / "run"))
    assert f"the run directory {tmp_path / 'file' / 'run'} cannot be written" in line


def test_a_pickled_checkpoint(refused: Callable[..., str], tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    line = refused("fit", *TINY, "--ckpt_path", str(tmp_path / "model.pt"))
    assert "is refused: reading it would run code of torch.nn.modules.linear.Linear" in line
    assert "torch.save(model.state_dict(), 'weights.pt')" in line


def test_weights_of_another_network(refused: Callable[..., str], tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    line = refused("fit", *TINY, "--output", str(tmp_path / "run"), "--model.weights", str(tmp_path / "linear.pt"))
    assert "linear.pt holds the weights of another network" in line
    assert "87 missing: conv1.*, bn1.*, layer1.*, layer2.*, layer3.*, layer4.*, fc.*; 2 foreign: weight, bias" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.model", "attn_resnet14"], "model is 'conv_resnet14' in the checkpoint, 'attn_resnet14' here"),
        (["--model.model_args", '{"stem": "compact"}'], "model_args is"),
        (["--model.recipe.ema_decay", "0.9"], "another network: 104 missing: ema.*"),
    ],
    ids=["network", "arguments", "average"],
)
def test_a_checkpoint_of_another_network(
    words: list[str], told: str, trained: Path, refused: Callable[..., str]
) -> None:
    line = refused("test", "--config", str(trained / "config.yaml"), "--ckpt_path", "best", *words)
    assert "the checkpoint holds another network: " in line
    assert told in line


def _class_folders(root: Path, names: list[str], image: Any) -> Path:
    for part in ("train", "val"):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                image.save(root / part / name / f"{number}.png")
    return root


def test_checkpoints_for_other_classes(trained: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    from PIL import Image

    folders = {
        "three": _class_folders(tmp_path / "three", ["a", "b", "c"], Image.new("RGB", (8, 8))),
        "two": _class_folders(tmp_path / "two", ["a", "b"], Image.new("RGB", (8, 8))),
        "named": _class_folders(tmp_path / "named", ["a", "b", "z"], Image.new("RGB", (8, 8))),
    }
    small = ["--data.image_size", "8", "--data.num_workers", "0", "--data.batch_size", "4"]
    small += ["--model.model_args", '{"stem": "small", "channels": [4, 4, 8, 8]}', "--trainer.max_epochs", "1"]
    words = ["--config", "cifar10", *small, "--output", str(tmp_path / "run")]
    assert main(["fit", *words, "--data.root", str(folders["three"])]) == 0
    use = ["test", *words, "--ckpt_path", "best"]
    assert "num_classes is 3 in the checkpoint, 2 here" in refused(*use, "--data.root", str(folders["two"]))
    assert "for the classes a, b, c, the data have a, b, z" in refused(*use, "--data.root", str(folders["named"]))


def test_a_truncated_image_in_training_keeps_what_was_learned(refused: Callable[..., str], tmp_path: Path) -> None:
    from PIL import Image

    from acmix.interop.checkpoint import read_checkpoint

    root = _class_folders(tmp_path / "data", ["a", "b"], Image.new("RGB", (8, 8)))
    whole = (root / "train" / "b" / "3.png").read_bytes()
    (root / "train" / "b" / "3.png").write_bytes(whole[: len(whole) // 2])
    words = ["--config", "cifar10", "--data.root", str(root), "--data.cache", "none", "--data.image_size", "16"]
    words += ["--data.batch_size", "1", "--data.num_workers", "1", "--trainer.max_epochs", "1"]
    words += ["--model.model", "conv_resnet14", "--model.model_args", '{"stem": "small", "channels": [4, 4, 8, 8]}']
    line = refused("fit", *words, "--output", str(tmp_path / "run"))
    assert f"cannot read {root / 'train' / 'b' / '3.png'}" in line
    # Seed 0 puts the broken file behind the first batch; the steps before it are not lost.
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] > 0


def test_divergence_ends_the_run_before_a_checkpoint_holds_it(refused: Callable[..., str], tmp_path: Path) -> None:
    words = ["--model.recipe.optimizer", "sgd", "--model.recipe.lr", "1e30", "--model.recipe.warmup_epochs", "0"]
    line = refused("fit", *TINY, *words, "--output", str(tmp_path / "run"))
    assert "training diverged: the loss is" in line
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
