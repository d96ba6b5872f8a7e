"""`acmix info`, through the command line."""

import contextlib
import io
import re

import pytest
import torch

import acmix
import acmix.models
from acmix.analysis.backends import OPS, available_devices, backend_answers, layer_backends
from acmix.cli import main
from acmix.ops.dispatch import BACKENDS, load_backend


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture(scope="module")
def overview() -> str:
    """What `acmix info` prints; counting all models takes seconds."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["info"]) == 0
    return printed.getvalue()


def test_every_model_is_listed_with_its_cost(overview: str) -> None:
    listed = {line[0]: line[1:] for line in lines(overview) if line and line[0] in acmix.list_models()}
    assert sorted(listed) == acmix.list_models()
    assert listed["acmix_resnet26"] == ["10,487,816", "2.22", "G"]
    assert listed["acmix_resnet38"] == ["14,410,896", "2.86", "G"]
    assert listed["acmix_resnet50"] == ["18,333,976", "3.50", "G"]
    assert listed["conv_resnet50"] == ["25,557,032", "4.09", "G"]


def test_versions_devices_and_backends_are_told(overview: str) -> None:
    assert f"torch {torch.__version__.partition('+')[0]}" in overview
    assert f"{torch.get_num_threads()} threads" in overview
    for device in available_devices():
        assert f"Backends on {device}" in overview
    assert re.search(r"^operator +" + " +".join(BACKENDS), overview, re.MULTILINE)
    assert all(re.search(rf"^{op}( +(yes|no)){{{len(BACKENDS)}}}", overview, re.MULTILINE) for op in OPS)
    assert re.search(r"^window_attention +no +no +yes +yes", overview, re.MULTILINE)


def test_a_reason_is_printed_for_what_cannot_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    portable = load_backend("torch")
    monkeypatch.setattr(portable, "why_not", lambda problem: [f"no {problem.op} today"])
    monkeypatch.setattr(acmix.models, "list_models", lambda: ["acmix_resnet14"])
    assert main(["info", "--image-size", "32"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^local_attention +(yes|no) +(yes|no) +no +yes", text, re.MULTILINE)
    assert "torch cannot run: no local_attention today" in text


def test_without_timm_all_but_the_networks_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acmix.packages.find_spec", lambda name: None)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "Backends on cpu" in text
    assert "The networks are not available: timm not installed; pip install 'acmix[zoo]'" in text


def test_the_layers_of_a_model_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "acmix_resnet14", "--image-size", "64"]) == 0
    text = capsys.readouterr().out
    total = int(re.search(r"^acmix_resnet14: ([\d,]+) parameters", text)[1].replace(",", ""))
    rest = int(re.search(r"hold ([\d,]+) parameters", text)[1].replace(",", ""))
    table = re.findall(r" x \d+ +([\d,]+) +[\d.]+ [kMG] +[\d.]+%", text)
    head = 2048 * 1000 + 1000
    assert sum(int(cell.replace(",", "")) for cell in table) + head + rest == total
    assert total == sum(parameter.numel() for parameter in acmix.create_model("acmix_resnet14").parameters())


def test_every_acmix_layer_says_its_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "acmix_resnet26", "--image-size", "64"]) == 0
    layers = [line for line in lines(capsys.readouterr().out) if "ACmix" in line]
    chosen = next(
        iter(name for name, why in backend_answers(available_devices()[0])["local_attention"].items() if not why)
    )
    assert len(layers) == 8
    assert {line[-1] for line in layers} == {chosen}


@pytest.mark.parametrize("name", ["acmix_san10", "acmix_pvt_tiny", "acmix_swin_tiny"])
def test_layers_of_other_hosts_say_theirs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", name, "--image-size", "64"]) == 0
    layers = [line for line in lines(capsys.readouterr().out) if any("ACmix" in word for word in line)]
    assert layers
    # The convolution path has native kernels, their attention has none.
    assert all("torch" in " ".join(line[-2:]) for line in layers)


def test_arguments_shape_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["stem=small", "channels=[8,8,8,8]", "in_chans=1", "num_classes=10"]
    assert main(["info", "acmix_resnet14", "--image-size", "8", "--model-args", *words]) == 0
    text = capsys.readouterr().out
    model = acmix.create_model("acmix_resnet14", stem="small", channels=[8, 8, 8, 8], in_chans=1, num_classes=10)
    assert text.startswith(f"acmix_resnet14: {sum(p.numel() for p in model.parameters()):,} parameters")
    assert "at 1 x 8 x 8" in text


def test_an_explicit_backend_is_the_one_that_is_told() -> None:
    layer = acmix.ACmix(8, 8, impl="reference")
    assert layer_backends(layer, "cpu") == {"local_attention": "reference", "convolution_path": "reference"}
    assert list(layer_backends(acmix.ACmix(8, 8, paths="attention"), "cpu")) == ["local_attention"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["acmix_resnet27"], "unknown model 'acmix_resnet27': did you mean acmix_resnet26"),
        (["--image-size", "0"], "--image-size 0: expected at least 1"),
        (["vit_tiny_patch16_224", "--image-size", "100"], "cannot take a 3 x 100 x 100 image"),
        (["--model-args", "stem=small"], "--model-args belong to one network"),
    ],
    ids=["unknown", "no size", "wrong size", "nameless arguments"],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["info", *words]) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.count("\n") == 1
