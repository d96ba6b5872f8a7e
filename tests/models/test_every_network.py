"""Every registered name, whole but without memory, and small but with numbers; the suites ask one of a family more."""

import io
from functools import cache
from typing import Any

import pytest
import torch
from timm.optim import param_groups_layer_decay

from acmix import create_model, list_models
from network_suite import SHALLOW, awake, images

NAMES = list_models()


@cache
def whole(name: str) -> Any:
    """The network as it is registered, on the meta device."""
    return create_model(name, device="meta").eval()


def small(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    family = next(family for family in SHALLOW if family in name)
    narrow = {"channels": (8, 8, 16, 16)} if family == "resnet" else {}
    return create_model(name, **SHALLOW[family], **narrow, **options)


def names_of(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def test_there_are_small_networks_of_every_family() -> None:
    assert [name for name in NAMES if not any(family in name for family in SHALLOW)] == []


@pytest.mark.parametrize("name", NAMES)
def test_features_are_as_announced_and_give_logits(name: str) -> None:
    network = whole(name)
    last, features = network.forward_intermediates(torch.empty(1, 3, 97, 130, device="meta"))
    channels, reductions = zip(*((info["num_chs"], info["reduction"]) for info in network.feature_info), strict=True)
    assert [feature.shape[1] for feature in features] == list(channels)
    assert [tuple(feature.shape[2:]) for feature in features] == [(-(-97 // by), -(-130 // by)) for by in reductions]
    assert network.forward_head(last).shape == (1, 1000)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_names_the_first_layer_and_the_last(name: str) -> None:
    network = whole(name)
    shapes, config = names_of(network), network.pretrained_cfg
    assert config["architecture"] == name
    assert shapes[f"{config['first_conv']}.weight"][1] == config["input_size"][0] == 3
    assert shapes[f"{config['classifier']}.weight"][0] == config["num_classes"] == 1000


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_grouped_for_the_optimizer(name: str) -> None:
    network = whole(name)
    rates = {key for key in names_of(network) if key.endswith((".alpha", ".beta"))}
    assert rates <= network.no_weight_decay() <= names_of(network).keys()
    assert bool(rates) == name.startswith(("acmix_", "attn_"))
    groups = param_groups_layer_decay(network, layer_decay=0.5, weight_decay=0.05)
    assert sum(len(group["params"]) for group in groups) == len(names_of(network))
    assert len({group["lr_scale"] for group in groups}) > len(network.feature_info)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    network = small(name, num_classes=3)
    network(images(2)).square().sum().backward()
    assert [
        name for name, value in network.named_parameters() if value.grad is None or not value.grad.isfinite().all()
    ] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_goes_through_a_file(name: str) -> None:
    network, other, file = awake(small(name, num_classes=3)).eval(), small(name, num_classes=3).eval(), io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    with torch.no_grad():
        out, again = network(images(1)), other(images(1))
    assert out.isfinite().all()
    assert out.any()
    assert torch.equal(out, again)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_full_depth(name: str) -> None:
    network: Any = create_model(name)
    out = network(images(2, 3, 224, 224))
    out.square().mean().backward()
    assert out.shape == (2, 1000)
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert out.isfinite().all()
