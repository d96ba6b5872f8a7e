"""Networks of all families as backbones: maps, what is frozen, where their weights come from."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn

from acmix import create_model
from acmix.analysis.trained import load_trained
from acmix.errors import UserError
from acmix.tasks.configs import shipped_configs
from acmix.tasks.dense.backbone import Backbone, BackboneSettings, load_backbone
from acmix.tasks.dense.weights import load_start
from acmix.tasks.detection.detector import build_detector
from acmix.tasks.detection.settings import DetectorSettings
from acmix.tasks.recipe import Recipe, build_optimizer
from acmix.tasks.segmentation.decoder import DecoderSettings
from acmix.tasks.segmentation.network import build_segmenter
from network_suite import SHALLOW, awake, images

# SAN's first stage is at half the image's size, so it takes five for four maps.
FAMILIES: dict[str, dict[str, Any]] = {
    "acmix_resnet26": SHALLOW["resnet"],
    "conv_resnet26": SHALLOW["resnet"],
    "resnet18": {},
    "acmix_san10": {"layers": (1, 1, 1, 1, 0)},
    "acmix_pvt_tiny": SHALLOW["pvt"],
    "acmix_swin_tiny": SHALLOW["swin"],
}
SMALL = BackboneSettings(model_args={"stem": "small", "channels": (8, 8, 16, 16)})


def made(name: str, **settings: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, 3, BackboneSettings(model_args=dict(FAMILIES[name]), **settings))


def frozen(backbone: Backbone) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("stage_norm", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_four_maps_are_those_of_4_to_32(name: str, stage_norm: bool) -> None:
    backbone = made(name, stage_norm=stage_norm).eval()
    assert backbone.reductions == [4, 8, 16, 32]
    with torch.no_grad():
        maps = backbone(images(2, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [
        (2, width, 64 // reduction, 96 // reduction)
        for width, reduction in zip(backbone.channels, backbone.reductions, strict=True)
    ]
    if stage_norm:
        for each in maps:
            torch.testing.assert_close(each.mean(dim=1), torch.zeros_like(each[:, 0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_freezing_goes_stage_by_stage(name: str) -> None:
    counts = [len(frozen(made(name, frozen_stages=stages))) for stages in range(-1, 5)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert len(set(counts[2:])) == 4
    backbone = made(name, frozen_stages=2)
    maps = backbone.train()(images(2, 3, 64, 64))
    assert [each.requires_grad for each in maps] == [False, False, True, True]


@pytest.mark.parametrize("name", ["acmix_resnet26", "acmix_san10", "acmix_pvt_tiny", "acmix_swin_tiny"])
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_the_levels_that_are_used_do_not_change_which_stages_are_frozen(name: str, stages: int) -> None:
    all_levels = made(name, frozen_stages=stages)
    last = tuple(all_levels.body.feature_info.out_indices)[-2:]
    few = made(name, frozen_stages=stages, levels=last)
    assert frozen(few) == {each for each in frozen(all_levels) if each in dict(few.named_parameters())}


@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn", "semantic_fpn"])
@pytest.mark.parametrize(
    ("name", "wanted"), [("acmix_swin_tiny", "relative_position_bias_table"), ("acmix_pvt_tiny", "pos_embed")]
)
def test_what_the_network_wants_without_weight_decay_has_none_within_others(name: str, wanted: str, kind: str) -> None:
    settings = BackboneSettings(model_args=dict(FAMILIES[name]))
    with torch.device("meta"):
        whole: nn.Module
        if kind == "semantic_fpn":
            whole = build_segmenter(name, 3, 3, settings, DecoderSettings(channels=8, branch_channels=32))
        else:
            whole = build_detector(name, 3, 3, settings, DetectorSettings(kind=kind))
    optimizer = build_optimizer(whole, Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.05))
    decayed = {id(each) for group in optimizer.param_groups if group["weight_decay"] for each in group["params"]}
    named = dict(whole.named_parameters())
    tables = [key for key in named if wanted in key]
    assert tables
    assert not [key for key in tables if id(named[key]) in decayed]
    assert decayed


@pytest.mark.parametrize("levels", [(), (9,), (3, 2), (-1,), (2, 2)])
def test_levels_that_there_are_not_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"acmix_resnet26: backbone.levels is .* give some of 0 to 4, in rising order"):
        made("acmix_resnet26", levels=levels)


def test_every_second_block_of_swin_shifts_its_windows_on_large_images() -> None:
    for config in ("coco_mask_rcnn_swin_3x", "ade20k_upernet_swin_tiny"):
        arguments = yaml.safe_load(shipped_configs()[config].read_text())["model"]["init_args"]["model_args"]
        for name in ("acmix_swin_tiny", "swin_tiny_patch4_window7_224"):
            more = {} if name.startswith("acmix") else {"strict_img_size": False}
            with torch.device("meta"):
                backbone = Backbone(name, 3, BackboneSettings(model_args={**arguments, **more}))
            shifts = [tuple(each.shift_size) for each in backbone.modules() if isinstance(each, SwinTransformerBlock)]
            assert set(shifts[1::2]) == {(3, 3)}, (config, name)


def test_frozen_stages_are_in_evaluation_mode() -> None:
    backbone = made("acmix_resnet26", frozen_stages=1).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items() if "running" in name}
    backbone(images(4))
    moved = {
        name for name, value in backbone.state_dict().items() if "running" in name and not value.equal(before[name])
    }
    assert moved
    assert all(name.startswith(("body.layer2", "body.layer3", "body.layer4")) for name in moved)


@pytest.mark.parametrize("name", ["acmix_resnet26", "acmix_san10"])
def test_frozen_norms_keep_everything(name: str) -> None:
    backbone = made(name, frozen_norm=True).train()
    norms = {key for key, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert frozen(backbone) == {f"{key}.{part}" for key in norms for part in ("weight", "bias")}
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(images(4)).pop().sum().backward()
    assert all(value.equal(before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("stages", [-2, 5])
def test_stages_that_there_are_not_are_refused(stages: int) -> None:
    with pytest.raises(
        UserError, match=rf"acmix_resnet26: frozen_stages is {stages}: give -1 \(none\), 0 \(the stem\)"
    ):
        made("acmix_resnet26", frozen_stages=stages)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_classifier_of_other_classes_starts_it(name: str, tmp_path: Path) -> None:
    classifier = awake(create_model(name, num_classes=7, **FAMILIES[name])).eval()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    backbone = made(name).eval()
    assert str(tmp_path) in load_backbone(backbone, name, tmp_path / "classifier.pt", 3)
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        own = create_model(name, features_only=True, **FAMILIES[name]).eval()
        assert own.load_state_dict(backbone.body.state_dict(), strict=False).unexpected_keys == []
        last = classifier.forward_intermediates(x, norm=False, intermediates_only=True)[-1]
        torch.testing.assert_close(backbone(x)[-1], last)


def test_another_network_s_weights_are_refused(tmp_path: Path) -> None:
    torch.save(create_model("conv_resnet14", **SMALL.model_args).state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match="holds the weights of another network"):
        load_backbone(Backbone("acmix_resnet14", 3, SMALL), "acmix_resnet14", tmp_path / "other.pt", 3)


class _Whole(nn.Module):
    """A network with a backbone and a layer for each class."""

    def __init__(self, classes: int, settings: BackboneSettings = SMALL) -> None:
        super().__init__()
        self.backbone = Backbone("acmix_resnet14", 3, settings)
        self.head = nn.Linear(4, classes)


def test_a_whole_network_starts_another_one_but_for_its_classes(tmp_path: Path) -> None:
    stored = _Whole(3)
    torch.save(stored.state_dict(), tmp_path / "whole.pt")
    for classes, told in ((3, r"whole\.pt$"), (5, "new are head$")):
        network = _Whole(classes)
        fresh = network.head.weight.clone()
        said = load_start(network, "acmix_resnet14", tmp_path / "whole.pt", 3)
        assert re.search(told, said)
        assert network.head.weight.equal(stored.head.weight if classes == 3 else fresh)
        for name, value in network.backbone.state_dict().items():
            assert value.equal(stored.backbone.state_dict()[name])
    wider = replace(SMALL, model_args={**SMALL.model_args, "channels": (8, 8, 16, 32)})
    with pytest.raises(UserError, match="holds the weights of another network"):
        load_start(_Whole(3, wider), "acmix_resnet14", tmp_path / "whole.pt", 3)


def test_the_network_within_can_be_looked_into(tmp_path: Path) -> None:
    whole = _Whole(3)
    settings = {"model": "acmix_resnet14", "num_classes": 3, "in_chans": 3, "model_args": SMALL.model_args}
    state = {f"model.{name}": value for name, value in whole.state_dict().items()}
    content = {"pytorch-lightning_version": "2.6.6", "state_dict": state, "hyper_parameters": settings}
    torch.save(content, tmp_path / "run.ckpt")
    trained = load_trained(tmp_path / "run.ckpt")
    for name, value in whole.backbone.body.state_dict().items():
        assert trained.model.state_dict()[name].equal(value)
