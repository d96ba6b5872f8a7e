"""Memory formats, views, empty batches, single images, meta and fake tensors, copies."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from acmix import ACmix
from layer_comparison import assert_same_results, randn, results, scrambled, worst_difference

SINGLE = torch.float32


def like_a_convolution(x: Tensor, stride: int) -> Tensor:
    return nn.Conv2d(16, 16, 3, stride, 1, dtype=x.dtype)(x)


def layout(x: Tensor) -> tuple[int, ...]:
    """Strides of the axes that have more than one entry: torch gives the others any number."""
    return tuple(stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1)


@pytest.mark.parametrize("paths", ["both", "attention", "convolution"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 4], ids=lambda batch: f"T10-b{batch}")
def test_output_lies_as_a_convolutions_output_does(batch: int, stride: int, paths: str) -> None:
    layer, following = ACmix(16, 16, stride=stride, paths=paths), nn.Conv2d(16, 8, 3)  # type: ignore[arg-type]  # a word
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = randn(batch, 16, 19, 17, dtype=SINGLE).to(memory_format=memory_format)
        ours, theirs = layer(x), like_a_convolution(x, stride)
        assert layout(ours) == layout(theirs), memory_format
        assert ours.is_contiguous(memory_format=memory_format)
        assert layout(following(ours)) == layout(following(theirs)), memory_format


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)], ids=lambda size: f"T10-{size[0]}x{size[1]}")
def test_layout_of_the_smallest_maps(size: tuple[int, int]) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = randn(2, 16, *size, dtype=SINGLE).to(memory_format=memory_format)
        assert ACmix(16, 16)(x).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("batch", [1, 2, 4], ids=lambda batch: f"T10-b{batch}")
def test_channels_last_computes_the_same(batch: int) -> None:
    layer, x = scrambled(16, 16), randn(batch, 16, 9, 7)
    ours = results(layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))
    difference, name = worst_difference(ours, results(layer, x))
    assert difference <= 1e-12, name


def _slice(x: Tensor) -> Tensor:
    wide = torch.zeros(2 * x.shape[0], 2 * x.shape[1], x.shape[2] + 3, 2 * x.shape[3], dtype=x.dtype)
    view = wide[::2, ::2, 2:-1, ::2]
    view.copy_(x)
    return view


VIEWS = {
    "sliced": _slice,
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "channels-first-of-last": lambda x: x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
    "expanded-batch": lambda x: x[:1].expand_as(x),
    "expanded-channels": lambda x: x[:, :1].expand_as(x),
    "expanded-map": lambda x: x[:, :, :1, :1].expand_as(x),
    "flipped": lambda x: x.flip(3),
    "offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x),
}


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"T10-{view}")
@pytest.mark.parametrize("stride", [1, 2])
def test_any_view_computes_what_its_copy_computes(view: str, stride: int) -> None:
    layer, x = scrambled(16, 16, stride=stride), VIEWS[view](randn(2, 16, 9, 7))
    difference, name = worst_difference(
        results(layer, x), results(layer, x.clone(memory_format=torch.contiguous_format))
    )
    assert difference <= 1e-12, name


def test_the_input_is_left_as_it_was() -> None:
    x = randn(2, 16, 9, 7)
    before = x.clone()
    results(scrambled(16, 16), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T11-s{stride}")
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(stride: int, impl: str) -> None:
    layer, x = ACmix(16, 16, stride=stride, impl=impl), torch.zeros(0, 16, 9, 7)
    values = results(layer, x)
    assert values["y"].shape == like_a_convolution(x, stride).shape
    assert values["dx"].shape == x.shape
    for name, parameter in layer.named_parameters():
        assert torch.equal(values[f"d.{name}"], torch.zeros_like(parameter)), name


@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T11-s{stride}")
def test_a_single_image_needs_no_batch(stride: int) -> None:
    layer, x = scrambled(16, 16, stride=stride), randn(16, 9, 7)
    assert layer(x).shape == like_a_convolution(x, stride).shape
    assert torch.equal(layer(x), layer(x[None])[0])
    assert_same_results(layer, x)


def test_T11_a_layer_made_on_the_meta_device_starts_as_any_other_once_it_has_memory() -> None:
    with torch.device("meta"):
        layer = ACmix(16, 16, conv_bias=True)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
    layer.to_empty(device="cpu")
    other = ACmix(16, 16, conv_bias=True)
    for module in (layer, other):
        torch.manual_seed(0)
        module.reset_parameters()
    x = randn(1, 16, 9, 7, dtype=SINGLE)
    assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T11-s{stride}")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_shapes_on_the_meta_device(stride: int, memory_format: torch.memory_format) -> None:
    layer = ACmix(16, 16, stride=stride, device="meta")
    x = torch.empty(2, 16, 9, 7, device="meta").to(memory_format=memory_format).requires_grad_()
    out = layer(x)
    out.sum().backward()
    assert out.device.type == "meta"
    assert layout(out) == layout(nn.Conv2d(16, 16, 3, stride, 1, device="meta")(x))
    assert x.grad is not None
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T11-s{stride}")
def test_fake_tensors_know_shape_dtype_and_layout(stride: int) -> None:
    with FakeTensorMode():
        layer = ACmix(16, 16, stride=stride, dtype=torch.bfloat16)
        x = torch.empty(2, 16, 9, 7, dtype=torch.bfloat16, requires_grad=True)
        out = layer(x)
        out.sum().backward()
    real = ACmix(16, 16, stride=stride, dtype=torch.bfloat16)(torch.zeros(2, 16, 9, 7, dtype=torch.bfloat16))
    assert (out.shape, out.dtype, layout(out)) == (real.shape, real.dtype, layout(real))
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_T11_the_constructor_places_parameters() -> None:
    layer = ACmix(16, 16, conv_bias=True, device="meta", dtype=torch.bfloat16)
    placed = {(parameter.device.type, parameter.dtype) for parameter in layer.parameters()}
    assert placed == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("used", [False, True], ids=["T11-new", "T11-used"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_compute_the_same_and_live_their_own_lives(how: str, used: bool) -> None:
    layer, x = ACmix(16, 16), randn(1, 16, 9, 7, dtype=SINGLE)
    if used:
        layer(x).sum().backward()
    other = copy.deepcopy(layer) if how == "deepcopy" else pickle.loads(pickle.dumps(layer))
    expected = layer(x)
    assert torch.equal(other(x), expected)
    with torch.no_grad():
        other.alpha.zero_()
    assert torch.equal(layer(x), expected)


def test_T11_a_copy_still_reads_the_authors_keys() -> None:
    other = copy.deepcopy(ACmix(16, 16))
    state = other.state_dict()
    state["rate1"], state["rate2"] = state.pop("alpha") * 3, state.pop("beta")
    other.load_state_dict(state)
    assert other.alpha is not None
    assert other.alpha.item() == 1.5
