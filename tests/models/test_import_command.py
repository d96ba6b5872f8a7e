"""`acmix import`, through the front door."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models import save_for_hf

import acmix
from acmix.cli import main
from acmix.nn.authors_keys import AUTHORS_KEYS

THEIRS = {ours: theirs for theirs, ours in AUTHORS_KEYS.items()}
CLASSES = 7


def authors_checkpoint(path: Path, *, bias: bool = False) -> dict[str, torch.Tensor]:
    """A small ResNet of the authors' layers as their code would save it, or a fork of theirs with its bias."""
    torch.manual_seed(0)
    state = {}
    for name, value in acmix.create_model("acmix_resnet14", num_classes=CLASSES).state_dict().items():
        front, mark, last = name.partition(".conv2.")
        state[f"{front}.conv2.{THEIRS[last]}" if mark else name] = value
        if bias and last == "shift.weight":
            state[f"{front}.conv2.dep_conv.bias"] = torch.randn(len(value))
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


@pytest.fixture
def with_bias(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """What `acmix import` makes of a file with biases of `dep_conv`, and a network that has them as parameters."""
    authors_checkpoint(tmp_path / "fork.pth", bias=True)
    output = tmp_path / "ours.safetensors"
    assert main(["import", str(tmp_path / "fork.pth"), "--model", "acmix_resnet14", "--output", str(output)]) == 0
    faithful = acmix.create_model("acmix_resnet14", num_classes=CLASSES, acmix={"conv_bias": True})
    return output, acmix.load_official(faithful, tmp_path / "fork.pth").eval()


@pytest.mark.parametrize("way", ["checkpoint_path", "load_official", "local-dir"])
def test_a_file_with_biases_goes_into_a_fresh_network(
    way: str, with_bias: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    output, faithful = with_bias
    network = acmix.create_model("acmix_resnet14", num_classes=CLASSES)
    if way == "checkpoint_path":
        network = acmix.create_model("acmix_resnet14", num_classes=CLASSES, checkpoint_path=str(output))
    else:
        acmix.load_official(network, output)
    if way == "local-dir":
        save_for_hf(network, tmp_path / "hub", model_args={"num_classes": CLASSES}, safe_serialization=True)
        network = acmix.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert faithful.layer1[0].conv2.shift.bias.abs().max() > 1
    torch.testing.assert_close(network.eval()(x), faithful(x), rtol=1e-4, atol=1e-5)


def test_a_bias_that_nothing_else_can_carry_stays_a_parameter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = acmix.create_model("acmix_swin_tiny", num_classes=CLASSES, acmix={"conv_bias": True})
    for layer in (block.attn for stage in network.layers for block in stage.blocks):
        torch.nn.init.normal_(layer.shift.bias)
    torch.nn.init.zeros_(network.layers[1].blocks[0].attn.alpha)
    renamed = {"alpha": "rate1", "beta": "rate2", "shift.weight": "dep_conv.weight", "shift.bias": "dep_conv.bias"}
    state = {}
    for name, value in network.state_dict().items():
        front, mark, last = name.partition(".attn.")
        state[f"{front}{mark}{renamed.get(last, last)}" if mark else name] = value
    torch.save(state, tmp_path / "fork.pth")
    output = tmp_path / "ours.safetensors"
    words = ["import", str(tmp_path / "fork.pth"), "--model", "acmix_swin_tiny", "--output", str(output)]
    assert main(words) == 0
    assert "It fits create_model('acmix_swin_tiny', acmix={'conv_bias': True})" in capsys.readouterr().out
    written = load_file(output)
    assert written.keys() == network.state_dict().keys()
    assert [name for name, value in network.state_dict().items() if not torch.equal(value, written[name])] == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"CHECKPOINT": "nowhere.pth"}, "no checkpoint at nowhere.pth; check the path"),
        ({"--model": "acmix_resnet41"}, "unknown model 'acmix_resnet41': did you mean"),
        (
            {"--model": "acmix_resnet26"},
            "does not fit acmix_resnet26, nothing was written: 104 missing: layer2.1.*, layer3.1.*, layer3.2.*",
        ),
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
