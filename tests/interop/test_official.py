"""The authors' ResNet checkpoints, made here from names and shapes, into the zoo's networks."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import acmix
from acmix.interop import MisfitError
from acmix.nn.authors_keys import AUTHORS_KEYS

SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "num_classes": 5}
THEIRS = {ours: theirs for theirs, ours in AUTHORS_KEYS.items()}


def authors_state(model: torch.nn.Module, *, bias: float | None = None) -> dict[str, torch.Tensor]:
    """The state of `model` under the authors' names, every value changed so that a load is seen."""
    state = {}
    for name, value in model.state_dict().items():
        head, dot, tail = name.partition(".conv2.")
        key = f"{head}.conv2.{THEIRS[tail]}" if dot and tail in THEIRS else name
        state[key] = value + 0.1 * torch.rand_like(value) if value.is_floating_point() else value + 3
        if bias is not None and tail == "shift.weight":
            state[f"{head}.conv2.dep_conv.bias"] = torch.full((value.shape[0],), bias)
    return state


@pytest.fixture
def model() -> torch.nn.Module:
    return acmix.create_model("acmix_resnet26", **SMALL).eval()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
    ],
    ids=["bare", "model", "state_dict+module"],
)
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "mapping"])
def test_every_tensor_arrives(
    model: torch.nn.Module, wrap: Callable[[Any], Any], as_file: bool, tmp_path: Path
) -> None:
    state = authors_state(model)
    source = wrap(state)
    if as_file:
        torch.save(source, tmp_path / "official.pth")
        source = tmp_path / "official.pth"
    assert acmix.load_official(model, source) is model
    for name, value in model.state_dict().items():
        head, dot, tail = name.partition(".conv2.")
        key = f"{head}.conv2.{THEIRS[tail]}" if dot and tail in THEIRS else name
        assert torch.equal(value, state[key]), name


def test_zero_bias_changes_nothing_and_a_real_one_counts(model: torch.nn.Module) -> None:
    state = authors_state(model)
    x = torch.randn(2, 3, 32, 32)
    plain = acmix.load_official(model, state)(x)
    zero = {
        **state,
        **{
            k.replace("dep_conv.weight", "dep_conv.bias"): torch.zeros(v.shape[0])
            for k, v in state.items()
            if "dep_conv" in k
        },
    }
    fresh = acmix.create_model("acmix_resnet26", **SMALL).eval()
    assert torch.equal(acmix.load_official(fresh, zero)(x), plain)
    one = {k: v + 1 if k.endswith("dep_conv.bias") else v for k, v in zero.items()}
    fresh = acmix.create_model("acmix_resnet26", **SMALL).eval()
    assert not torch.allclose(acmix.load_official(fresh, one)(x), plain)


def with_bias(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of a fork whose `dep_conv` has a bias."""
    names = [name for name in state if name.endswith("dep_conv.weight")]
    return state | {name.replace("weight", "bias"): torch.randn(len(state[name])).double() for name in names}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_a_bias_goes_into_the_norm_behind_the_layer(training: bool) -> None:
    options = SMALL | {"dtype": torch.float64}
    plain = acmix.create_model("acmix_resnet26", **options).train(training)
    faithful = acmix.create_model("acmix_resnet26", **options, acmix={"conv_bias": True}).train(training)
    state = with_bias(authors_state(plain))
    names = plain.state_dict().keys()
    acmix.load_official(plain, state)
    acmix.load_official(faithful, state)
    assert plain.state_dict().keys() == names
    assert torch.equal(faithful.layer1[0].conv2.shift.bias, state["layer1.0.conv2.dep_conv.bias"])
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(plain(x), faithful(x), rtol=1e-10, atol=1e-10)


def test_a_norm_before_the_layer_is_left_alone() -> None:
    block = torch.nn.Sequential()
    block.add_module("bn2", torch.nn.BatchNorm2d(8))
    block.add_module("conv2", acmix.ACmix(8, 8))
    state = {f"conv2.{THEIRS[name]}": value for name, value in block.conv2.state_dict().items()}
    state |= {f"bn2.{name}": value for name, value in block.bn2.state_dict().items()}
    acmix.load_official(block, state | {"conv2.dep_conv.bias": torch.arange(8.0)})
    assert torch.equal(block.conv2.shift.bias, torch.arange(8.0))
    assert not block.bn2.running_mean.any()


def test_a_layer_by_itself_gets_the_bias_as_a_parameter() -> None:
    layer = torch.nn.Sequential(acmix.ACmix(8, 8))
    state = {f"0.{THEIRS[name]}": value for name, value in layer[0].state_dict().items()}
    acmix.load_official(layer, state | {"0.dep_conv.bias": torch.arange(8.0)})
    assert torch.equal(layer[0].shift.bias, torch.arange(8.0))


def test_counters_may_be_absent(model: torch.nn.Module) -> None:
    state = {k: v for k, v in authors_state(model).items() if not k.endswith("num_batches_tracked")}
    acmix.load_official(model, state)
    assert torch.equal(model.bn1.running_mean, state["bn1.running_mean"])


def test_a_misfit_is_listed_and_nothing_is_loaded(model: torch.nn.Module) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = authors_state(model)
    state["fc.weight"] = torch.zeros(7, 64)
    del state["bn1.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(acmix.UserError) as caught:
        acmix.load_official(model, state)
    message = str(caught.value)
    assert "1 missing: bn1.weight" in message
    assert "1 foreign: extra.weight" in message
    assert "fc.weight (7, 64), expected (5, 64)" in message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_long_list_names_whole_parts_and_the_error_has_all(model: torch.nn.Module) -> None:
    state = {k: v for k, v in authors_state(model).items() if not k.startswith("layer3.")}
    del state["bn1.bias"]
    with pytest.raises(MisfitError, match=r"\d\d missing: bn1\.bias, layer3\.\*$") as caught:
        acmix.load_official(model, state)
    names = [name for name in model.state_dict() if name.startswith(("layer3.", "bn1.bias"))]
    assert list(caught.value.misfits.missing) == [name for name in names if not name.endswith("num_batches_tracked")]


def test_a_list_that_is_cut_says_how_much_more_there_is(model: torch.nn.Module) -> None:
    wider = acmix.create_model("acmix_resnet26", **SMALL | {"channels": (16, 16, 32, 32)})
    told = r"\d+ of another shape: .* and \d+ more \(the error's `misfits` names all\)$"
    with pytest.raises(MisfitError, match=told) as caught:
        acmix.load_official(wider, authors_state(model))
    assert ("layer4.0.bn1.weight", (16,), (32,)) in caught.value.misfits.reshaped


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_classes": 0}, "left out what this ResNet has no place for: fc.weight, fc.bias"),
        ({"features_only": True}, "left out what this FeatureListNet has no place for: fc.weight, fc.bias"),
        ({"features_only": True, "feature_cls": "getter"}, "FeatureGetterNet has no place for: fc.weight, fc.bias"),
        ({"features_only": True, "out_indices": (1, 3)}, r"has no place for: layer4\.\*, fc\.\*"),
    ],
    ids=["no classes", "features", "getter", "fewer features"],
)
def test_a_backbone_starts_from_a_classifier(model: torch.nn.Module, options: dict[str, Any], told: str) -> None:
    state = authors_state(model)
    network = acmix.create_model("acmix_resnet26", **SMALL | options).eval()
    with pytest.warns(UserWarning, match=told):
        acmix.load_official(network, state)
    x, classifier = torch.randn(2, 3, 64, 64), acmix.load_official(model, state)
    if "features_only" not in options:
        torch.testing.assert_close(network(x), classifier.forward_head(classifier.forward_features(x), pre_logits=True))
        return
    maps = classifier.forward_intermediates(x, indices=list(options.get("out_indices", range(5))))[1]
    for ours, theirs in zip(network(x), maps, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_backbone_still_refuses_what_is_foreign(model: torch.nn.Module) -> None:
    network = acmix.create_model("acmix_resnet26", **SMALL | {"num_classes": 0})
    with pytest.raises(acmix.UserError, match=r"nothing was loaded: 1 foreign: extra\.weight$"):
        acmix.load_official(network, authors_state(model) | {"extra.weight": torch.zeros(1)})


class Foreign:
    """Something that only unpickling could make."""


def test_a_pickle_is_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": Foreign()}, path, pickle_module=pickle)
    with pytest.raises(acmix.UserError, match="refused"):
        acmix.load_official(model, path)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"layer1.0.conv2.dep_conv.bias": torch.ones(3)}, r"layer1\.0\.conv2\.shift\.bias \(3,\), expected \(8,\)"),
        ({"layer9.0.shift.bias": torch.ones(3)}, r"1 foreign: layer9\.0\.shift\.bias"),
    ],
    ids=["of another size", "of no layer"],
)
def test_a_bias_that_fits_nowhere_is_a_misfit(
    extra: dict[str, torch.Tensor], told: str, model: torch.nn.Module
) -> None:
    with pytest.raises(acmix.UserError, match=told):
        acmix.load_official(model, authors_state(model) | extra)


def test_an_own_bias_that_the_network_lacks_is_a_misfit(model: torch.nn.Module) -> None:
    with pytest.raises(acmix.UserError, match=r"1 foreign: layer1\.0\.conv2\.shift\.bias"):
        acmix.load_official(model, model.state_dict() | {"layer1.0.conv2.shift.bias": torch.ones(8)})


def test_what_is_neither_path_nor_state_dict_is_named(model: torch.nn.Module) -> None:
    with pytest.raises(TypeError, match="path_or_state_dict is a list, expected a path or a state dict"):
        acmix.load_official(model, [1])  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_named(share: float, model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    torch.save(authors_state(model), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(acmix.UserError, match=r"half\.pt is a broken checkpoint \(cut off or changed\)"):
        acmix.load_official(model, path)
