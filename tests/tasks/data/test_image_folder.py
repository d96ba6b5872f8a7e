"""Folders of images: what is read, what is refused and in which words."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acmix.errors import UserError
from acmix.tasks.data import Augmentation, ImageFolderDataModule
from acmix.tasks.data.labelled import LabelledImages

PLAIN = Augmentation(crop="center", hflip=0)


@pytest.fixture
def root(make_folder: Any) -> Path:
    return make_folder({"train": {"cat": 6, "ant": 4, "bee": 5}, "val": {"cat": 2, "ant": 2, "bee": 2}})


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    arguments = {"batch_size": 4, "num_workers": 0, "image_size": 8, "augmentation": PLAIN}
    return ImageFolderDataModule(root, **{**arguments, **options})


def pixels(path: Path) -> bytes:
    return np.asarray(Image.open(path).convert("RGB")).tobytes()


def read(data: ImageFolderDataModule, part: str) -> list[tuple[bytes, int]]:
    """Pixels and targets of a part, in the order of the loader."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.form.mean, data.form.std))
    samples = []
    for images, targets in getattr(data, f"{part}_dataloader")():
        assert (images.dtype, targets.dtype) == (torch.float32, torch.int64)
        restored = ((images * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        samples += [(image.numpy().tobytes(), int(target)) for image, target in zip(restored, targets, strict=True)]
    return samples


def files(folder: Path, classes: list[str]) -> list[tuple[bytes, int]]:
    return [(pixels(path), number) for number, name in enumerate(classes) for path in sorted((folder / name).iterdir())]


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_images_and_labels_are_those_of_the_folders(root: Path, cache: str) -> None:
    data = module(root, cache=cache)
    data.setup("fit")
    assert (data.num_classes, data.class_names, data.in_chans) == (3, ["ant", "bee", "cat"], 3)
    assert read(data, "val") == files(root / "val", data.class_names)
    seen = read(data, "train")
    assert len(seen) == 12
    assert set(seen) <= set(files(root / "train", data.class_names))


def test_classes_are_known_before_setup(root: Path) -> None:
    assert module(root).num_classes == 3


def test_hidden_folders_and_files_do_not_count(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "val/.ipynb_checkpoints").mkdir()
    (root / "val/ant/.DS_Store").write_text("x")
    data = module(root)
    data.setup("validate")
    assert len(read(data, "val")) == 6
    assert not caplog.messages


def test_other_files_are_left_out_and_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "val/ant/boxes.txt").write_text("x")
    data = module(root)
    data.setup("validate")
    assert len(read(data, "val")) == 6
    assert caplog.messages == [
        f"ignored 1 files in {root / 'val'} whose names are no image's, the first is {root / 'val/ant/boxes.txt'}"
    ]


def test_deeper_folders_belong_to_their_class(root: Path) -> None:
    (root / "val/ant/images").mkdir()
    shutil.move(root / "val/ant/000.png", root / "val/ant/images/000.png")
    data = module(root)
    data.setup("validate")
    assert len(read(data, "val")) == 6


@pytest.mark.parametrize("name", ["val", "validation", "valid", "held-out"])
def test_validation_folder(root: Path, name: str) -> None:
    (root / "val").rename(root / name)
    data = module(root, val_folder="held-out" if name == "held-out" else None)
    data.setup("validate")
    assert read(data, "val") == files(root / name, data.class_names)


def test_without_a_validation_folder_a_part_of_training_is_held_out(
    make_folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder({"train": {"a": 20, "b": 40}})
    parts = []
    for seed in (0, 1):
        data = module(root, seed=seed, batch_size=1)
        data.setup("fit")
        parts.append((sorted(read(data, "train")), read(data, "val")))
    train, val = parts[0]
    assert parts[0] == parts[1]
    assert [target for _, target in val] == [0] * 2 + [1] * 4
    assert sorted([*train, *val]) == sorted(files(root / "train", ["a", "b"]))
    assert caplog.messages[0] == (
        f"no folder 'val', 'validation', 'valid' in {root}: held out 6 of 60 training images for validation"
    )


def test_test_folder_and_its_substitute(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(root)
    data.setup("test")
    assert read(data, "test") == files(root / "val", data.class_names)
    assert caplog.messages == [f"no folder 'test' in {root}: the test reads the validation images"]
    shutil.copytree(root / "train", root / "test")
    data = module(root)
    data.setup("test")
    assert read(data, "test") == files(root / "test", data.class_names)


def test_a_folder_of_test_images_is_enough_for_a_test(root: Path) -> None:
    (root / "val").rename(root / "test")
    shutil.rmtree(root / "train")
    data = module(root)
    data.setup("test")
    assert read(data, "test") == files(root / "test", ["ant", "bee", "cat"])


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_the_names_of_the_files_are_known(root: Path, cache: str) -> None:
    data = module(root, predict_folder="val", cache=cache)
    data.setup("predict")
    source = data.sources["predict"]
    assert isinstance(source, LabelledImages)
    assert [Path(os.fsdecode(path)) for path in source.store.paths] == sorted((root / "val").rglob("*.png"))


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_prediction_reads_any_folder(root: Path, absolute: bool) -> None:
    folder = root / "train/cat"
    data = module(root, predict_folder=folder if absolute else "train/cat")
    data.setup("predict")
    assert read(data, "predict") == [(pixels(path), -1) for path in sorted(folder.iterdir())]


def test_prediction_without_a_folder_reads_the_test_images(root: Path) -> None:
    (root / "val").rename(root / "test")
    data = module(root)
    data.setup("predict")
    assert read(data, "predict") == files(root / "test", data.class_names)


def test_setup_is_done_once(root: Path) -> None:
    data = module(root, cache="ram")
    data.setup("fit")
    train = data.sources["train"]
    data.setup("fit")
    assert data.sources["train"] is train


def empty_class(root: Path) -> None:
    (root / "train/bee").rename(root / "bee")
    (root / "train/bee").mkdir()


def missing_class(root: Path) -> None:
    shutil.rmtree(root / "val/bee")
    (root / "val/wasp").mkdir()


def no_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def single_images(root: Path) -> None:
    shutil.rmtree(root / "val")
    for path in (root / "train").rglob("*.png"):
        if path.name != "000.png":
            path.unlink()


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        pytest.param(shutil.rmtree, {}, "no data folder {root}: expected a folder that holds 'train/", id="no root"),
        pytest.param(
            lambda root: shutil.rmtree(root / "train"),
            {},
            "no folder 'train' in {root} (folders there: val): expected 'train/<class>/*.jpg'",
            id="no training folder",
        ),
        pytest.param(
            lambda root: None, {"val_folder": "dev"}, "no folder 'dev' in {root} (folders", id="no val_folder"
        ),
        pytest.param(no_classes, {}, "no class folders in {root}/train: expected one sub-folder per", id="no classes"),
        pytest.param(empty_class, {}, "no images for class 'bee' in {root}/train: add images", id="empty class"),
        pytest.param(
            missing_class,
            {},
            "the class folders in {root}/val are not those of the training set: it lacks 'bee' and adds 'wasp'",
            id="other classes",
        ),
        pytest.param(single_images, {}, "each class in {root}/train has a single image", id="nothing to hold out"),
        pytest.param(lambda root: None, {"val_fraction": 0}, "val_fraction is 0: give a share", id="val_fraction"),
        pytest.param(lambda root: None, {"crop_pct": 1.5}, "crop_pct is 1.5: give a share", id="crop_pct"),
        pytest.param(lambda root: None, {"predict_folder": "x"}, "no folder {root}/x: expected", id="predict_folder"),
        pytest.param(
            lambda root: (root / "x").mkdir(), {"predict_folder": "x"}, "no images in {root}/x", id="nothing to predict"
        ),
    ],
)
def test_wrong_folders_are_named(
    root: Path, change: Callable[[Path], object], options: dict[str, Any], words: str
) -> None:
    change(root)
    with pytest.raises(UserError) as caught:
        module(root, **options).setup("predict" if "predict_folder" in options else "fit")
    assert str(caught.value).startswith(words.format(root=root))
    assert "\n" not in str(caught.value)


def test_a_cache_larger_than_the_memory_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    with pytest.raises(UserError, match=r"cache 'ram' needs about .* GiB for 15 images"):
        module(root, cache="ram").setup("fit")


def test_palette_and_grey_images_become_rgb(root: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(root / "val/ant/000.png")
    Image.fromarray(grey).convert("P").save(root / "val/ant/001.png", transparency=bytes(range(64)))
    data = module(root)
    data.setup("validate")
    rgb = np.repeat(grey[..., None], 3, axis=2).tobytes()
    assert [seen for seen, _ in read(data, "val")[:2]] == [rgb, rgb]
