"""Masks, pictures and the list that a prediction writes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from acmix.tasks import SegmentationTask
from acmix.tasks.data import SegmentationFolderDataModule
from acmix.tasks.quiet import quiet
from acmix.tasks.segmentation.overlay import draw_overlay
from acmix.tasks.segmentation.palette import class_colours
from acmix.tasks.segmentation.predictions import SegmentationPredictions, mask_names
from tasks.segmentation.networks import DECODERS

NAMES = ["sky", "wall", "road", "tree", "car"]


def predict(folder: Path, writer: SegmentationPredictions) -> tuple[SegmentationTask, SegmentationFolderDataModule]:
    torch.manual_seed(0)
    decoder = DECODERS["semantic_fpn"]
    task = SegmentationTask("acmix_resnet14", 5, 3, {"channels": [8, 8, 16, 16]}, decoder=decoder)
    data = SegmentationFolderDataModule(folder, NAMES, 2, 0, predict_folder=".", scale=0.5)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    with quiet():
        trainer = Trainer(callbacks=[writer], default_root_dir=folder, **silent)  # type: ignore[arg-type]  # by name
        trainer.predict(task, datamodule=data, return_predictions=False)
    return task, data


def test_every_image_gets_a_mask_and_a_picture(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name, size in (("day/1.jpg", (40, 30)), ("night/1.jpg", (25, 33)), ("night/2.png", (40, 30))):
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    writer = SegmentationPredictions(tmp_path / "out")
    task, data = predict(photos, writer)
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["mask"] for row in rows] == ["masks/day/1.png", "masks/night/1.png", "masks/night/2.png"]
    assert [Path(row["file"]).relative_to(photos).as_posix() for row in rows] == [
        "day/1.jpg",
        "night/1.jpg",
        "night/2.png",
    ]
    assert [tuple(row.values()) for row in rows] == writer.written
    task.eval()
    images, targets = data.sources["predict"].batch(next(iter(data.predict_dataloader().batch_sampler)))[:2]
    for row, image, target in zip(rows, images, targets, strict=False):
        mask = Image.open(tmp_path / "out" / row["mask"])
        assert (mask.mode, mask.size) == ("P", target.shape[::-1])
        with torch.no_grad():
            expected = task.predict_step(([image], [target]), 0)[0]
        assert np.array_equal(np.asarray(mask), expected.numpy())
        shown = np.asarray(mask.convert("RGB"))
        assert np.array_equal(shown, class_colours(5)[np.asarray(mask)])
        overlay = Image.open(tmp_path / "out" / row["overlay"])
        original = np.asarray(Image.open(row["file"]).convert("RGB"))
        assert np.array_equal(np.asarray(overlay)[: original.shape[0], : original.shape[1]], original)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["/a/x.jpg", "/a/y.png"], ["x", "y"]),
        (["/a/b/x.jpg", "/a/c/x.jpg"], ["b/x", "c/x"]),
        (["/a/x.jpg", "/a/x.png"], ["x.jpg", "x.png"]),
        (["/a/x.jpg", "/a/X.jpg"], ["x.jpg", "X.jpg-2"]),
        (["/a/x.jpg", "/a/x.png", "/a/x.jpg.bmp"], ["x.jpg", "x.png", "x.jpg-2"]),
        (["/a/b/x.v1.jpg"], ["x.v1"]),
    ],
)
def test_names_of_masks_are_never_the_same(files: list[str], names: list[str]) -> None:
    assert mask_names(files) == names


def test_colours_are_distinct_and_none_is_black() -> None:
    colours = class_colours(255)
    assert (colours.shape, colours.dtype) == ((255, 3), np.uint8)
    assert len(np.unique(class_colours(150), axis=0)) == 150
    assert colours.max(axis=1).min() > 100
    assert np.array_equal(class_colours(7), colours[:7])


def test_the_legend_names_the_classes_that_occur() -> None:
    image = Image.new("RGB", (60, 50))
    mask = np.zeros((50, 60), dtype=np.uint8)
    colours = class_colours(5)
    one = draw_overlay(image, mask, NAMES, colours)
    mask[:10] = 3
    two = draw_overlay(image, mask, NAMES, colours)
    assert one.size[0] >= 2 * 60
    # The legend's squares are in the plain colours, which the blend with a black image is not.
    legends = [np.asarray(each)[:, 130:].reshape(-1, 3) for each in (one, two)]
    present = [[bool((legend == colour).all(axis=1).any()) for colour in colours] for legend in legends]
    assert present == [[True, False, False, False, False], [True, False, False, True, False]]


def test_a_long_legend_is_cut() -> None:
    mask = np.arange(100, dtype=np.uint8).reshape(10, 10)
    picture = draw_overlay(Image.new("RGB", (10, 10)), mask, [str(number) for number in range(100)], class_colours(100))
    assert picture.size[1] < 600
