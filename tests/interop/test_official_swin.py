"""The authors' Swin checkpoints, made here from names and shapes, into the zoo's networks."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import acmix

# Two blocks in a stage: the second one shifts, and the authors' file has its mask.
SMALL = {"depths": (2, 1, 2), "embed_dim": 16, "num_heads": (1, 2, 4), "num_classes": 5, "img_size": 56}
RENAMED = {"alpha": "rate1", "beta": "rate2", "shift.weight": "dep_conv.weight", "shift.bias": "dep_conv.bias"}


def authors_name(name: str) -> str:
    """The name in the authors' code of what is called `name` here."""
    if found := re.match(r"layers\.(\d+)\.downsample\.(.+)", name):
        return f"layers.{int(found[1]) - 1}.downsample.{found[2]}"
    front, mark, last = name.partition(".attn.")
    return f"{front}.attn.{RENAMED.get(last, last)}" if mark else name.replace("head.fc.", "head.")


def authors_state(model: nn.Module, *, buffers: bool = True, bias: float | None = None) -> dict[str, Tensor]:
    """The state of `model` as the authors' code keeps it, every value changed so that a load is seen."""
    state = {authors_name(k): v + 0.1 * torch.rand_like(v) for k, v in model.state_dict().items()}
    for name in [name for name in state if name.endswith("dep_conv.weight")]:
        layer = name.removesuffix(".dep_conv.weight")
        if bias is not None:
            state[f"{layer}.dep_conv.bias"] = torch.full((state[name].shape[0],), bias)
        if buffers:
            state[f"{layer}.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
            state[f"{layer.removesuffix('.attn')}.attn_mask"] = torch.zeros(4, 49, 49)
    return state


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = acmix.create_model("acmix_swin_tiny", **SMALL).eval()
    return network


@pytest.mark.parametrize("buffers", [True, False], ids=["buffers", "no buffers"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 299}], ids=["bare", "model"])
def test_every_tensor_arrives(model: nn.Module, wrap: Callable[[Any], Any], buffers: bool) -> None:
    state = authors_state(model, buffers=buffers)
    assert acmix.load_official(model, wrap(state)) is model
    own = model.state_dict()
    assert [name for name in own if not torch.equal(own[name], state[authors_name(name)])] == []


def test_a_stages_reduction_moves_to_the_next_stage(model: nn.Module) -> None:
    state = authors_state(model)
    assert "layers.0.downsample.reduction.weight" in state
    acmix.load_official(model, state)
    assert torch.equal(model.layers[1].downsample.reduction.weight, state["layers.0.downsample.reduction.weight"])


def test_zero_bias_changes_nothing_and_a_real_one_counts(model: nn.Module) -> None:
    state, x = authors_state(model), torch.randn(1, 3, 56, 56)
    zero, half = (
        state
        | {k.replace("weight", "bias"): torch.full(v.shape[:1], bias) for k, v in state.items() if "dep_conv" in k}
        for bias in (0.0, 0.5)
    )
    plain = acmix.load_official(model, state)(x)
    assert torch.equal(acmix.load_official(acmix.create_model("acmix_swin_tiny", **SMALL).eval(), zero)(x), plain)
    other = acmix.load_official(acmix.create_model("acmix_swin_tiny", **SMALL).eval(), half)(x)
    assert (other - plain).abs().max() > 1e-3


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_a_bias_goes_into_the_output_projection(training: bool) -> None:
    options = SMALL | {"dtype": torch.float64, "drop_path_rate": 0.0}
    plain = acmix.create_model("acmix_swin_tiny", **options).train(training)
    faithful = acmix.create_model("acmix_swin_tiny", **options, acmix={"conv_bias": True}).train(training)
    state, names = authors_state(plain), plain.state_dict().keys()
    weights = [name for name in state if name.endswith("dep_conv.weight")]
    state |= {name.replace("weight", "bias"): torch.randn(len(state[name])).double() for name in weights}
    acmix.load_official(plain, state)
    acmix.load_official(faithful, state)
    assert plain.state_dict().keys() == names
    assert torch.equal(faithful.layers[0].blocks[1].attn.shift.bias, state["layers.0.blocks.1.attn.dep_conv.bias"])
    x = torch.randn(2, 3, 50, 66, dtype=torch.float64)
    torch.testing.assert_close(plain(x), faithful(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_classes": 0}, "left out what this SwinTransformer has no place for: head.weight, head.bias"),
        ({"features_only": True}, r"has no place for: norm\.weight, norm\.bias, head\.weight, head\.bias"),
        ({"features_only": True, "out_indices": (0, 1)}, r"has no place for: layers_2\.\*, norm\.\*, head\.\*"),
    ],
    ids=["no classes", "features", "fewer features"],
)
def test_a_backbone_starts_from_a_classifier(model: nn.Module, options: dict[str, Any], told: str) -> None:
    state = authors_state(model)
    network = acmix.create_model("acmix_swin_tiny", **SMALL | options).eval()
    with pytest.warns(UserWarning, match=told):
        acmix.load_official(network, state)
    x, classifier = torch.randn(2, 3, 56, 56), acmix.load_official(model, state)
    if "features_only" not in options:
        torch.testing.assert_close(network(x), classifier.forward_head(classifier.forward_features(x), pre_logits=True))
        return
    indices = list(options.get("out_indices", range(3)))
    maps = classifier.forward_intermediates(x, indices=indices, intermediates_only=True)
    for ours, theirs in zip(network(x), maps, strict=True):
        torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs)


def test_a_misfit_is_listed_and_nothing_is_loaded(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = authors_state(model)
    state["absolute_pos_embed"] = torch.zeros(1, 196, 16)
    state["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(529, 1)
    del state["layers.1.downsample.norm.bias"]
    with pytest.raises(acmix.UserError) as caught:
        acmix.load_official(model, state)
    assert "1 missing: layers.2.downsample.norm.bias" in str(caught.value)
    assert "1 foreign: absolute_pos_embed" in str(caught.value)
    assert "relative_position_bias_table (529, 1), expected (169, 1)" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_size_of_the_network_is_refused(model: nn.Module) -> None:
    deeper = acmix.create_model("acmix_swin_tiny", **{**SMALL, "depths": (2, 1, 4)})
    with pytest.raises(acmix.UserError, match=r"does not fit this SwinTransformer, nothing was loaded: 36 missing"):
        acmix.load_official(deeper, authors_state(model))


def test_a_checkpoint_of_the_original_swin_goes_into_timms() -> None:
    network = timm.create_model("swin_tiny_patch4_window7_224", **SMALL)
    state = {authors_name(name): value + 0.1 * torch.rand_like(value) for name, value in network.state_dict().items()}
    acmix.load_official(network, state | {"layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)})
    own = network.state_dict()
    assert [name for name in own if not torch.equal(own[name], state[authors_name(name)])] == []


def test_a_state_of_our_own_loads_too(model: nn.Module) -> None:
    state = {name: value + 1 for name, value in model.state_dict().items()}
    acmix.load_official(model, state)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])] == []
