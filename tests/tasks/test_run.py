"""`acmix fit`, `validate`, `test` and `predict` through the front door."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from acmix.cli import main
from acmix.interop.checkpoint import read_checkpoint, read_state_dict

Fit = Callable[..., int]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _use(command: str, folder: Path, *words: str) -> int:
    return main([command, "--config", str(folder / "config.yaml"), "--ckpt_path", "best", *words])


def test_a_run_leaves_checkpoints_table_picture_logs_and_configuration(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events")}
    expected = {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "curves.png"}
    assert files - events == expected | {"origin.json", "tensorboard/hparams.yaml"}
    assert len(events) == 1


def test_the_table_has_a_row_per_epoch_with_all_numbers(trained: Path) -> None:
    rows = _rows(trained / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8")]
    measured = {"lr", "train/loss", "train/top1", "val/loss", "val/top1", "val/top5", "images/s", "seconds"}
    assert all(float(row[name]) >= 0 for row in rows for name in measured)


def test_a_checkpoint_says_what_its_network_is(trained: Path) -> None:
    checkpoint = read_checkpoint(trained / "checkpoints" / "best.ckpt")
    settings = checkpoint["hyper_parameters"]
    assert (settings["model"], settings["num_classes"], settings["in_chans"]) == ("conv_resnet14", 10, 1)
    assert settings["model_args"] == {"stem": "small", "channels": [4, 4, 8, 8]}
    assert checkpoint["class_names"] == [str(digit) for digit in range(10)]
    assert checkpoint["input"]["image_size"] == 8


def test_the_closing_lines_say_what_is_where_and_what_to_type_next(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("run", "--trainer.max_epochs", "1")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-6:]] == ["best", "last", "curves", "logs", "next", "acmix"]
    assert "val top-1" in lines[-6]
    assert "acmix test --config" in lines[-2]


def test_a_second_run_leaves_the_first_as_it_is(fit: Fit, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes()
    assert fit("run", "--trainer.max_epochs", "1") == 0
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").read_bytes() == before
    assert yaml.safe_load((tmp_path / "run-2" / "config.yaml").read_text())["output"] == str(tmp_path / "run-2")
    assert len(_rows(tmp_path / "run-2" / "metrics.csv")) == 1


def test_the_same_seed_gives_the_same_weights(fit: Fit, trained: Path, tmp_path: Path) -> None:
    fit("again")
    first = read_state_dict(trained / "checkpoints" / "last.ckpt")
    second = read_state_dict(tmp_path / "again" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(fit: Fit, trained: Path, tmp_path: Path) -> None:
    fit("other", "--seed_everything", "1", "--trainer.max_epochs", "1")
    first = read_state_dict(trained / "checkpoints" / "last.ckpt")["fc.weight"]
    assert not torch.equal(first, read_state_dict(tmp_path / "other" / "checkpoints" / "last.ckpt")["fc.weight"])


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_saved_configuration_is_enough_to_evaluate(
    trained: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _use(command, trained) == 0
    part = {"validate": "val", "test": "test"}[command]
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{part} loss ")
    assert f"{part} top-1 " in line


def test_validation_of_the_best_checkpoint_repeats_its_number(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = max(float(row["val/top1"]) for row in _rows(trained / "metrics.csv"))
    _use("validate", trained)
    assert f"top-1 {100 * best:.2f} %" in capsys.readouterr().out


def test_predictions_are_a_table_of_index_class_and_probability(trained: Path, tmp_path: Path) -> None:
    assert _use("predict", trained, "--output", str(trained)) == 0
    rows = _rows(trained / "predictions.csv")
    (trained / "predictions.csv").unlink()
    assert [int(row["index"]) for row in rows] == list(range(360))
    assert all(row["class"] in "0123456789" and 0.1 <= float(row["probability"]) <= 1 for row in rows)


def test_a_control_is_one_word_away(fit: Fit, tmp_path: Path) -> None:
    assert fit("other", "--model.model", "attn_resnet14", "--trainer.max_epochs", "1") == 0
    checkpoint = read_checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt")
    assert checkpoint["hyper_parameters"]["model"] == "attn_resnet14"


def test_mixing_and_averaging_train(fit: Fit, tmp_path: Path) -> None:
    words = ["--model.targets.mixup", "0.8", "--model.targets.cutmix", "1.0", "--model.recipe.ema_decay", "0.5"]
    assert fit("mixed", *words, "--trainer.max_epochs", "1") == 0
    path = tmp_path / "mixed" / "checkpoints" / "last.ckpt"
    averaged, trained = read_state_dict(path), read_state_dict(path, averaged=False)
    assert not torch.equal(averaged["fc.weight"], trained["fc.weight"])
    assert "train/top1" not in _rows(tmp_path / "mixed" / "metrics.csv")[0]


def test_a_trial_run_leaves_no_files(fit: Fit, tmp_path: Path) -> None:
    assert fit("trial", "--trainer.fast_dev_run", "true") == 0
    assert not (tmp_path / "trial").exists()


def test_weights_of_another_class_count_get_a_new_head(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import acmix

    torch.manual_seed(0)
    settings = {"stem": "small", "channels": [4, 4, 8, 8], "in_chans": 1}
    donor = acmix.create_model("conv_resnet14", num_classes=7, **settings)
    torch.save(donor.state_dict(), tmp_path / "donor.pt")
    words = ["--model.weights", str(tmp_path / "donor.pt"), "--model.recipe.lr", "0", "--trainer.max_epochs", "1"]
    assert fit("tuned", *words, "--model.recipe.weight_decay", "0") == 0
    assert "its head is for 7 classes, a new one for 10" in capsys.readouterr().out
    tuned = read_state_dict(tmp_path / "tuned" / "checkpoints" / "last.ckpt")
    assert torch.equal(tuned["conv1.weight"], donor.state_dict()["conv1.weight"])
    assert tuned["fc.weight"].shape == (10, 32)


@pytest.mark.slow
def test_a_compiled_network_trains(fit: Fit, tmp_path: Path) -> None:
    assert fit("compiled", "--model.compile", "true", "--trainer.max_epochs", "1") == 0
    assert "fc.weight" in read_state_dict(tmp_path / "compiled" / "checkpoints" / "last.ckpt")


def test_predictions_for_a_folder_name_the_files_and_leave_bad_ones_out(tmp_path: Path) -> None:
    from PIL import Image

    for name, grey in (("dark", 20), ("light", 230)):
        for part in ("train", "val"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(4):
                shade = grey + 3 * number
                picture = Image.new("RGB", (16, 16), (shade, shade, shade))
                picture.save(tmp_path / "data" / part / name / f"{number}.png")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, grey in (("a", 10), ("c", 240), ("d", 15)):
        Image.new("RGB", (16, 16), (grey, grey, grey)).save(photos / f"{name}.png")
    (photos / "b.png").write_bytes(b"no image")
    words = ["--config", "cifar10", "--data.root", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    words += ["--data.image_size", "16", "--data.num_workers", "0", "--data.batch_size", "2", "--data.cache", "none"]
    words += ["--model.model", "conv_resnet14", "--model.model_args", '{"stem": "small", "channels": [4, 4, 8, 8]}']
    assert main(["fit", *words, "--trainer.max_epochs", "1"]) == 0
    use = [*words, "--data.predict_folder", str(photos), "--data.on_bad_image", "skip", "--ckpt_path", "last"]
    assert main(["predict", *use]) == 0
    rows = _rows(tmp_path / "run" / "predictions.csv")
    assert [Path(row["file"]).name for row in rows] == ["a.png", "c.png", "d.png"]
    assert {row["class"] for row in rows} <= {"dark", "light"}
