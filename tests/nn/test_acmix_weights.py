"""State dicts: the layer's own and the authors', strictly."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix import ACmix
from layer_comparison import randn, scrambled, twin

# Written out again, not imported: the names of the authors' code and what each is here.
AUTHORS = {
    "rate1": "alpha",
    "rate2": "beta",
    "conv1.weight": "query.weight",
    "conv1.bias": "query.bias",
    "conv2.weight": "key.weight",
    "conv2.bias": "key.bias",
    "conv3.weight": "value.weight",
    "conv3.bias": "value.bias",
    "conv_p.weight": "position.weight",
    "conv_p.bias": "position.bias",
    "fc.weight": "fc.weight",
    "dep_conv.weight": "shift.weight",
}


def authors_state(layer: ACmix, prefix: str = "") -> dict[str, Tensor]:
    own = layer.state_dict()
    return {prefix + theirs: own[ours].clone() for theirs, ours in AUTHORS.items()}


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"kernel_att": 3, "num_heads": 2}], ids=["T18-s1", "T18-s2", "T18-k3"]
)
def test_the_authors_state_dict_loads_strictly(options: dict[str, Any]) -> None:
    source, layer, x = scrambled(16, 16, **options), ACmix(16, 16, dtype=torch.float64, **options), randn(2, 16, 14, 14)
    loaded = layer.load_state_dict(authors_state(source), strict=True)
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    assert torch.equal(layer(x), source(x))
    torch.testing.assert_close(layer(x), twin(source)(x), rtol=1e-11, atol=1e-11)


def test_T18_the_authors_state_dict_loads_inside_a_network() -> None:
    source, network = scrambled(8, 8), nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(ACmix(8, 8))).double()
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("1.0.")}
    network.load_state_dict(state | authors_state(source, "1.0."), strict=True)
    assert torch.equal(network[1][0].shift.weight, source.shift.weight)


@pytest.mark.parametrize("assign", [False, True])
def test_T18_a_zero_bias_of_dep_conv_is_no_bias(assign: bool) -> None:
    source, layer = scrambled(16, 16), ACmix(16, 16, dtype=torch.float64)
    state = authors_state(source) | {"dep_conv.bias": torch.zeros(16, dtype=torch.float64)}
    layer.load_state_dict(state, strict=True, assign=assign)
    x = randn(1, 16, 9, 9)
    assert torch.equal(layer(x), source(x))
    assert layer.state_dict().keys() == source.state_dict().keys()


def test_T18_a_bias_of_dep_conv_that_is_not_zero_is_kept() -> None:
    source, layer, x = scrambled(16, 16), ACmix(16, 16, dtype=torch.float64), randn(1, 16, 9, 9)
    bias = randn(16, seed=3)
    layer.load_state_dict(authors_state(source) | {"dep_conv.bias": bias}, strict=True)
    expected = source(x) + source.beta * bias[:, None, None]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert "shift.bias" in dict(layer.named_parameters())


@pytest.mark.parametrize("bias", [None, 0.0, 0.7], ids=["T18-missing", "T18-zero", "T18-nonzero"])
def test_a_layer_with_a_convolution_bias_reads_every_kind_of_file(bias: float | None) -> None:
    source, layer = scrambled(16, 16), scrambled(16, 16, conv_bias=True, seed=5)
    state = authors_state(source)
    if bias is not None:
        state["dep_conv.bias"] = torch.full((16,), bias, dtype=torch.float64)
    layer.load_state_dict(state, strict=True)
    assert torch.equal(layer.state_dict()["shift.bias"], torch.full((16,), bias or 0.0, dtype=torch.float64))


@pytest.mark.parametrize("where", ["meta", "assign"])
def test_T18_a_bias_of_dep_conv_reaches_a_layer_without_memory(where: str) -> None:
    source, bias = scrambled(16, 16), randn(16, seed=3)
    layer = ACmix(16, 16, device="meta", dtype=torch.float64)
    state = authors_state(source) | {"dep_conv.bias": bias}
    if where == "meta":
        layer = layer.to_empty(device="cpu")
    layer.load_state_dict(state, strict=True, assign=where == "assign")
    x = randn(1, 16, 9, 9)
    torch.testing.assert_close(layer(x), source(x) + source.beta * bias[:, None, None], rtol=1e-12, atol=1e-12)


def test_T18_a_bias_of_dep_conv_of_another_size_is_an_error() -> None:
    state = authors_state(scrambled(16, 16)) | {"dep_conv.bias": torch.ones(3)}
    with pytest.raises(RuntimeError, match=r"size mismatch for shift\.bias"):
        ACmix(16, 16).load_state_dict(state, strict=True)


def test_T18_a_layer_without_memory_gets_the_bias_that_the_file_lacks() -> None:
    source, layer = scrambled(16, 16), ACmix(16, 16, conv_bias=True, device="meta", dtype=torch.float64)
    layer.load_state_dict(authors_state(source), strict=True, assign=True)
    x = randn(1, 16, 9, 9)
    assert torch.equal(layer(x), source(x))


def test_T18_a_state_dict_without_memory_loads() -> None:
    state = authors_state(ACmix(16, 16, device="meta")) | {"dep_conv.bias": torch.empty(16, device="meta")}
    layer = ACmix(16, 16)
    layer.load_state_dict(state, strict=True, assign=True)
    assert all(parameter.is_meta for parameter in layer.parameters())


def test_both_names_of_one_parameter_are_an_error() -> None:
    source = scrambled(16, 16)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*conv1\.weight"):
        ACmix(16, 16).load_state_dict(authors_state(source) | {"query.weight": source.query.weight}, strict=True)


def test_T18_the_callers_dictionary_is_left_as_it_was() -> None:
    state = authors_state(scrambled(16, 16)) | {"dep_conv.bias": torch.zeros(16)}
    before = dict(state)
    for layer in (ACmix(16, 16), nn.Sequential(ACmix(16, 16))):
        prefixed = {f"{'0.' if isinstance(layer, nn.Sequential) else ''}{name}": value for name, value in state.items()}
        untouched = dict(prefixed)
        layer.load_state_dict(prefixed)
        assert prefixed.keys() == untouched.keys()
    assert state.keys() == before.keys()


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("paths", ["both", "attention", "convolution"])
def test_the_layers_own_state_dict_round_trip(paths: str, conv_bias: bool) -> None:
    options: dict[str, Any] = {"paths": paths, "conv_bias": conv_bias}
    source, layer = scrambled(16, 16, **options), ACmix(16, 16, dtype=torch.float64, **options)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    layer.load_state_dict(torch.load(file, weights_only=True), strict=True)
    x = randn(1, 16, 9, 9)
    assert torch.equal(layer(x), source(x))


@pytest.mark.parametrize("removed", ["conv2.weight", "rate1", "rate2", "dep_conv.weight", "conv_p.bias"])
def test_a_missing_key_of_the_authors_is_still_an_error(removed: str) -> None:
    state = authors_state(scrambled(16, 16))
    del state[removed]
    with pytest.raises(RuntimeError, match=AUTHORS[removed]):
        ACmix(16, 16).load_state_dict(state, strict=True)


def test_an_unexpected_key_is_still_an_error() -> None:
    state = authors_state(scrambled(16, 16)) | {"conv9.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match="conv9"):
        ACmix(16, 16).load_state_dict(state, strict=True)


def test_another_shape_is_still_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"query\.weight"):
        ACmix(32, 32).load_state_dict(authors_state(scrambled(16, 16)), strict=True)


def test_T18_a_shared_dictionary_serves_two_layers() -> None:
    source, state = scrambled(16, 16), authors_state(scrambled(16, 16))
    first, second = (ACmix(16, 16, dtype=torch.float64) for _ in range(2))
    first.load_state_dict(state)
    second.load_state_dict(copy.copy(state))
    x = randn(1, 16, 9, 9)
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), source(x))
