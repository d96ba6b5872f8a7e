"""Annotation files that are at fault: one line that names file and record."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acmix.errors import UserError
from acmix.tasks.data.coco import CocoDetectionDataModule
from acmix.tasks.data.coco_faults import BadRecordError
from acmix.tasks.data.coco_records import CocoRecords, read_records
from acmix.tasks.data.coco_segmentations import segmentation_counts
from acmix.tasks.data.sampler import BatchKey

HEIGHT, WIDTH = 20, 30
Content = dict[str, Any]
SQUARE = [2, 3, 10, 3, 10, 11, 2, 11]


def content() -> Content:
    return {
        "images": [{"id": 5, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [
            {"id": 17, "image_id": 5, "category_id": 1, "bbox": [2, 3, 8, 8], "area": 64, "segmentation": [SQUARE]},
            {"id": 18, "image_id": 5, "category_id": 1, "bbox": [4, 3, 8, 8], "area": 64, "segmentation": [SQUARE]},
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }


def written(folder: Path, wanted: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(wanted if isinstance(wanted, str) else json.dumps(wanted))
    return path


def read(path: Path, **options: Any) -> CocoRecords:
    return read_records(path, **{"masks": True, "on_bad_record": "raise", **options})


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_sound_file(tmp_path: Path) -> None:
    records = read(written(tmp_path, content()))
    assert len(records) == 1
    assert records.of(0).boxes.tolist() == [[2, 3, 10, 11], [4, 3, 12, 11]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON, or is cut off"),
        ("<html>", "no JSON, or is cut off: Expecting value in line 1, column 1"),
        (json.dumps(content())[:-30], "no JSON, or is cut off"),
        ("[" * 100_000, "no JSON"),
        ("[1, 2]", "holds a list; expected COCO's object"),
        ("{}", r"has no 'images' \(its keys: none\)"),
        ('{"images": [], "info": 3}', r"has no 'annotations' \(its keys: 'images', 'info'\)"),
        ('{"images": [], "annotations": {}, "categories": []}', "'annotations' is a dict"),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "has no usable images"),
    ],
)
def test_other_files(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=words):
        read(path)
    refusal(path)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(b"\xff\xfe\x00{")
    assert "is no JSON" in refusal(path)


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([3], "category number 1 in the list: is 3"),
        ([{"name": "a"}], "category number 1 in the list: has no 'id'"),
        ([{"id": "1", "name": "a"}], "'id' is '1': expected a whole number"),
        ([{"id": 1, "name": 7}], "'name' is 7: expected a text"),
        ([{"id": 1}], "'name' is None"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "category number 2 in the list: the id 1 is that of 'a'"),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "the name 'a' stands there twice"),
    ],
)
def test_faulty_categories(tmp_path: Path, categories: Any, words: str) -> None:
    path = written(tmp_path, content() | {"categories": categories})
    assert words in refusal(path)
    assert words in refusal(path, on_bad_record="skip"), "without classes there is nothing to go on with"


IMAGE_FAULTS = [
    ({"width": None}, "image 5: 'width' is None: expected a whole number from 1 to 65,535"),
    ({"height": 0}, "image 5: 'height' is 0"),
    ({"width": 10**9}, "image 5: 'width' is 1000000000"),
    ({"width": 30.0}, "image 5: 'width' is 30.0"),
    ({"width": True}, "image 5: 'width' is True"),
    ({"file_name": 3}, "image 5: 'file_name' is 3"),
    ({"file_name": ""}, "image 5: 'file_name' is ''"),
    ({"file_name": "../../etc/passwd"}, "expected a file in the folder of images"),
    ({"file_name": "/etc/passwd"}, "expected a file in the folder of images"),
    ({"id": "5"}, "image '5': 'id' is '5'"),
    ({"id": 2**70}, "'id' is 1180591620717411303424"),
]


@pytest.mark.parametrize(("change", "words"), IMAGE_FAULTS)
def test_faulty_images(tmp_path: Path, change: Content, words: str) -> None:
    wanted = content()
    wanted["images"].append({**wanted["images"][0], "id": 6, "file_name": "b.png"})
    wanted["images"][0] |= change
    path = written(tmp_path, wanted)
    assert words in refusal(path)
    if "id" not in change:
        records = read(path, on_bad_record="skip")
        assert records.image_ids.tolist() == [6]
        assert len(records.objects) == 0


def test_images_without_a_key_or_twice(tmp_path: Path) -> None:
    wanted = content()
    wanted["images"].append({**wanted["images"][0], "file_name": "b.png"})
    path = written(tmp_path, wanted)
    assert "image 5: the id stands there twice, also for 'a.png'" in refusal(path)
    assert read(path, on_bad_record="skip").file_names == ["a.png"]
    del wanted["images"][0]["id"]
    assert "image number 1 in the list: has no 'id'" in refusal(written(tmp_path, wanted))
    wanted["images"][0] = "a.png"
    assert "image number 1 in the list: is 'a.png'" in refusal(written(tmp_path, wanted))


RECORD_FAULTS = [
    ({"image_id": 99}, "annotation 17 of image 99: there is no image with this id"),
    ({"image_id": "5"}, "annotation 17 of image '5': 'image_id' is '5'"),
    ({"category_id": 4}, "annotation 17 of image 5: there is no category 4, only [1]"),
    ({"category_id": True}, "'category_id' is True"),
    ({"id": 18}, "annotation 18 of image 5: the id stands there twice"),
    ({"id": None}, "'id' is None"),
    ({"bbox": None}, "annotation 17 of image 5: 'bbox' is None: expected four finite numbers"),
    ({"bbox": [1, 2, 3]}, "'bbox' is [1, 2, 3]"),
    ({"bbox": [1, 2, 3, "4"]}, "'bbox' is [1, 2, 3, '4']"),
    ({"bbox": [1, 2, float("nan"), 4]}, "'bbox' is [1, 2, nan, 4]"),
    ({"bbox": [1, 2, float("inf"), 4]}, "'bbox' is [1, 2, inf, 4]"),
    ({"bbox": [1, 2, 10**400, 4]}, "expected four finite numbers"),
    ({"bbox": [5, 5, -3, 4]}, "width or height is negative"),
    ({"bbox": [30, 5, 3, 4]}, "it lies outside of the image of 30x20"),
    ({"bbox": [5, -10, 3, 4]}, "it lies outside of the image of 30x20"),
    ({"area": -1}, "'area' is -1"),
    ({"area": float("nan")}, "'area' is nan"),
    ({"iscrowd": 2}, "'iscrowd' is 2: expected a whole number from 0 to 1"),
    ({"segmentation": None}, "'segmentation' is None: expected polygons or run lengths"),
    ({"segmentation": []}, "'segmentation' holds no polygon"),
    ({"segmentation": [[1, 2, 3, 4]]}, "expected at least 3 points"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "expected at least 3 points"),
    ({"segmentation": SQUARE}, "expected at least 3 points"),
    ({"segmentation": [[1, 2, 3, float("nan"), 5, 6]]}, "expected at least 3 points"),
    ({"segmentation": [[1, 2, 3, 1e9, 5, 6]]}, "far outside the image of 30x20"),
    (
        {"segmentation": {"size": [30, 20], "counts": [600]}},
        "has the size [30, 20]: expected that of the image, [20, 30]",
    ),
    ({"segmentation": {"counts": [600]}}, "has the size None"),
    ({"segmentation": {"size": [20, 30]}}, "has counts None"),
    ({"segmentation": {"size": [20, 30], "counts": [500]}}, "add up to 500: expected height times width, 600"),
    ({"segmentation": {"size": [20, 30], "counts": [700, -100]}}, "expected whole numbers of at least 0"),
    ({"segmentation": {"size": [20, 30], "counts": [600.0]}}, "expected whole numbers of at least 0"),
    ({"segmentation": {"size": [20, 30], "counts": "\u00e4"}}, "they are no compressed run lengths"),
    ({"segmentation": {"size": [20, 30], "counts": "oooooooooooo1"}}, "they are no compressed run lengths"),
    ({"segmentation": {"size": [20, 30], "counts": "oo"}}, "they are cut off"),
    ({"segmentation": {"size": [20, 30], "counts": ""}}, "add up to 0"),
    ({"segmentation": {"size": [20, 30], "counts": "11111"}}, "expected height times width"),
]


@pytest.mark.parametrize(("change", "words"), RECORD_FAULTS)
def test_faulty_annotations(tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Content, words: str) -> None:
    wanted = content()
    wanted["annotations"][0] |= change
    # The second of two with one id is the one at fault.
    wanted["annotations"].sort(key=lambda record: record["bbox"] == [4, 3, 8, 8] and "id" not in change)
    if change.get("id") == 18:
        wanted["annotations"].reverse()
    path = written(tmp_path, wanted)
    assert words in refusal(path)
    with caplog.at_level(logging.WARNING):
        records = read(path, on_bad_record="skip")
    assert records.of(0).boxes.tolist() == [[4, 3, 12, 11]]
    assert f"{path}: left out 1 faulty records, the first: " in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "segmentation"])
def test_missing_keys(tmp_path: Path, key: str) -> None:
    wanted = content()
    del wanted["annotations"][0][key]
    message = refusal(written(tmp_path, wanted))
    assert f"has no '{key}'" in message
    assert ("annotation number 1 in the list" if key == "id" else "annotation 17") in message


def test_records_that_are_no_objects(tmp_path: Path) -> None:
    wanted = content()
    wanted["annotations"][1] = [1, 2]
    assert "annotation number 2 in the list: is [1, 2]" in refusal(written(tmp_path, wanted))


def test_boxes_without_extent_are_left_out_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # As in COCO's own training annotations.
    wanted = content()
    wanted["annotations"][0]["bbox"] = [2, 3, 8, 0.0]
    with caplog.at_level(logging.INFO):
        assert len(read(written(tmp_path, wanted)).objects) == 1
    assert "left out 1 boxes without extent, the first is annotation 17" in caplog.text


@pytest.mark.parametrize("seed", range(5))
def test_noise_as_run_lengths_never_gets_through(seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = "".join(map(chr, rng.integers(48, 112, 40)))
    with pytest.raises(BadRecordError):
        segmentation_counts({"size": [HEIGHT, WIDTH], "counts": text}, HEIGHT, WIDTH)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set with two images per part, all with an object."""
    wanted = content()
    wanted["images"].append({**wanted["images"][0], "id": 6, "file_name": "b.png"})
    wanted["annotations"].append({**wanted["annotations"][0], "id": 19, "image_id": 6})
    (tmp_path / "annotations").mkdir()
    for part in ("train2017", "val2017"):
        (tmp_path / part).mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / part / name)
        (tmp_path / "annotations" / f"instances_{part}.json").write_text(json.dumps(wanted))
    return tmp_path


def module(root: Path, **options: Any) -> CocoDetectionDataModule:
    return CocoDetectionDataModule(root, **{"num_workers": 0, "hflip": 0.0, **options})


def batch(data: CocoDetectionDataModule) -> list[int]:
    data.setup("fit")
    source = data.sources["train"]
    _, targets, skipped = source.batch(BatchKey(0, np.arange(len(source))))
    data._report_skipped(skipped)
    return [int(target["image_id"]) for target in targets]


def test_missing_image_file(root: Path) -> None:
    (root / "train2017" / "a.png").unlink()
    with pytest.raises(
        UserError, match=r"a\.png: no such file.*instances_train2017.json names it for image 5 \(1 of 2"
    ):
        batch(module(root))
    data = module(root, on_bad_image="skip")
    assert batch(data) == [6]
    assert list(data.skipped) == [str(root / "train2017" / "a.png")]


def test_image_of_another_size(root: Path) -> None:
    path = root / "train2017" / "a.png"
    Image.new("RGB", (HEIGHT, WIDTH)).save(path)
    with pytest.raises(
        UserError, match=r"a\.png: it has 20x30 pixels, for instances_train2017.json it is image 5 of 30x20"
    ):
        batch(module(root))
    data = module(root, on_bad_image="skip")
    assert batch(data) == [6]
    assert list(data.skipped) == [str(path)]


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_damaged_image(root: Path, cache: str) -> None:
    (root / "train2017" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.png: not an image"):
        batch(module(root, cache=cache))
    assert batch(module(root, cache=cache, on_bad_image="skip")) == [6]


def test_no_image_of_a_batch_can_be_read(root: Path) -> None:
    for name in ("a.png", "b.png"):
        (root / "train2017" / name).write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 2 images of a batch can be read"):
        batch(module(root, on_bad_image="skip"))


def test_missing_folders_and_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no folder .*photos \(in .*: annotations, train2017, val2017\): set root or tr"
    ):
        batch(module(root, train_images="photos"))
    with pytest.raises(
        UserError, match=r"no annotation file .*x\.json \(JSON files in .*: instances_train2017\.json, ins"
    ):
        batch(module(root, train_annotations="annotations/x.json"))
    with pytest.raises(UserError, match=r"no annotation file .*nowhere"):
        assert module(tmp_path / "nowhere").class_names
    data = module(root, predict_folder="nowhere")
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        data.setup("predict")


def test_parts_must_have_the_same_categories(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    wanted = json.loads(path.read_text()) | {"categories": [{"id": 1, "name": "nucleus"}]}
    path.write_text(json.dumps(wanted))
    with pytest.raises(UserError, match=r"has other categories than .*: it adds 1 '\w+' and lacks 1 '\w+'"):
        batch(module(root))


def test_nothing_to_train_with(root: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(UserError, match="no image has an object"):
        batch(module(root))
    assert batch(module(root, filter_empty=False)) == [5, 6]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [0, 0, 1e39, 10]}, "reaches far outside"),
        ({"bbox": [-31, 3, 40, 8]}, "reaches far outside"),
        ({"area": 1e300}, "'area' is 1e"),
    ],
)
def test_numbers_beyond_all_measure_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    wanted = content()
    wanted["annotations"][0] |= change
    told = refusal(written(tmp_path, wanted))
    assert "annotation 17 of image 5" in told
    assert words in told


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content()), encoding="utf-8-sig")
    assert len(read(path)) == 1


@pytest.mark.parametrize(
    "box", [[-10, 5, 10.005, 10], [WIDTH - 0.005, 5, 10, 10], [5, 5, 0.006, 10], [5, 5, 0.015, 10]]
)
def test_slivers_are_left_out_of_training_alone(box: list[float], tmp_path: Path) -> None:
    wanted = content()
    wanted["annotations"][0]["bbox"] = box
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    for part in ("train", "val"):
        (tmp_path / f"{part}.json").write_text(json.dumps(wanted))
    files = {"train_images": ".", "train_annotations": "train.json", "val_images": ".", "val_annotations": "val.json"}
    data = CocoDetectionDataModule(tmp_path, 1, 0, scale=0.5, **files)
    data.setup("fit")
    boxes = {
        part: data.sources[part].batch(BatchKey(0, np.array([0]))).targets[0]["boxes"] for part in ("train", "val")
    }
    assert len(boxes["train"]) == 1
    assert len(boxes["val"]) == 2


def test_masks_of_a_single_column_are_mirrored(tmp_path: Path) -> None:
    wanted = content()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    (tmp_path / "train.json").write_text(json.dumps(wanted))
    files = {"train_images": ".", "train_annotations": "train.json", "val_images": ".", "val_annotations": "train.json"}
    data = CocoDetectionDataModule(tmp_path, 1, 0, masks=True, hflip=1.0, scale=1 / WIDTH, **files)
    data.setup("fit")
    batch = data.sources["train"].batch(BatchKey(0, np.array([0])))
    assert batch.images[0].shape[-1] == 1
    assert batch.targets[0]["masks"].shape[-1] == 1
