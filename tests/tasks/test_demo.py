"""`acmix demo` through the front door, one epoch long."""

import csv
import re
from pathlib import Path

import pytest

from acmix.cli import main
from acmix.tasks import demo


def test_the_demo_trains_three_networks_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--output", str(folder), "--epochs", "1"]) == 0
    told = capsys.readouterr().out
    for name in ("acmix_resnet14", "conv_resnet14", "attn_resnet14"):
        assert re.search(rf"^{name} .* \d+\.\d\d %  .* k  .* M  .* s$", told, re.MULTILINE), told
    assert re.search(r"^3-NN .* 9\d\.\d\d %", told, re.MULTILINE)
    assert re.search(r"^linear .* 9\d\.\d\d %", told, re.MULTILINE)
    assert "log10|alpha/beta|" in told
    assert "Next:" in told
    with (folder / "analysis" / "rates.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    for picture in ("analysis/rates.png", "analysis/attention.png", "acmix/curves.png", "conv/curves.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_whole_demo_learns_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At least 98.5 % of the 360 test images, what 3-NN gets about."""
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    told = capsys.readouterr().out
    assert "360 held-out images" in told
    accuracies = dict(re.findall(r"^(\w+_resnet14) .*? (\d+\.\d\d) %", told, re.MULTILINE))
    assert accuracies.keys() == {"acmix_resnet14", "conv_resnet14", "attn_resnet14"}
    assert float(accuracies["acmix_resnet14"]) >= 98.5, told


def test_a_demo_never_overwrites_another(tmp_path: Path) -> None:
    (tmp_path / "demo" / "acmix").mkdir(parents=True)
    (tmp_path / "demo-2" / "acmix").mkdir(parents=True)
    assert demo._free(tmp_path / "demo") == tmp_path / "demo-3"


def test_no_epochs_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--epochs", "0"]) == 2
    assert capsys.readouterr().err.strip() == "acmix: error: --epochs 0: expected at least 1"
