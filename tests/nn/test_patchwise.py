"""SAN's layers and ACmix over them, against the same layers written with `F.unfold` and torch's own batch norm."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from acmix.functional import convolution_path
from acmix.nn import PairwiseAttention, PatchwiseACmix, PatchwiseAttention
from acmix.nn.position import coordinate_grid
from layer_comparison import randn, worst_difference
from network_suite import awake

Layer = PatchwiseAttention | PairwiseAttention | PatchwiseACmix


def unfold(x: Tensor, kernel: int) -> Tensor:
    padded = F.pad(x, (kernel // 2,) * 4, mode="reflect")
    return F.unfold(padded, kernel).unflatten(1, (x.shape[1], kernel**2))


def sum_of_products(weights: Tensor, v: Tensor, kernel: int) -> Tensor:
    """Weights [B, G, K * K, H * W]; channels that are equal modulo G share them."""
    window = unfold(v, kernel).unflatten(1, (-1, weights.shape[1]))
    return (weights.unsqueeze(1) * window).sum(3).flatten(1, 2).unflatten(2, v.shape[2:])


def network(layer: Layer, relation: Tensor) -> Tensor:
    """Norm, ReLU, convolution, twice, by torch's own modules."""
    net = layer.weights
    return net.expand(F.relu(net.norm2(net.reduce(F.relu(net.norm1(relation))))))


def patchwise(layer: PatchwiseAttention | PatchwiseACmix, x: Tensor) -> Tensor:
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    kernel = layer.weights.kernel_size
    relation = torch.cat([q.flatten(2), unfold(k, kernel).flatten(1, 2)], 1).unsqueeze(2)
    weights = network(layer, relation).squeeze(2).unflatten(1, (layer.weights.groups, kernel**2))
    return sum_of_products(weights, v, kernel)


def pairwise(layer: PairwiseAttention, x: Tensor) -> Tensor:
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    kernel = layer.kernel_size
    position = layer.position(coordinate_grid(*x.shape[2:], None, layer.position.weight).unsqueeze(0))
    q, k = (torch.cat([tensor, position.expand(len(x), -1, -1, -1)], 1) for tensor in (q, k))
    weights = network(layer, q.flatten(2).unsqueeze(2) - unfold(k, kernel)).softmax(2)
    return sum_of_products(weights, v, kernel)


def acmix(layer: PatchwiseACmix, x: Tensor) -> Tensor:
    """Pieces in the order q, k, v; attention channel m * D + c, convolution channel c * N + n."""
    pieces = torch.stack([layer.query(x), layer.key(x), *layer.value(x).chunk(4, 1)], 2)
    weight = layer.fc.weight.flatten(1)
    convolution = convolution_path(pieces, weight, layer.shift.weight, impl="reference")
    return layer.alpha * patchwise(layer, x) + layer.beta * convolution


LAYERS: dict[str, tuple[type[Layer], Callable[..., Tensor]]] = {
    "patchwise": (PatchwiseAttention, patchwise),
    "pairwise": (PairwiseAttention, pairwise),
    "acmix": (PatchwiseACmix, acmix),
}


def make(name: str, kernel: int = 5, **options: Any) -> Any:
    return awake(LAYERS[name][0](6, 16, kernel, dtype=torch.float64, **options))


def results(layer: nn.Module, run: Callable[..., Tensor], x: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y = run(x)
    grads = torch.autograd.grad((y * randn(*y.shape, seed=9).to(y)).sum(), [x, *layer.parameters()])
    names = ["dx", *(name for name, _ in layer.named_parameters())]
    return {"y": y.detach(), **dict(zip(names, grads, strict=True))}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(3, 3), (7, 4)], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_values_gradients_and_statistics_are_those_of_the_unfolded_layer(
    name: str, size: tuple[int, int], training: bool
) -> None:
    layer = make(name).train(training)
    other, x = copy.deepcopy(layer), randn(3, 6, *size, seed=1)
    for _ in range(2):
        ours, theirs = results(layer, layer, x), results(other, lambda x: LAYERS[name][1](other, x), x)
    assert worst_difference(ours, theirs)[0] < 1e-11
    buffers = dict(other.named_buffers())
    assert worst_difference(dict(layer.named_buffers()), buffers)[0] < 1e-12
    assert set(buffers["weights.norm1.num_batches_tracked"].flatten().tolist()) == {2 if training else 0}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)], ids=str)
def test_maps_smaller_than_the_window(name: str, size: tuple[int, int]) -> None:
    layer, x = make(name, 7), randn(3, 6, *size)
    results(layer, layer, x)
    # Reflection is periodic: a map of one pixel is a map of that pixel everywhere.
    if size == (1, 1) and name == "patchwise":
        wide = layer.eval()(x.expand(3, 6, 9, 9))
        torch.testing.assert_close(wide[:, :, 4:5, 4:5], layer(x))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_a_norm_before_the_projections(name: str, training: bool) -> None:
    layer, norm = make(name).train(training), awake(nn.BatchNorm2d(6, dtype=torch.float64)).train(training)
    other, plain = copy.deepcopy(layer), copy.deepcopy(norm)
    x = randn(3, 6, 5, 4)
    ours = results(nn.ModuleList([layer, norm]), lambda x: layer(x, norm), x)
    theirs = results(nn.ModuleList([other, plain]), lambda x: other(plain(x).relu()), x)
    assert worst_difference(ours, theirs)[0] < 1e-11
    assert worst_difference(dict(norm.named_buffers()), dict(plain.named_buffers()))[0] < 1e-12


@pytest.mark.parametrize("options", [{"momentum": None}, {"momentum": 0.3}, {"affine": False}], ids=str)
def test_every_option_of_the_norms(options: dict[str, Any]) -> None:
    layer, x = make("patchwise"), randn(3, 6, 5, 4)
    layer.weights.norm1 = nn.BatchNorm2d(layer.weights.norm1.num_features, dtype=torch.float64, **options)
    other = copy.deepcopy(layer)
    for _ in range(3):
        torch.testing.assert_close(layer(x), patchwise(other, x), rtol=1e-10, atol=1e-10)
    assert worst_difference(dict(layer.named_buffers()), dict(other.named_buffers()))[0] < 1e-12


def test_norms_without_running_statistics_use_the_batchs_always() -> None:
    layer, x = make("patchwise"), randn(3, 6, 5, 4)
    norm = nn.BatchNorm2d(layer.weights.norm1.num_features, dtype=torch.float64, track_running_stats=False)
    layer.weights.norm1 = norm
    layer.eval()
    torch.testing.assert_close(layer(x), patchwise(layer, x), rtol=1e-10, atol=1e-10)


def test_frozen_norms_keep_their_statistics() -> None:
    layer, x = make("patchwise").train(), randn(3, 6, 5, 4)
    expected = copy.deepcopy(layer).eval()(x)
    frozen = freeze_batch_norm_2d(layer)
    assert not isinstance(frozen.weights.norm1, FrozenBatchNormAct2d | nn.BatchNorm2d)
    torch.testing.assert_close(frozen.train()(x), expected)


@pytest.mark.parametrize("paths", ["attention", "convolution"])
def test_the_paths_are_the_terms_of_the_output(paths: Any) -> None:
    layer, x = make("acmix").eval(), randn(2, 6, 5, 4)
    attention, convolution = layer.forward_paths(x)
    torch.testing.assert_close(attention + convolution, layer(x))
    alone = make("acmix", paths=paths).eval()
    alone.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(alone(x), {"attention": attention, "convolution": convolution}[paths])
    assert [part is None for part in alone.forward_paths(x)] == [paths == "convolution", paths == "attention"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_dtype(name: str, dtype: torch.dtype) -> None:
    layer, x = make(name), randn(3, 6, 7, 5)
    truth = copy.deepcopy(layer)(x)
    out = layer.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert (out - truth).abs().max() <= 64 * torch.finfo(dtype).eps * truth.abs().max()


def allocated(run: Callable[[], Any]) -> list[int]:
    """Bytes that torch's allocator has handed out since the start, after each allocation and release."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    del kept
    return list(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("name", LAYERS)
def test_unfolded_maps_are_neither_kept_nor_made(name: str) -> None:
    layer, x = LAYERS[name][0](64, 64, 7), torch.randn(1, 64, 28, 28, requires_grad=True)
    layer(x).sum().backward()
    kept = allocated(lambda: layer(x))[-1]
    peak = max(allocated(lambda: layer(x).sum().backward()))
    unfolded = max(allocated(lambda: LAYERS[name][1](layer, x)))
    # Less is kept than the unfolded k alone; a whole step needs less than a third of the unfolded forward pass.
    assert kept < 49 * 16 * 28 * 28 * 4
    assert 3 * peak < unfolded


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives(name: str) -> None:
    layer = LAYERS[name][0](2, 2, 3, share=2, dtype=torch.float64, **({"num_maps": 2} if name == "acmix" else {}))
    x = randn(2, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(awake(layer).eval(), x, fast_mode=True)


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_arguments_are_named(name: str) -> None:
    layer = LAYERS[name][0]
    with pytest.raises(ValueError, match="out_channels=12 is no multiple of share=8"):
        layer(6, 12, 3)
    with pytest.raises(ValueError, match="window's side=4, expected an odd integer"):
        layer(6, 16, 4)
    if name == "acmix":
        with pytest.raises(ValueError, match="out_channels=16 is no multiple of num_maps=3"):
            PatchwiseACmix(6, 16, 3, 3)
        with pytest.raises(ValueError, match=r"has shape \(1, 5, 4, 4\), expected \[B, 6, H, W\]"):
            layer(6, 16, 3)(torch.zeros(1, 5, 4, 4))
