"""`acmix bench`, through the command line, on maps of a few pixels."""

import dataclasses
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from acmix.bench import command
from acmix.bench.contenders import CONTENDERS
from acmix.bench.record import Record, Row, read_record, write_record
from acmix.bench.settings import Settings
from acmix.bench.timing import Clock
from acmix.bench.turns import Measured, take_turns
from acmix.bench.work import MachineLimits, measure_limits
from acmix.cli import main
from analysis.pictures import read_png
from bench.made import layers

Tell = Callable[[int], None]

STAND_IN = Path(__file__).with_name("stand_in.py")
TINY = ["--turns", "3", "--budget", "5", "--threads", "1", "--batch", "1"]


@pytest.fixture
def pictures() -> None:
    """Asks for pictures, which take a second each."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def measure(settings: Settings) -> MachineLimits:
        return measure_limits(settings, side=64)

    monkeypatch.setattr(command, "measure_limits", measure)
    monkeypatch.setattr("acmix.bench.turns._SAMPLE_SECONDS", 1e-4)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(command, "draw_record", lambda record, path: None)


def bench(tmp_path: Path, *words: str, status: int = 0) -> Record:
    """Runs `acmix bench` with some words and reads the record that it writes."""
    assert main(["bench", *words, *TINY, "--output", str(tmp_path / "out")]) == status
    (path,) = (tmp_path / "out").glob("*.json")
    return read_record(path)


def rows(record: Record) -> dict[tuple[str, str, str], Row]:
    return {(row.case, row.mode, row.contender): row for row in record.rows}


@pytest.mark.usefixtures("pictures")
def test_layers_are_timed_against_the_convolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = bench(tmp_path, "layers", "--shapes", "8x8", "8x8/2", "--window", "3", "--only", "ours", "torch", "sdpa")
    assert record.complete
    assert {row.status for row in record.rows} == {"timed"}
    assert len(record.rows) == 2 * 2 * 4
    for (_, mode, contender), row in rows(record).items():
        assert (row.ratio == 1) == (contender == "conv3x3")
        assert row.turns == [0, 1, 2]
        assert (row.saved_bytes is None) == (mode == "inference")
        assert row.macs is not None
        assert row.macs > 0
    printed = capsys.readouterr().out
    assert "Training: time over that of conv3x3" in printed
    (picture,) = (tmp_path / "out").glob("*.png")
    assert read_png(picture).shape[2] == 3
    assert str(picture) in printed


def test_the_record_says_what_was_asked_for(tmp_path: Path) -> None:
    record = bench(tmp_path, "attention", "--shapes", "8x5", "--modes", "inference", "--only", "ours")
    assert record.origin.command.startswith(
        "acmix bench attention --shapes 8x5 --modes inference --only ours --turns 3"
    )
    # Folders of this machine are nobody's business.
    assert record.origin.command.endswith("--output out")
    assert record.origin.versions["torch"] == torch.__version__.partition("+")[0] or "+" in torch.__version__
    assert (record.conditions.threads, record.conditions.modes) == (1, ["inference"])


def test_ours_says_which_backend_it_got(tmp_path: Path) -> None:
    record = bench(tmp_path, "layers", "--shapes", "8x5", "--modes", "inference", "--only", "ours", "--window", "3")
    assert rows(record)["8x5", "inference", "ours"].backend in {"cpu", "torch"}


def test_attention_in_half_precision_channels_last(tmp_path: Path) -> None:
    record = bench(
        tmp_path,
        "attention",
        "--shapes",
        "16x6",
        "--only",
        "ours",
        "sdpa",
        "official",
        "--dtype",
        "bfloat16",
        "--channels-last",
    )
    statuses = {(row.mode, row.contender): (row.status, row.reason) for row in record.rows}
    assert statuses["training", "ours"] == statuses["training", "sdpa"] == ("timed", None)
    assert statuses["training", "official"] == ("skipped", "it has no attention by itself")


def test_the_authors_code_takes_part_from_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "ResNet").mkdir()
    shutil.copy(STAND_IN, tmp_path / "ResNet" / "test_bottleneck.py")
    words = ["--shapes", "8x6", "8x7/2", "--only", "official", "--official", str(tmp_path), "--window", "3"]
    there = rows(bench(tmp_path, "layers", *words))
    assert there["8x6", "training", "official"].status == "timed"
    assert there["8x7/2", "training", "official"].reason == "the authors' code cannot halve a map of 7"
    assert sorted(path.name for path in (tmp_path / "ResNet").iterdir()) == ["test_bottleneck.py"]


def test_a_wrong_answer_is_told_and_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(STAND_IN.read_text().replace("WRONG = 1.0", "WRONG = 1.001"))
    words = ["--shapes", "8x6", "--only", "official", "--official", str(wrong), "--window", "3", "--modes", "inference"]
    row = rows(bench(tmp_path, "layers", *words))["8x6", "inference", "official"]
    assert (row.status, row.times_s) == ("failed", [])
    assert re.match(r"wrong answers: error [\d.e-]+, tolerance [\d.e-]+", row.reason or "")
    assert "official failed: wrong answers" in capsys.readouterr().out


def test_a_wrong_answer_of_ours_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = dataclasses.replace(
        CONTENDERS["ours"], layer=lambda layer, settings: nn.Conv2d(layer.in_channels, layer.out_channels, 1)
    )
    monkeypatch.setitem(CONTENDERS, "ours", wrong)
    bench(tmp_path, "layers", "--shapes", "8x6", "--only", "ours", "--modes", "inference", status=1)
    assert "ours in 8x6, inference: wrong answers" in capsys.readouterr().err


def test_a_contender_that_breaks_down_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no kernel for this\nand much more")

    broken = dataclasses.replace(CONTENDERS["sdpa"], layer=lambda layer, settings: Broken())
    monkeypatch.setitem(CONTENDERS, "sdpa", broken)
    words = ["--shapes", "8x6", "--only", "sdpa", "ours", "--modes", "inference"]
    there = rows(bench(tmp_path, "layers", *words))
    assert there["8x6", "inference", "sdpa"].reason == "NotImplementedError: no kernel for this"
    assert there["8x6", "inference", "ours"].status == "timed"


def test_what_would_not_fit_into_memory_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix.bench.entry.available_bytes", lambda device: 2**20)
    words = ["--shapes", "8x40", "--only", "reference", "--modes", "inference"]
    row = rows(bench(tmp_path, "layers", *words))["8x40", "inference", "reference"]
    assert row.status == "skipped"
    assert re.fullmatch(r"it would need about [\d.]+ GiB, 0.0 GiB are free", row.reason or "")


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = []

    def interrupted(contenders: Mapping[str, Measured], yardstick: str, clock: Clock, turns: int, tell: Tell) -> None:
        def stop(turn: int) -> None:
            if (len(cases), turn) == (2, 1):
                raise KeyboardInterrupt

        cases.append(contenders)
        take_turns(contenders, yardstick, clock, turns, stop)

    monkeypatch.setattr("acmix.bench.measure.take_turns", interrupted)
    words = ["--shapes", "8x5", "8x6", "--only", "ours", "--modes", "inference", "--window", "3"]
    record = bench(tmp_path, "layers", *words, status=130)
    assert not record.complete
    assert {row.case: len(row.turns) for row in record.rows} == {"8x5": 3, "8x6": 1}


def test_sizes_and_windows_are_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--only", "ours", "--modes", "training"]
    sizes = bench(tmp_path / "a", "sizes", "--sizes", "5", "8", "--channels", "8", "--window", "3", *common)
    windows = bench(tmp_path / "b", "windows", "--windows", "1", "3", "--shape", "8x5", *common)
    assert [case.size for case in sizes.cases] == [5, 8]
    assert [case.window for case in windows.cases] == [1, 3]
    assert "growth with the map" in capsys.readouterr().out


def test_networks_are_compared_in_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = bench(tmp_path, "networks", "acmix_resnet14:test_resnet", "--image-size", "64")
    assert record.yardsticks == {"acmix_resnet14 : test_resnet": "test_resnet"}
    assert [row.status for row in record.rows] == ["timed"] * 4
    assert all(row.error is not None for row in record.rows)
    assert "images/s" in capsys.readouterr().out


def test_backbones_give_features(tmp_path: Path) -> None:
    words = ["acmix_resnet14:test_resnet", "--image-size", "64", "--modes", "training"]
    record = bench(tmp_path, "backbones", *words, "--dtype", "bfloat16")
    assert [row.status for row in record.rows] == ["timed"] * 2


def test_an_unknown_network_keeps_what_was_measured_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["acmix_resnet14:test_resnet", "acmix_resnet15:resnet18", "--image-size", "64", "--modes", "inference"]
    record = bench(tmp_path, "networks", *words, status=2)
    assert not record.complete
    assert len(record.rows) == 2
    assert "unknown model 'acmix_resnet15'" in capsys.readouterr().err


@pytest.mark.usefixtures("pictures")
def test_draw_makes_pictures_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(layers({"ours": 0.5}), tmp_path / "a.json")
    assert main(["bench", "draw", str(tmp_path / "a.json"), "--output", str(tmp_path / "pictures")]) == 0
    assert read_png(tmp_path / "pictures" / "a.png").shape[2] == 3
    assert "Inference: time over that of conv3x3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["layers", "--shapes", "64"], "shape '64': expected channels x side, such as 64x56"),
        (["layers", "--shapes", "6x5"], "6 channels are no multiple of 4 heads"),
        (["layers", "--only", "hers"], "invalid choice: 'hers'"),
        (["layers", "--window", "4"], "'4': expected an odd number"),
        (["layers", "--turns", "0"], "'0': expected a whole number, 1 or more"),
        (["layers", "--budget", "0"], "--budget 0: expected a positive number of seconds"),
        (["layers", "--official", "nowhere"], "--official nowhere: expected a checkout of the authors' code"),
        (["layers", "--official", __file__], "it has no layer ACmix"),
        (["networks", "acmix_resnet50"], "pair 'acmix_resnet50': expected two networks"),
        (["networks", "a:a"], "pair 'a:a': expected two networks"),
        (["draw", "nowhere.json"], "nowhere.json"),
        ([], "the following arguments are required: WHAT"),
        pytest.param(
            ["layers", "--device", "cuda"],
            "--device cuda: torch finds no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_every_contender_that_can_run_here_is_right(tmp_path: Path) -> None:
    record = bench(tmp_path, "layers", "--shapes", "64x8", "--official", str(STAND_IN))
    reasons = {row.contender: row.reason for row in record.rows if row.status != "timed"}
    assert set(reasons) <= {"flex", "natten", "triton"}
    assert {row.status for row in record.rows} <= {"timed", "skipped"}
