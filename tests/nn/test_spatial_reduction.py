"""The ACmix layer over spatial-reduction attention."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.nn import SpatialReductionACmix
from layer_comparison import randn

SIZES = [(8, 8), (7, 5), (1, 9), (1, 1), (3, 2)]


def made(
    channels: int = 24, heads: int = 3, reduction: int = 1, kernel_conv: int = 3, **options: Any
) -> SpatialReductionACmix:
    """A layer whose parameters are all random: shift kernels and rates at their start hide mistakes."""
    options.setdefault("dtype", torch.float64)
    layer = SpatialReductionACmix(channels, heads, reduction, kernel_conv, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise / max(parameter[0].numel(), 1) ** 0.5)
    return layer


def tokens(size: tuple[int, int], prefix: int = 0, channels: int = 24, batch: int = 2, seed: int = 0) -> Tensor:
    return randn(batch, prefix + size[0] * size[1], channels, seed=seed)


def keys_of(layer: SpatialReductionACmix, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """What the keys are made of: the reduced map, its pixels gathered square by square."""
    prefix, side = layer.num_prefix_tokens, layer.reduction
    if side == 1:
        return x, size
    height, width = (-(-length // side) for length in size)
    maps = x.new_zeros(len(x), height * side, width * side, x.shape[2])
    maps[:, : size[0], : size[1]] = x[:, prefix:].reshape(len(x), *size, -1)
    squares = maps.reshape(len(x), height, side, width, side, -1)
    reduced = torch.einsum("bhywxi,oiyx->bhwo", squares, layer.sr.weight) + layer.sr.bias
    normed = F.layer_norm(reduced, reduced.shape[-1:], layer.norm.weight, layer.norm.bias)
    return torch.cat([x[:, :prefix], normed.flatten(1, 2)], 1), (height, width)


def attention_of(layer: SpatialReductionACmix, x: Tensor, size: tuple[int, int]) -> Tensor:
    """PVT's attention, head by head."""
    keys, _ = keys_of(layer, x, size)
    channels, width = layer.channels, layer.channels // layer.num_heads
    q, kv = layer.q(x), layer.kv(keys)
    heads = []
    for start in range(0, channels, width):
        k, v = (kv[..., offset + start : offset + start + width] for offset in (0, channels))
        logits = q[..., start : start + width] @ k.mT / width**0.5
        heads.append(logits.softmax(-1) @ v)
    return layer.proj(torch.cat(heads, -1))


def convolution_of(layer: SpatialReductionACmix, x: Tensor, size: tuple[int, int]) -> Tensor:
    """The convolution path, its k * k maps written out; k and v are resized by explicit weights."""
    keys, (height, width) = keys_of(layer, x, size)
    prefix, heads, batch = layer.num_prefix_tokens, layer.num_heads, len(x)
    q = layer.q(x)[:, prefix:].reshape(batch, *size, heads, -1)
    kv = layer.kv(keys)[:, prefix:].reshape(batch, height, width, 2 * heads, -1)
    rows, columns = (weights_of(*sides, layer.reduction) for sides in ((size[0], height), (size[1], width)))
    kv = torch.einsum("yh,xw,bhwnd->byxnd", rows, columns, kv)
    pieces = torch.cat([q, kv], 3)
    kernel = layer.kernel_conv
    maps = torch.einsum("ij,byxjd->bdiyx", layer.fc.weight.flatten(1), pieces) + layer.fc.bias[:, None, None]
    out = F.conv2d(maps.flatten(1, 2), layer.shift.weight, padding=kernel // 2, groups=maps.shape[1])
    pixels = out.flatten(2).mT
    return torch.cat([pixels.mean(1, keepdim=True)] * prefix + [pixels], 1)


def weights_of(pixels: int, reduced: int, side: int) -> Tensor:
    """How much each token of an axis counts at each pixel: it lies in the middle of its pixels."""
    weights = torch.zeros(pixels, reduced, dtype=torch.float64)
    for pixel in range(pixels):
        place = max((pixel + 0.5) / side - 0.5, 0)
        low = min(int(place), reduced - 1)
        weights[pixel, low] += 1 - (place - low)
        weights[pixel, min(low + 1, reduced - 1)] += place - low
    return weights


def results(layer: nn.Module, x: Tensor, size: tuple[int, int]) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = layer(x, size)
    grads = torch.autograd.grad((out * randn(*out.shape, seed=9).to(out)).sum(), [x, *layer.parameters()])
    return [out.detach(), *grads]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("reduction", [1, 2, 4])
@pytest.mark.parametrize("prefix", [0, 1])
class TestAgainstItsParts:
    def test_attention_is_plain_attention_to_the_reduced_map(
        self, size: tuple[int, int], reduction: int, prefix: int
    ) -> None:
        layer, x = made(reduction=reduction, num_prefix_tokens=prefix), tokens(size, prefix)
        found = layer.forward_paths(x, size).attention
        torch.testing.assert_close(found, layer.alpha * attention_of(layer, x, size), rtol=0, atol=1e-12)

    def test_convolution_is_fc_and_group_convolution_of_resized_keys(
        self, size: tuple[int, int], reduction: int, prefix: int
    ) -> None:
        layer, x = made(reduction=reduction, num_prefix_tokens=prefix), tokens(size, prefix)
        found = layer.forward_paths(x, size).convolution
        torch.testing.assert_close(found, layer.beta * convolution_of(layer, x, size), rtol=0, atol=1e-12)

    def test_the_output_is_their_sum(self, size: tuple[int, int], reduction: int, prefix: int) -> None:
        layer, x = made(reduction=reduction, num_prefix_tokens=prefix), tokens(size, prefix)
        expected = layer.alpha * attention_of(layer, x, size) + layer.beta * convolution_of(layer, x, size)
        torch.testing.assert_close(layer(x, size), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("heads", "kernel_conv", "shift"),
    [(1, 3, "group"), (3, 5, "group"), (8, 3, "group"), (3, 3, "tensor"), (3, 3, "fixed")],
    ids=str,
)
@pytest.mark.parametrize("reduction", [1, 2])
def test_outputs_and_gradients_equal_the_references(heads: int, kernel_conv: int, shift: Any, reduction: int) -> None:
    options: dict[str, Any] = {"num_prefix_tokens": 1, "shift": shift}
    layer, x = made(24, heads, reduction, kernel_conv, **options), tokens((5, 6), 1)
    other = made(24, heads, reduction, kernel_conv, impl="reference", **options)
    for ours, theirs in zip(results(layer, x, (5, 6)), results(other, x, (5, 6)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_are_the_derivatives() -> None:
    layer = made(4, 2, 2, num_prefix_tokens=1)
    assert torch.autograd.gradcheck(
        lambda x, *_: layer(x, (3, 3)), [tokens((3, 3), 1, 4, 1).requires_grad_(), *layer.parameters()], fast_mode=True
    )


@pytest.mark.parametrize("reduction", [1, 2])
def test_tokens_before_the_map_get_the_mean_of_its_convolution(reduction: int) -> None:
    layer, x = made(reduction=reduction, num_prefix_tokens=2), tokens((4, 6), 2)
    convolution = layer.forward_paths(x, (4, 6)).convolution
    assert convolution is not None
    torch.testing.assert_close(convolution[:, :2], convolution[:, 2:].mean(1, keepdim=True).expand(-1, 2, -1))


def test_tokens_before_the_map_are_keys_but_no_pixels() -> None:
    layer, x = made(reduction=2, num_prefix_tokens=1), tokens((4, 6), 1)
    other = torch.cat([x[:, :1] + 1, x[:, 1:]], 1)
    first, second = layer.forward_paths(x, (4, 6)), layer.forward_paths(other, (4, 6))
    assert torch.equal(first.convolution, second.convolution)
    assert (first.attention - second.attention)[:, 1:].abs().amax(2).min() > 1e-6


class TestOnePathAlone:
    @pytest.mark.parametrize("paths", ["attention", "convolution"])
    def test_is_its_part_of_both(self, paths: Any) -> None:
        both, x = made(reduction=2, num_prefix_tokens=1), tokens((5, 4), 1)
        alone = SpatialReductionACmix(24, 3, 2, num_prefix_tokens=1, paths=paths, dtype=torch.float64)
        alone.load_state_dict({k: v for k, v in both.state_dict().items() if k in alone.state_dict()}, strict=True)
        torch.testing.assert_close(alone(x, (5, 4)), getattr(both.forward_paths(x, (5, 4)), paths))

    def test_has_no_parameters_of_the_other(self) -> None:
        attention = set(made(paths="attention").state_dict())
        convolution = set(made(paths="convolution").state_dict())
        shared = {"q.weight", "q.bias", "kv.weight", "kv.bias"}
        assert attention - shared == {"alpha", "proj.weight", "proj.bias"}
        assert convolution - shared == {"beta", "fc.weight", "fc.bias", "shift.weight"}


def test_dropout_of_both_kinds_in_training_alone() -> None:
    for options in ({"attn_drop": 0.5}, {"proj_drop": 0.5}):
        layer, x = made(paths="attention", **options), tokens((4, 4))
        torch.manual_seed(0)
        assert not torch.equal(layer(x, (4, 4)), layer(x, (4, 4)))
        layer.eval()
        assert torch.equal(layer(x, (4, 4)), layer(x, (4, 4)))


def test_reset_parameters_starts_again() -> None:
    layer = made(reduction=2)
    layer.reset_parameters()
    fresh = SpatialReductionACmix(24, 3, 2, dtype=torch.float64)
    for name in ("alpha", "beta", "shift.weight", "norm.weight", "norm.bias"):
        assert torch.equal(layer.state_dict()[name], fresh.state_dict()[name]), name
    assert layer.sr.weight.abs().max() < 1 / (24 * 4) ** 0.5 + 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    layer, x = made(reduction=2, num_prefix_tokens=1), tokens((5, 6), 1)
    truth = layer(x, (5, 6))
    out = layer.to(dtype)(x.to(dtype), (5, 6))
    assert out.dtype == dtype
    assert (out - truth).abs().max() <= 16 * torch.finfo(dtype).eps * truth.abs().max()


@pytest.mark.parametrize("paths", ["both", "attention", "convolution"])
@pytest.mark.parametrize("reduction", [1, 2])
def test_autocast_gives_its_dtype_as_torchs_attention_does(paths: Any, reduction: int) -> None:
    layer = made(reduction=reduction, num_prefix_tokens=1, paths=paths, dtype=torch.float32)
    x = tokens((5, 6), 1).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, (5, 6))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x, (5, 6)), rtol=0.1, atol=0.1)
    out.float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


def test_an_empty_batch_and_the_meta_device() -> None:
    layer = made(reduction=2, num_prefix_tokens=1)
    assert layer(tokens((5, 6), 1, batch=0), (5, 6)).shape == (0, 31, 24)
    meta = SpatialReductionACmix(24, 3, 2, num_prefix_tokens=1, device="meta")
    assert meta(torch.empty(2, 31, 24, device="meta"), (5, 6)).shape == (2, 31, 24)


def test_compiles_without_a_break() -> None:
    torch.compiler.reset()
    layer, x = made(reduction=2, num_prefix_tokens=1), tokens((5, 6), 1)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(results(compiled, x, (5, 6)), results(layer, x, (5, 6)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_compiles_once_for_all_sizes() -> None:
    torch.compiler.reset()
    layer = made(reduction=2, num_prefix_tokens=1)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="eager")
    for size in ((5, 6), (8, 7), (3, 9)):
        torch.testing.assert_close(compiled(tokens(size, 1), size), layer(tokens(size, 1), size))


def test_the_sum_of_a_short_training_falls() -> None:
    torch.manual_seed(0)
    layer = SpatialReductionACmix(16, 2, 2)
    optimizer, x = torch.optim.Adam(layer.parameters(), 1e-2), randn(4, 36, 16, dtype=torch.float32)
    target, losses = x.roll(1, 1), []
    for _ in range(40):
        loss = (layer(x, (6, 6)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 25}, "channels=25 is no multiple of num_heads=3"),
        ({"num_heads": 0}, "num_heads=0, expected an integer >= 1"),
        ({"reduction": 0}, "reduction=0, expected an integer >= 1"),
        ({"kernel_conv": 2}, "kernel_conv=2, expected an odd integer"),
        ({"num_prefix_tokens": -1}, "num_prefix_tokens=-1, expected an integer >= 0"),
        ({"rates": "alpha"}, "rates='alpha', expected one of"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"SpatialReductionACmix: {message}"):
        SpatialReductionACmix(**{"channels": 24, "num_heads": 3, **arguments})


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 20, 24), (4, 5)), ((2, 21, 23), (4, 5)), ((21, 24), (4, 5)), ((2, 1, 24), (0, 5))], ids=str
)
def test_inputs_of_another_shape_are_named(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected \[B, 1 \+ H \* W, 24\] with H, W >= 1"):
        made(num_prefix_tokens=1)(randn(*shape), size)


def test_it_stands_where_timms_attention_stood() -> None:
    twins = pytest.importorskip("timm.models.twins")
    block = twins.Block(24, 3, sr_ratio=2, ws=1, dtype=torch.float64)
    layer = SpatialReductionACmix(24, 3, 2, paths="attention", rates="1,1", dtype=torch.float64)
    layer.load_state_dict(block.attn.state_dict(), strict=True)
    expected, block.attn = block(tokens((4, 6)), (4, 6)), layer
    torch.testing.assert_close(block(tokens((4, 6)), (4, 6)), expected)
