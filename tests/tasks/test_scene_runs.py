"""Detection and segmentation through the front door: fit, resume, test, predict, on scenes of digits."""

import csv
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from acmix.cli import main
from acmix.tasks.demo_scenes import SCENE_DEMOS
from acmix.tasks.interruption import StopRequest
from acmix.tasks.metric_names import describe, shown_values
from acmix.tasks.quiet import quiet
from acmix.tasks.run_cli import RunCLI
from tasks.conftest import SignalAt

CONFIGS = {
    "detection": Path(__file__).with_name("scenes.yaml"),
    "segmentation": Path(__file__).with_name("scenes_segmentation.yaml"),
}
DETECTION, SEGMENTATION = (["--config", str(path)] for path in CONFIGS.values())


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of a detector."""
    folder = tmp_path_factory.mktemp("detector") / "run"
    assert main(["fit", *DETECTION, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of a segmentation network."""
    folder = tmp_path_factory.mktemp("segmenter") / "run"
    assert main(["fit", *SEGMENTATION, "--output", str(folder)]) == 0
    return folder


def words(folder: Path) -> list[str]:
    return ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]


def test_a_detector_trains_and_keeps_coco_s_numbers(detector: Path) -> None:
    with (detector / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert {"train/loss", "val/map", "val/map_50", "val/mar_100", "val/segm_map", "val/segm_map_small"} <= rows[
        0
    ].keys()
    assert float(rows[0]["train/loss"]) > 0
    for name in ("curves.png", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (detector / name).is_file()


def test_a_detector_s_test_has_a_row_for_each_class(detector: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *words(detector)]) == 0
    told = capsys.readouterr().out
    assert "class  objects" in told
    assert "test box AP50" in told
    assert "test mask AP" in told
    # No digit is large.
    assert "test map_large -" in told


def test_a_detector_s_run_goes_on_as_if_it_had_not_stopped(detector: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert main(["fit", *DETECTION, "--output", str(folder), "--trainer.max_epochs", "1"]) == 0
    resumed = ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "2"]
    assert main(["fit", "--config", str(folder / "config.yaml"), *resumed]) == 0
    through, again = (
        torch.load(each / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for each in (detector, folder)
    )
    assert through.keys() == again.keys()
    different = [name for name, value in through.items() if not value.equal(again[name])]
    assert different == []


BY_STEPS = ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "3"]


@pytest.mark.parametrize(
    ("task", "more", "where"),
    [
        ("detection", [], ("train", 1, 0)),
        ("detection", [], ("validation", 0, 0)),
        ("segmentation", [], ("train", 1, 0)),
        ("segmentation", BY_STEPS, ("train", 0, 0)),
        # The first batch after the validation within the second epoch, and that validation.
        ("segmentation", BY_STEPS, ("train", 1, 1)),
        ("segmentation", BY_STEPS, ("validation", 1, 0)),
    ],
)
def test_a_run_that_is_stopped_ends_as_the_one_that_went_through(
    task: str, more: list[str], where: tuple[str, int, int], tmp_path: Path, place: Callable[[Callback], None]
) -> None:
    begun = ["fit", "--config", str(CONFIGS[task]), *more, "--trainer.max_epochs", "3"]
    assert main([*begun, "--output", str(tmp_path / "through")]) == 0
    place(SignalAt(where))
    assert main([*begun, "--output", str(tmp_path / "stopped")]) == 130
    folder = tmp_path / "stopped"
    assert main(["fit", *words(folder)]) == 0
    through, again = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("through", "stopped")
    )
    assert [name for name, value in through.items() if not value.equal(again[name])] == []
    best = [
        torch.load(tmp_path / name / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
        for name in ("through", "stopped")
    ]
    assert best[0] == best[1]


def test_a_run_says_what_it_was_made_with(detector: Path) -> None:
    origin = json.loads((detector / "origin.json").read_text())
    assert origin["versions"]["torch"] == version("torch")
    assert origin["command"].startswith("acmix fit --config scenes.yaml")


def test_weights_to_start_from_are_loaded_once(classifier: Path, tmp_path: Path) -> None:
    start = ["--model.weights", str(classifier), "--trainer.max_steps", "1", "--output", str(tmp_path / "run")]
    with quiet():
        cli = RunCLI(["fit", *DETECTION, *start], StopRequest())
        trained = {name: value.clone() for name, value in cli.model.state_dict().items()}
        cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    assert [name for name, value in cli.model.state_dict().items() if not value.equal(trained[name])] == []


def test_weights_of_16_bits_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *DETECTION, "--trainer.precision", "bf16-true", "--output", str(tmp_path / "run")]) == 2
    assert "run it under autocast instead, --trainer.precision bf16-mixed" in capsys.readouterr().err


def test_a_detector_s_predictions_are_coco_s_results_and_pictures(detector: Path, tmp_path: Path) -> None:
    assert main(["predict", *words(detector), "--output", str(tmp_path)]) == 0
    folder = tmp_path / "predictions"
    results = json.loads((folder / "predictions.json").read_text())
    assert results
    assert results[0].keys() >= {"image_id", "category_id", "bbox", "score", "segmentation"}
    pictures = sorted((folder / "pictures").iterdir())
    assert len(pictures) == 3
    with Image.open(pictures[0]) as picture:
        assert picture.width >= 48


def test_a_classifier_starts_a_detector(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--model.weights", str(classifier), "--trainer.max_steps", "1"]
    assert main(["fit", *DETECTION, *start, "--output", str(tmp_path / "run")]) == 0
    assert f"backbone acmix_resnet14 starts from {classifier}" in capsys.readouterr().out


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A classifier's weights that fit the small detector's backbone."""
    from acmix import create_model

    network = create_model("acmix_resnet14", num_classes=4, stem="compact", channels=[8, 8, 8, 16])
    torch.save(network.state_dict(), tmp_path / "classifier.pt")
    return tmp_path / "classifier.pt"


def test_a_segmenter_s_test_has_a_row_for_each_class(segmenter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", *words(segmenter)]) == 0
    told = capsys.readouterr().out
    assert "background" in told
    assert "test mIoU" in told


def test_a_segmenter_s_predictions_are_masks_and_pictures(segmenter: Path, tmp_path: Path) -> None:
    assert main(["predict", *words(segmenter), "--output", str(tmp_path)]) == 0
    masks = sorted((tmp_path / "predictions" / "masks").iterdir())
    assert len(masks) == 3
    with Image.open(masks[0]) as mask:
        assert mask.mode == "P"
        assert mask.size == (48, 48)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_demos_draw_what_they_learned(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What they learn in their minutes is no matter here.
    small = SCENE_DEMOS[task]._replace(config=str(CONFIGS[task]))
    monkeypatch.setitem(SCENE_DEMOS, task, small)
    assert main(["demo", task, "--output", str(tmp_path / "demo"), "--epochs", "1"]) == 0
    told = capsys.readouterr().out
    assert "3 held-out scenes" in told
    assert {"detection": "test mask AP50", "segmentation": "test mIoU"}[task] in told
    with Image.open(tmp_path / "demo" / "scenes.png") as picture:
        assert picture.width > 400


@pytest.mark.parametrize(
    ("words_", "refused"),
    [
        (["--model.detector.outputs.score_threshold", "0.3", "--model.backbone.frozen_stages", "0"], False),
        (["--model.detector.anchors.scales", "[2.0]"], True),
    ],
)
def test_a_test_may_have_other_thresholds_but_no_other_anchors(
    words_: list[str], refused: bool, detector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", *words(detector), *words_]) == (2 if refused else 0)
    assert ("detector.anchors is" in capsys.readouterr().err) == refused


def test_arguments_of_the_network_have_one_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["--model.backbone", "{levels: [2, 3, 4], model_args: {stem: small}}"]
    assert main(["fit", *DETECTION, *twice, "--output", str(tmp_path / "run")]) == 2
    assert "give it as model_args, beside the model's name" in capsys.readouterr().err


def test_names_for_people() -> None:
    assert describe("map_50", 0.61234) == "box AP50 61.23 %"
    assert describe("segm_map_large", -1.0) == "segm_map_large -"
    assert describe("loss", 1.5) == "loss 1.5000"
    row = {"val/loss": 0.25, "val/map": 0.5, "val/map_50": 0.75, "val/mar_1": 0.1}
    assert shown_values(row, "val") == ["loss 0.250", "box AP50 75.00 %", "box AP 50.00 %"]
