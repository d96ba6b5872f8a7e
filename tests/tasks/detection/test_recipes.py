"""The configurations of the paper's Tables 3 and 4 hold its recipes."""

from typing import Any

import pytest
import yaml

from acmix.tasks.configs import shipped_configs
from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.detection.check_settings import check_settings
from acmix.tasks.detection.settings import DetectorSettings
from acmix.tasks.nested_settings import settings_of
from acmix.tasks.recipe import Recipe

COCO = {name: path for name, path in shipped_configs().items() if name.startswith("coco_")}


@pytest.fixture(params=COCO)
def config(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, yaml.safe_load(COCO[request.param].read_text(encoding="utf-8"))


def test_there_is_one_for_each_detector_family_and_schedule() -> None:
    assert set(COCO) == {
        "coco_retinanet_resnet_1x",
        "coco_retinanet_san_1x",
        "coco_retinanet_pvt_1x",
        "coco_retinanet_pvt_3x",
        "coco_mask_rcnn_swin_3x",
        "coco_cascade_mask_rcnn_swin_3x",
    }


def test_schedules_are_1x_and_3x_on_images_of_800_by_1333(config: tuple[str, dict[str, Any]]) -> None:
    name, content = config
    settings, data, trainer = content["model"]["init_args"], content["data"]["init_args"], content["trainer"]
    recipe, detector = Recipe(**settings["recipe"]), settings_of(DetectorSettings, settings["detector"])
    check_settings(detector, 80, 3)
    thrice = name.endswith("3x")
    assert trainer["max_epochs"] == (36 if thrice else 12)
    assert (recipe.schedule, list(recipe.milestones)) == ("multistep", [27, 33] if thrice else [8, 11])
    assert recipe.decay_rate == 0.1
    # Of 8 devices, as in the paper.
    assert 8 * data["batch_size"] == 16
    assert (max(detector.images.min_size), detector.images.max_size) == (800, 1333)
    assert (len(detector.images.min_size) > 1) == thrice
    assert detector.has_masks == data.get("masks", False)


def test_optimizers_are_the_families(config: tuple[str, dict[str, Any]]) -> None:
    name, content = config
    settings = content["model"]["init_args"]
    recipe = Recipe(**settings["recipe"])
    backbone = settings_of(BackboneSettings, settings.get("backbone") or {})
    if "resnet" in name or "san" in name:
        assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.warmup_steps) == ("momentum", 0.01, 0.9, 500)
        assert (backbone.frozen_stages, backbone.frozen_norm) == (1, True)
    else:
        assert (recipe.optimizer, recipe.lr) == ("adamw", 1e-4)
    assert backbone.stage_norm == ("swin" in name)


def test_cascades_have_the_published_heads() -> None:
    content = yaml.safe_load(COCO["coco_cascade_mask_rcnn_swin_3x"].read_text(encoding="utf-8"))
    detector = settings_of(DetectorSettings, content["model"]["init_args"]["detector"])
    assert detector.cascade.ious == (0.5, 0.6, 0.7)
    assert detector.cascade.loss_weights == (1.0, 0.5, 0.25)
    weights = (10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)
    assert detector.cascade.box_weights == weights
    assert (detector.heads.box_head, detector.heads.class_agnostic) == ("4conv1fc", True)
