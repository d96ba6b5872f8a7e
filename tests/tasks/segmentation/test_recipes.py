"""The shipped recipes for ADE20K are those of the paper's Table 2 and of the recipes that it follows."""

from typing import Any

import pytest
import yaml

from acmix.tasks.configs import shipped_configs


def settings(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(shipped_configs()[name].read_text())
    return content


ADE20K = [name for name in shipped_configs() if name.startswith("ade20k_")]


def test_there_is_a_recipe_for_each_row() -> None:
    assert sorted(settings(name)["model"]["init_args"]["model"] for name in ADE20K) == [
        "acmix_pvt_small",
        "acmix_pvt_tiny",
        "acmix_swin_small",
        "acmix_swin_tiny",
    ]


@pytest.mark.parametrize("name", ADE20K)
def test_data_are_ade20ks_in_crops_of_512(name: str) -> None:
    data, model = (settings(name)[part]["init_args"] for part in ("data", "model"))
    assert (data["classes"], data["reduce_zero_label"]) == (150, True)
    augmentation = data["augmentation"]
    assert (augmentation["crop"], augmentation["ratio"], augmentation["short_side"]) == ([512, 512], [0.5, 2.0], 512)
    assert model["inference"] == {"mode": "whole", "short_side": 512, "long_side": 2048}
    assert model["recipe"]["optimizer"] == "adamw"


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_semantic_fpn_on_pvt(size: str) -> None:
    content = settings(f"ade20k_semantic_fpn_pvt_{size}")
    model, recipe = content["model"]["init_args"], content["model"]["init_args"]["recipe"]
    assert (content["trainer"]["max_steps"], 8 * content["data"]["init_args"]["batch_size"]) == (40_000, 32)
    assert (recipe["lr"], recipe["weight_decay"], recipe["schedule"], recipe["power"]) == (2e-4, 1e-4, "poly", 0.9)
    assert "warmup_steps" not in recipe
    decoder = {"kind": "semantic_fpn", "channels": 256, "branch_channels": 128, "dropout": 0.1}
    assert model["decoder"] == decoder


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_upernet_on_swin(size: str) -> None:
    content = settings(f"ade20k_upernet_swin_{size}")
    model, recipe = content["model"]["init_args"], content["model"]["init_args"]["recipe"]
    assert (content["trainer"]["max_steps"], 8 * content["data"]["init_args"]["batch_size"]) == (160_000, 16)
    assert (recipe["lr"], recipe["warmup_steps"], recipe["schedule"], recipe["power"]) == (6e-5, 1500, "poly", 1.0)
    head = {"kind": "upernet", "channels": 512, "dropout": 0.1}
    assert model["decoder"] == {**head, "aux_weight": 0.4, "aux_channels": 256, "aux_level": 2}
    assert model["backbone"] == {"stage_norm": True}
