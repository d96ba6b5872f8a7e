"""Names of the zoo."""

import subprocess
import sys

import pytest

from acmix import UserError, create_model, list_models


def test_the_documented_names_are_there() -> None:
    assert {f"{family}_resnet{depth}" for family in ("acmix", "attn", "conv") for depth in (26, 38, 50)} <= set(
        list_models()
    )


def test_names_are_sorted_and_ours_alone() -> None:
    names = list_models()
    assert names == sorted(set(names))
    assert "resnet50" not in names


def test_the_callers_list_is_its_own() -> None:
    list_models().clear()
    assert list_models() != []


def test_timms_names_work_too() -> None:
    assert type(create_model("resnet10t", num_classes=3)).__name__ == "ResNet"


@pytest.mark.parametrize(
    ("wrong", "offered"),
    [("acmix_resnet27", "acmix_resnet26"), ("acmixresnet50", "acmix_resnet50"), ("resnet51", "resnet50")],
)
def test_an_unknown_name_offers_the_nearest(wrong: str, offered: str) -> None:
    with pytest.raises(UserError, match=f"unknown model '{wrong}'.*{offered}") as caught:
        create_model(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["", "zzzzqqqq", ":", "hf-hub", "hf-hub:", "a:b", "C:/weights"])
def test_a_hopeless_name_says_where_the_names_are(wrong: str) -> None:
    with pytest.raises(UserError, match="unknown model"):
        create_model(wrong)


def test_importing_the_zoo_registers_its_names_with_timm() -> None:
    program = "import timm, acmix.models; n = timm.create_model('acmix_resnet14'); print(type(n).__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["acmix.models.resnet"]
