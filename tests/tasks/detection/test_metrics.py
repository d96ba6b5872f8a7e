"""Mean average precision: equal to pycocotools'."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from acmix.tasks.detection.metrics import COCO_NUMBERS, CocoMeanAveragePrecision

Items = list[dict[str, Tensor]]
HEIGHT, WIDTH = 150, 200
CLASSES = 4


def filled(boxes: Tensor) -> Tensor:
    """Masks [N, H, W]: ellipses in the boxes."""
    rows, columns = torch.arange(HEIGHT)[:, None] + 0.5, torch.arange(WIDTH)[None] + 0.5
    left, top, right, bottom = (side[:, None, None] for side in boxes.unbind(1))
    across = (2 * columns - left - right) / (right - left)
    down = (2 * rows - top - bottom) / (bottom - top)
    return (across**2 + down**2 <= 1).to(torch.uint8)


def scenario(seed: int = 0, images: int = 12) -> tuple[Items, Items]:
    """Objects of all three sizes, some of them crowds, and detections near them and elsewhere; empty images."""
    torch.manual_seed(seed)
    predictions, targets = [], []
    for number in range(images):
        count = 0 if number in (3, 7) else int(torch.randint(1, 9, ()))
        corner = torch.rand(count, 2) * torch.tensor([WIDTH - 14.0, HEIGHT - 14.0])
        extent = torch.tensor([8.0, 40.0, 130.0])[torch.randint(3, (count, 1))] * (0.7 + 0.6 * torch.rand(count, 2))
        boxes = torch.cat([corner, torch.minimum(corner + extent, torch.tensor([WIDTH, HEIGHT]))], 1)
        labels = torch.randint(1, CLASSES + 1, (count,))
        masks = filled(boxes)
        targets.append(
            {
                "boxes": boxes,
                "labels": labels,
                "masks": masks,
                "image_id": torch.tensor(1000 - 7 * number),
                "area": masks.sum((1, 2)).float(),
                "iscrowd": (torch.rand(count) < 0.15).long(),
            }
        )
        twice = boxes.repeat(2, 1)
        moved = twice + 3 * torch.randn_like(twice)
        stray = torch.tensor([[5.0, 5.0, 60.0, 40.0], [100.0, 20.0, 111.0, 31.0]])
        found = torch.cat([moved, stray]) if number not in (5, 7) else torch.zeros(0, 4)
        found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 3)
        true = torch.cat([labels.repeat(2), torch.tensor([1, 2])])[: len(found)]
        guess = torch.where(torch.rand(len(found)) < 0.8, true, torch.randint(1, CLASSES + 1, true.shape))
        soft = filled(found)[:, None] * (0.5 + 0.5 * torch.rand(len(found), 1, HEIGHT, WIDTH))
        predictions.append({"boxes": found, "labels": guess, "scores": torch.rand(len(found)), "masks": soft})
    if images == 12:
        assert 7 in (number for number in range(images) if not len(targets[number]["boxes"]))
    return predictions, targets


def by_pycocotools(predictions: Items, targets: Items, kind: str) -> list[float]:
    """COCO's own evaluation, from dictionaries made here."""
    truth, found = COCO(), COCO()
    images = [{"id": int(target["image_id"]), "height": HEIGHT, "width": WIDTH} for target in targets]
    categories = [{"id": label, "name": str(label)} for label in range(1, CLASSES + 1)]

    def annotations(items: Items, *, detected: bool) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = []
        for item, target in zip(items, targets, strict=True):
            for row, box in enumerate(item["boxes"].double().tolist()):
                mask = item["masks"][row].squeeze(0).numpy()
                rle = coco_masks.encode(np.asfortranarray(mask > 0.5, dtype=np.uint8))
                extent = [box[2] - box[0], box[3] - box[1]]
                one = {"id": len(result) + 1, "image_id": int(target["image_id"]), "segmentation": rle}
                one |= {"category_id": int(item["labels"][row]), "bbox": box[:2] + extent}
                if detected:
                    area = coco_masks.area(rle) if kind == "segm" else extent[0] * extent[1]
                    one |= {"score": float(item["scores"][row]), "area": float(area), "iscrowd": 0}
                else:
                    one |= {"area": float(item["area"][row]), "iscrowd": int(item["iscrowd"][row])}
                result.append(one)
        return result

    with contextlib.redirect_stdout(io.StringIO()):
        for coco, items, detected in ((truth, targets, False), (found, predictions, True)):
            coco.dataset = {
                "images": images,
                "categories": categories,
                "annotations": annotations(items, detected=detected),
            }
            coco.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def computed(predictions: Items, targets: Items, *, masks: bool = True, batch: int = 5) -> dict[str, float]:
    metric = CocoMeanAveragePrecision(masks=masks)
    for start in range(0, len(targets), batch):
        metric.update(predictions[start : start + batch], targets[start : start + batch])
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_pycocotools(seed: int) -> None:
    predictions, targets = scenario(seed)
    ours = computed(predictions, targets)
    for kind, prefix in (("bbox", ""), ("segm", "segm_")):
        theirs = by_pycocotools(predictions, targets, kind)
        assert min(theirs) > 0, "every size and every limit must count in this test"
        assert [ours[prefix + name] for name in COCO_NUMBERS] == pytest.approx(theirs, abs=1e-6)


def test_boxes_alone_need_no_masks() -> None:
    predictions, targets = scenario()
    bare = [{name: value for name, value in item.items() if name != "masks"} for item in predictions]
    truth = [{name: value for name, value in item.items() if name != "masks"} for item in targets]
    ours = computed(bare, truth, masks=False)
    assert list(ours) == list(COCO_NUMBERS)
    assert list(ours.values()) == pytest.approx(by_pycocotools(predictions, targets, "bbox"), abs=1e-6)


def test_no_detections_at_all_is_zero() -> None:
    predictions, targets = scenario()
    nothing = [{name: value[:0] for name, value in item.items()} for item in predictions]
    ours = computed(nothing, targets)
    assert len(ours) == 24
    assert set(ours.values()) == {0.0}


def test_without_objects_there_is_nothing_to_average() -> None:
    predictions, targets = scenario()
    empty = [{name: value if name == "image_id" else value[:0] for name, value in target.items()} for target in targets]
    assert set(computed(predictions, empty).values()) == {-1.0}
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert set(computed([], []).values()) == {-1.0}


def test_detections_in_an_empty_image_cost_precision() -> None:
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    label = torch.tensor([1])
    found = {"boxes": box, "labels": label, "scores": torch.tensor([0.5])}
    object_ = {"boxes": box, "labels": label, "image_id": torch.tensor(1)}
    empty = {"boxes": box[:0], "labels": label[:0], "image_id": torch.tensor(2)}
    wrong = {**found, "scores": torch.tensor([0.9])}
    assert computed([found], [object_], masks=False)["map"] == pytest.approx(1)
    assert computed([found, wrong], [object_, empty], masks=False)["map"] == pytest.approx(0.5)


def test_an_image_counts_once() -> None:
    predictions, targets = scenario()
    twice = computed(predictions + predictions[:3], targets + targets[:3])
    assert twice == computed(predictions, targets)


def in_two_processes(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    predictions, targets = scenario()
    metric = CocoMeanAveragePrecision(masks=True)
    # The second process has a single image without objects and detections, and one that the first has too.
    mine = list(range(11)) if rank == 0 else [7, 11, 0]
    for number in mine:
        metric.update([predictions[number]], [targets[number]])
    torch.save(metric.compute(), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def test_processes_together_see_every_image_once(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(in_two_processes, (str(tmp_path),), nprocs=2, start_method="fork")
    expected = computed(*scenario())
    for rank in range(2):
        together = {name: float(value) for name, value in torch.load(tmp_path / str(rank)).items()}
        assert together == pytest.approx(expected, abs=1e-7)


def test_area_is_the_masks_where_none_is_given() -> None:
    predictions, targets = scenario()
    bare = [{name: value for name, value in target.items() if name != "area"} for target in targets]
    assert computed(predictions, bare) == computed(predictions, targets)


def test_masks_are_kept_as_run_lengths() -> None:
    predictions, targets = scenario()
    metric = CocoMeanAveragePrecision(masks=True)
    metric.update(predictions, targets)
    states = [part for name in metric._defaults for part in getattr(metric, name)]
    kept = sum(part.numel() * part.element_size() for part in states)
    dense = sum(item["masks"].numel() for item in predictions + targets)
    assert kept < dense / 50


def test_table_lists_every_class() -> None:
    predictions, targets = scenario()
    metric = CocoMeanAveragePrecision(masks=True)
    metric.update(predictions, targets)
    numbers = metric.compute()
    metric.reset()
    names = ["ant", "bee", "cat", "dog", "never seen"]
    lines = metric.per_class_table(names).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == names
    assert lines[-1].split()[2:] == ["0"] + 8 * ["-"]
    results = [metric.classes["bbox"][label] for label in range(1, CLASSES + 1)]
    assert np.mean([result.map for result in results]) == pytest.approx(float(numbers["map"]), abs=1e-6)
    assert np.mean([result.map_50 for result in results]) == pytest.approx(float(numbers["map_50"]), abs=1e-6)
    assert np.mean([result.map_75 for result in results]) == pytest.approx(float(numbers["map_75"]), abs=1e-6)
    assert np.mean([result.mar_100 for result in results]) == pytest.approx(float(numbers["mar_100"]), abs=1e-6)
    objects = sum(int((target["iscrowd"] == 0).sum()) for target in targets)
    assert sum(result.objects for result in results) == objects
