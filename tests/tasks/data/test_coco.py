"""Images in COCO's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from acmix.errors import UserError
from acmix.tasks.data.coco import CocoDetectionDataModule
from acmix.tasks.data.coco_images import CocoImages
from acmix.tasks.data.detection_source import DetectionSource
from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey

BCCD = Path(__file__).parents[3] / ".." / "shared" / "data" / "bccd"
HEIGHT, WIDTH = 40, 60
Content = dict[str, Any]
MakeCoco = Callable[..., Path]


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_masks.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def content(images: int = 5) -> Content:
    """Image n has n % 3 objects; categories with gaps and out of order; a crowd in the last image."""
    annotations: list[dict[str, Any]] = []
    for image in range(images):
        for number in range(image % 3):
            left, top, side = 3.5 + 20 * number, 4.0 + image, 12.0
            outline = [left, top, left + side, top, left + side, top + side, left, top + side]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 * image + 7,
                    "category_id": (44, 3)[number],
                    "bbox": [left, top, side, side],
                    "area": side * side / 2,
                    "iscrowd": 0,
                    "segmentation": [outline],
                }
            )
    crowd = square(20, 30, 15)
    runs = np.diff(np.flatnonzero(np.diff(np.pad(crowd.T.ravel(), 1, constant_values=2))), prepend=0).tolist()
    annotations.append(
        {
            "id": 1000,
            "image_id": 10 * images - 3,
            "category_id": 3,
            "bbox": [30, 20, 15, 15],
            "area": 225,
            "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs},
        }
    )
    return {
        "images": [
            {"id": 10 * image + 7, "file_name": f"{image:03d}.png", "width": WIDTH, "height": HEIGHT}
            for image in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": 44, "name": "spoon"}, {"id": 3, "name": "fork"}, {"id": 90, "name": "knife"}],
    }


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """Writes a data set with COCO 2017's names; both parts have the same content, but images of their own."""

    def make(wanted: Content | None = None) -> Path:
        root = tmp_path / "coco"
        (root / "annotations").mkdir(parents=True)
        wanted = content() if wanted is None else wanted
        for seed, part in enumerate(("train2017", "val2017")):
            (root / part).mkdir()
            rng = np.random.default_rng(seed)
            for image in wanted["images"]:
                pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
                (root / part / image["file_name"]).parent.mkdir(exist_ok=True)
                Image.fromarray(pixels).save(root / part / image["file_name"])
            (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(wanted))
        return root

    return make


def module(root: Path, stage: str = "fit", **options: Any) -> CocoDetectionDataModule:
    data = CocoDetectionDataModule(root, **{"num_workers": 0, "masks": True, **options})
    data.setup(stage)
    return data


def everything(data: CocoDetectionDataModule, part: str = "val", epoch: int = 0) -> Batch:
    source = data.sources[part]
    return source.batch(BatchKey(epoch, np.arange(len(source))))


def pixels(root: Path, part: str, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(root / part / name))).permute(2, 0, 1) / 255


def test_classes_are_the_categories_in_order_of_their_ids(make_coco: MakeCoco) -> None:
    data = CocoDetectionDataModule(make_coco())
    assert data.class_names == ["fork", "spoon", "knife"]
    assert data.num_classes == 3
    assert data.category_ids == [3, 44, 90]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, in NumPy's hands
def test_evaluation_has_what_the_file_has(make_coco: MakeCoco, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_coco()
    data = module(root)
    source = data.sources["val"]
    assert isinstance(source, DetectionSource)
    coco = COCO(root / "annotations/instances_val2017.json")
    capsys.readouterr()
    made = everything(data)
    assert len(made.images) == 5
    for image, target in zip(made.images, made.targets, strict=True):
        number = int(target["image_id"])
        expected = coco.loadAnns(coco.getAnnIds(number))
        name = coco.loadImgs(number)[0]["file_name"]
        assert source.file_name(number) == name
        assert torch.equal(image, pixels(root, "val2017", name))
        assert [data.category_ids[label - 1] for label in target["labels"].tolist()] == [
            one["category_id"] for one in expected
        ]
        assert target["iscrowd"].tolist() == [one["iscrowd"] for one in expected]
        assert target["area"].tolist() == [one["area"] for one in expected]
        assert target["orig_size"].tolist() == [HEIGHT, WIDTH]
        assert target["masks"].shape == (len(expected), HEIGHT, WIDTH)
        corners = target["boxes"].clone()
        corners[:, 2:] -= corners[:, :2]
        assert corners.tolist() == [one["bbox"] for one in expected]
        for mask, one in zip(target["masks"], expected, strict=True):
            assert np.array_equal(mask.numpy(), coco.annToMask(one))
    assert sum(int(target["iscrowd"].sum()) for target in made.targets) == 1


def test_training_leaves_out_crowds_and_images_without_objects(make_coco: MakeCoco) -> None:
    data = module(make_coco(), hflip=0.0)
    made = everything(data, "train")
    assert [int(target["image_id"]) for target in made.targets] == [17, 27, 47]
    assert all(not target["iscrowd"].any() and len(target["labels"]) for target in made.targets)
    assert len(everything(module(data.root, filter_empty=False), "train").images) == 5


def test_an_image_with_only_a_crowd_counts_as_empty(make_coco: MakeCoco) -> None:
    wanted = content()
    wanted["annotations"] = [one for one in wanted["annotations"] if one["iscrowd"] or one["image_id"] != 47]
    assert len(everything(module(make_coco(wanted)), "train").images) == 2


def test_training_clips_boxes(make_coco: MakeCoco) -> None:
    wanted = content()
    wanted["annotations"][0]["bbox"] = [-2, 30, 20, 12]
    data = module(make_coco(wanted), hflip=0.0)
    assert everything(data, "train").targets[0]["boxes"].tolist() == [[0, 30, 18, 40]]
    assert everything(data, "val").targets[1]["boxes"].tolist() == [[-2, 30, 18, 42]]


def test_one_pixel_is_a_box(make_coco: MakeCoco) -> None:
    wanted = content()
    wanted["annotations"][0] |= {"bbox": [59, 39, 1, 1], "segmentation": rle(square(39, 59, 1))}
    target = everything(module(make_coco(wanted), hflip=0.0), "train").targets[0]
    assert target["boxes"].tolist() == [[59, 39, 60, 40]]
    assert target["masks"].sum() == 1


def test_mirroring(make_coco: MakeCoco) -> None:
    root = make_coco()
    plain, mirrored = (everything(module(root, hflip=chance), "train") for chance in (0.0, 1.0))
    for image, target, turned, like in zip(plain.images, plain.targets, mirrored.images, mirrored.targets, strict=True):
        assert torch.equal(turned, image.flip(-1))
        assert torch.equal(like["masks"], target["masks"].flip(-1))
        assert torch.equal(like["boxes"][:, [0, 2]], WIDTH - target["boxes"][:, [2, 0]])
        assert torch.equal(like["boxes"][:, [1, 3]], target["boxes"][:, [1, 3]])


def test_variation_is_a_function_of_seed_epoch_and_number(make_coco: MakeCoco) -> None:
    root = make_coco(content(30))
    data, again = (module(root, color_jitter=0.4) for _ in range(2))
    made = everything(data, "train", epoch=2)
    alone = again.sources["train"].batch(BatchKey(2, np.array([7])))
    assert torch.equal(alone.images[0], made.images[7])
    assert torch.equal(alone.targets[0]["boxes"], made.targets[7]["boxes"])
    for other in (everything(data, "train", epoch=3), everything(module(root, color_jitter=0.4, seed=1), "train")):
        assert not any(torch.equal(one, old) for one, old in zip(other.images, made.images, strict=True))
    assert all(image.min() >= 0 and image.max() <= 1 for image in made.images)


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_scaling(make_coco: MakeCoco, cache: str) -> None:
    root = make_coco()
    whole, half = everything(module(root)), everything(module(root, scale=0.5, cache=cache))
    for image, target, small, like in zip(whole.images, whole.targets, half.images, half.targets, strict=True):
        assert small.shape == (3, HEIGHT // 2, WIDTH // 2)
        means = torch.nn.functional.avg_pool2d(image, 2)
        assert (small - means).abs().mean() < 0.1
        assert torch.equal(like["boxes"], target["boxes"] / 2)
        assert torch.equal(like["area"], target["area"] / 4)
        assert torch.equal(like["masks"], target["masks"][:, 1::2, 1::2])
        assert like["orig_size"].tolist() == [HEIGHT, WIDTH]


def test_cached_images_are_the_files(make_coco: MakeCoco) -> None:
    root = make_coco()
    for one, other in zip(
        everything(module(root), "train").images, everything(module(root, cache="ram"), "train").images, strict=True
    ):
        assert torch.equal(one, other)


def test_masks_are_left_alone_where_none_are_wanted(make_coco: MakeCoco) -> None:
    wanted = content()
    for one in wanted["annotations"]:
        del one["segmentation"]
    data = module(make_coco(wanted), masks=False)
    assert "masks" not in everything(data).targets[0]


def test_nested_files(make_coco: MakeCoco) -> None:
    wanted = content()
    for image in wanted["images"]:
        image["file_name"] = f"part{image['id'] % 4}/{image['file_name']}"
    assert len(everything(module(make_coco(wanted))).images) == 5


def test_test_and_prediction_read_the_validation_images(make_coco: MakeCoco) -> None:
    data = module(make_coco(), "predict")
    assert len(data.sources["predict"]) == 5
    assert data.sources["predict"] is data.sources["test"] is data.sources["val"]


def test_any_folder_can_be_predicted(make_coco: MakeCoco) -> None:
    root = make_coco()
    Image.new("RGB", (9, 7)).save(root / "val2017" / "more.jpg")
    data = module(root, "predict", predict_folder="val2017", scale=0.5)
    source = data.sources["predict"]
    assert isinstance(source, DetectionSource)
    made = everything(data, "predict")
    assert [source.file_name(int(target["image_id"])) for target in made.targets][-1] == "more.jpg"
    assert made.targets[-1]["orig_size"].tolist() == [7, 9]
    assert made.images[-1].shape == (3, 4, 4)
    assert all(len(target["boxes"]) == 0 for target in made.targets)
    assert source.category_ids == [3, 44, 90]


def test_workers_read_the_same(make_coco: MakeCoco) -> None:
    root = make_coco(content(12))
    alone, workers = module(root), module(root, num_workers=2)
    for (images, targets), (others, likes) in zip(alone.train_dataloader(), workers.train_dataloader(), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(images, others, strict=True))
        assert all(torch.equal(one["masks"], other["masks"]) for one, other in zip(targets, likes, strict=True))
    workers.teardown()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.0}, "scale is 0.0"),
        ({"hflip": 2.0}, "hflip is 2.0"),
        ({"color_jitter": -1.0}, "color_jitter is -1.0"),
        ({"test_images": "test2017"}, "test_annotations is not set"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        CocoDetectionDataModule("anywhere", **options)


@pytest.mark.skipif(not BCCD.is_dir(), reason="the blood-cell photographs are not there")
def test_photographs() -> None:
    names = {f"{part}_images": "images" for part in ("train", "val", "test")}
    names |= {f"{part}_annotations": f"instances_{part}.json" for part in ("train", "val", "test")}
    data = CocoDetectionDataModule(BCCD, num_workers=0, scale=0.5, **names)
    data.setup()
    assert data.class_names == ["Platelets", "RBC", "WBC"]
    sources = [data.sources[part] for part in ("train", "val", "test")]
    assert [len(source) for source in sources] == [205, 87, 72]
    assert all(isinstance(source, CocoImages) for source in sources)
    assert sum(len(source.records.objects) for source in sources if isinstance(source, CocoImages)) == 4888
    images, targets = next(iter(data.test_dataloader()))
    assert images[0].shape == (3, 240, 320)
    assert 0.2 < images[0].mean() < 0.9
    for target in targets:
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        assert target["boxes"].max() <= 320
