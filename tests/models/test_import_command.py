"""`acmix import`, through the front door."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import acmix
from acmix.cli import main
from acmix.nn.authors_keys import AUTHORS_KEYS

THEIRS = {ours: theirs for theirs, ours in AUTHORS_KEYS.items()}
CLASSES = 7


def authors_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """A small ResNet of the authors' layers as their code would save it."""
    torch.manual_seed(0)
    state = {}
    for name, value in acmix.create_model("acmix_resnet14", num_classes=CLASSES).state_dict().items():
        front, mark, last = name.partition(".conv2.")
        state[f"{front}.conv2.{THEIRS[last]}" if mark else name] = value
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, path)
    return state


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "official.pth"
    authors_checkpoint(path)
    return path


def test_the_weights_arrive_under_our_names(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ours.safetensors"
    assert main(["import", str(checkpoint), "--model", "acmix_resnet14", "--output", str(output)]) == 0
    network = acmix.create_model("acmix_resnet14", num_classes=CLASSES, checkpoint_path=str(output))
    theirs = authors_checkpoint(checkpoint)
    assert torch.equal(network.layer2[0].conv2.query.weight, theirs["layer2.0.conv2.conv1.weight"])
    assert load_file(output).keys() == network.state_dict().keys()
    out = capsys.readouterr().out
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in out
    assert f"7 classes\nWritten: {output}\n" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["official.pth", "ours.safetensors"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"CHECKPOINT": "nowhere.pth"}, "no checkpoint at nowhere.pth; check the path"),
        ({"--model": "acmix_resnet41"}, "unknown model 'acmix_resnet41': did you mean"),
        ({"--model": "acmix_resnet26"}, "does not fit this ResNet, nothing was loaded: 104 missing"),
        ({"--output": "ours.pth"}, "--output ours.pth: expected a name that ends in .safetensors"),
        ({"--output": "no/folder/ours.safetensors"}, "there is no folder no/folder; make it first"),
    ],
    ids=["no file", "no network", "another network", "suffix", "folder"],
)
def test_a_mistake_is_one_line(
    change: dict[str, str],
    told: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"CHECKPOINT": "official.pth", "--model": "acmix_resnet14", "--output": "ours.safetensors"} | change
    arguments = [words["CHECKPOINT"], "--model", words["--model"], "--output", words["--output"]]
    assert main(["import", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("acmix: error: ")
    assert told in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["official.pth"]


def test_the_input_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "official.safetensors"
    authors_checkpoint(path)
    before = path.read_bytes()
    assert main(["import", str(path), "--model", "acmix_resnet14", "--output", str(path)]) == 2
    assert "is the checkpoint itself; give another name" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_options_are_asked_for(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(checkpoint)]) == 2
    assert "the following arguments are required: --model, --output" in capsys.readouterr().err
