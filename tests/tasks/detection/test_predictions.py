"""What a detector's predictions are written to."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_masks
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from acmix.errors import UserError
from acmix.tasks.data.coco import CocoDetectionDataModule
from acmix.tasks.data.digits import DigitsDataModule
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.scenes import DigitScenesDataModule
from acmix.tasks.detection.metrics import CocoMeanAveragePrecision
from acmix.tasks.detection.pictures import contact_sheet, draw_detections
from acmix.tasks.detection.predictions import DetectionPredictions, coco_results
from acmix.tasks.quiet import quiet

Item = dict[str, Tensor]


class Oracle(LightningModule):
    """Finds what is there, and something else with a low score."""

    def __init__(self, class_names: list[str] | None = None) -> None:
        super().__init__()
        self.class_names = class_names

    def predict_step(self, batch: Any, batch_idx: int) -> list[Item]:
        return [found(target) for target in batch[1]]


def found(target: Item) -> Item:
    stray = torch.tensor([[1.0, 2.0, 4.0, 6.0]])
    result = {
        "boxes": torch.cat([target["boxes"], stray]),
        "labels": torch.cat([target["labels"], torch.tensor([1])]),
        "scores": torch.cat([torch.full((len(target["labels"]),), 0.9), torch.tensor([0.1])]),
    }
    if "masks" in target:
        masks = torch.cat([target["masks"], torch.zeros(1, *target["masks"].shape[1:], dtype=torch.uint8)])
        masks[-1, 2:6, 1:4] = 1
        result["masks"] = masks[:, None].float()
    return result


def predict(data: Any, folder: Path, **options: Any) -> DetectionPredictions:
    writer = DetectionPredictions(folder, **options)
    with quiet():
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[writer],
        )
        trainer.predict(Oracle(), datamodule=data, return_predictions=False)
    return writer


@pytest.fixture
def photographs(tmp_path: Path) -> CocoDetectionDataModule:
    """Three images of different sizes, halved; two of one name in different folders."""
    images = [
        {"id": 70, "file_name": "a/x.png", "width": 80, "height": 60},
        {"id": 30, "file_name": "b/x.png", "width": 60, "height": 80},
        {"id": 50, "file_name": "b/x.jpg", "width": 40, "height": 40},
    ]
    annotations = [
        {
            "id": number + 1,
            "image_id": image["id"],
            "category_id": 9,
            "bbox": [10, 14, 20, 16],
            "area": 320,
            "iscrowd": 0,
            "segmentation": [[10, 14, 30, 14, 30, 30, 10, 30]],
        }
        for number, image in enumerate(images)
    ]
    for image in images:
        path = tmp_path / "images" / str(image["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (int(str(image["width"])), int(str(image["height"]))), "grey").save(path)
    categories = [{"id": 9, "name": "nine"}, {"id": 4, "name": "four"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "some.json").write_text(json.dumps(content))
    return CocoDetectionDataModule(
        tmp_path, num_workers=0, masks=True, scale=0.5, val_images="images", val_annotations="some.json"
    )


def test_results_are_in_the_pixels_of_the_originals(photographs: CocoDetectionDataModule, tmp_path: Path) -> None:
    predict(photographs, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [one["image_id"] for one in results] == [30, 30, 50, 50, 70, 70]
    for one in results[::2]:
        assert one["category_id"] == 9
        assert one["bbox"] == [10, 14, 20, 16]
        assert one["score"] == pytest.approx(0.9)
    assert [one["category_id"] for one in results[1::2]] == [4, 4, 4]
    assert [one["bbox"] for one in results[1::2]] == [[2, 4, 6, 8]] * 3
    sizes = {30: [80, 60], 50: [40, 40], 70: [60, 80]}
    for one in results:
        assert one["segmentation"]["size"] == sizes[one["image_id"]]
        assert isinstance(one["segmentation"]["counts"], str)
        width, height = one["bbox"][2:]
        mask = coco_masks.decode(one["segmentation"])
        assert mask.sum() == pytest.approx(width * height, rel=0.1)
        assert np.allclose(coco_masks.toBbox(one["segmentation"]), one["bbox"], atol=1)
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert images[0] == {"id": 30, "file_name": "b/x.png", "width": 60, "height": 80}
    assert len(images) == 3


def test_pictures_of_one_name_do_not_collide(photographs: CocoDetectionDataModule, tmp_path: Path) -> None:
    predict(photographs, tmp_path / "out")
    pictures = tmp_path / "out" / "pictures"
    names = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    assert names == ["a/x.png.png", "b/x.jpg.png", "b/x.png.png"]


def test_files_named_twice_have_a_picture_each(photographs: CocoDetectionDataModule, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    content = json.loads(path.read_text())
    content["images"].append({**content["images"][0], "id": 71})
    path.write_text(json.dumps(content))
    predict(photographs, tmp_path / "out")
    assert sorted(one.name for one in (tmp_path / "out" / "pictures" / "a").iterdir()) == ["x.png.71.png", "x.png.png"]


@pytest.mark.parametrize("limit", [0, 2])
def test_number_of_pictures_is_limited(tmp_path: Path, limit: int) -> None:
    data = DigitScenesDataModule("detection", test_scenes=5, batch_size=2)
    predict(data, tmp_path, pictures=limit)
    assert len(list((tmp_path / "pictures").rglob("*.png")) if limit else []) == limit
    assert (tmp_path / "pictures").exists() == bool(limit)
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert {one["image_id"] for one in results} == set(range(5))


def test_folder_of_images_without_objects(photographs: CocoDetectionDataModule, tmp_path: Path) -> None:
    photographs.predict_folder = "images/b"
    predict(photographs, tmp_path / "out")
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [image["file_name"] for image in images] == ["x.jpg", "x.png"]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [one["image_id"] for one in results] == [0, 1]
    assert "segmentation" not in results[0]


def test_results_are_what_the_metric_evaluates(tmp_path: Path) -> None:
    """COCO's tools, given the file, come to the numbers of the metric."""
    data = DigitScenesDataModule("detection", test_scenes=12)
    predict(data, tmp_path, pictures=0)
    targets = data.sources["test"].batch(BatchKey(0, np.arange(12))).targets
    metric = CocoMeanAveragePrecision()
    metric.update([found(target) for target in targets], targets)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number, "width": 96, "height": 96} for number in range(12)],
            "categories": [{"id": label, "name": str(label)} for label in range(1, 11)],
            "annotations": [
                {
                    "id": 100 * number + row + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": area,
                    "iscrowd": 0,
                }
                for number, target in enumerate(targets)
                for row, (label, box, area) in enumerate(
                    zip(target["labels"].tolist(), target["boxes"].tolist(), target["area"].tolist(), strict=True)
                )
            ],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "predictions.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert float(metric.compute()["map"]) == pytest.approx(evaluation.stats[0], abs=1e-6)


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="_Digits is no data for detection"):
        predict(DigitsDataModule(), tmp_path)


@pytest.mark.parametrize(("options", "words"), [({"pictures": -1}, "pictures is -1"), ({"threshold": 2}, "is 2")])
def test_impossible_options_are_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DetectionPredictions(tmp_path, **options)


def test_no_detections() -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert coco_results({**nothing, "masks": torch.zeros(0, 1, 8, 8)}, (8, 8), (16, 16), [1]) == []
    picture = draw_detections(torch.full((3, 48, 64), 0.25), {**nothing, "masks": torch.zeros(0, 1, 48, 64)}, ["a"])
    assert picture.getextrema() == ((64, 64), (64, 64), (64, 64))


def test_drawing() -> None:
    image = torch.zeros(3, 100, 120)
    mask = torch.zeros(2, 1, 100, 120)
    mask[0, 0, 30:70, 30:70] = 1
    item = {
        "boxes": torch.tensor([[30.0, 30.0, 70.0, 70.0], [80.0, 10.0, 110.0, 90.0]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.3]),
        "masks": mask,
    }
    picture = np.asarray(draw_detections(image, item, ["a", "b"], threshold=0.5))
    assert picture.shape == (400, 480, 3)
    assert picture[200, 200].max() > 60, "the mask is tinted"
    assert picture[122, 120].max() > 150, "the box has a line"
    assert picture[:, 290:].max() == 0, "what scores less is not drawn"
    assert np.asarray(draw_detections(image, item, ["a", "b"], threshold=0.2))[:, 290:].max() > 150
    truth = {name: value for name, value in item.items() if name != "scores"}
    assert np.asarray(draw_detections(image, truth, ["a", "b"]))[:, 290:].max() > 150


def test_contact_sheet() -> None:
    data = DigitScenesDataModule("detection")
    data.setup()
    made = data.sources["test"].batch(BatchKey(0, np.arange(5)))
    assert isinstance(made.images, list)
    sheet = contact_sheet(
        made.images, [found(target) for target in made.targets], made.targets, data.class_names, columns=2, side=192
    )
    assert sheet.height > 3 * 192
    assert sheet.width > 4 * 192
    pixels = np.asarray(sheet)
    last = pixels[-150:, sheet.width // 2 + 10 :]
    assert last.min() == 255, "five scenes leave the sixth place empty"
    assert pixels[-150:, : sheet.width // 2].min() < 128
