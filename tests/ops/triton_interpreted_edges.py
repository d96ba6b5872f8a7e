"""Edges of Triton's kernels under its interpreter: wide heads, huge numbers, and what is no number."""

from typing import Any

import pytest
import torch
import triton as compiler
import triton.language as tl
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from acmix.functional import convolution_path, local_attention
from acmix.ops.impl import triton
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.impl.triton import attention, attention_configs
from acmix.ops.impl.triton.attention import plan_launch
from acmix.ops.impl.triton.kernels.attention import places_of, tiles_of
from acmix.ops.impl.triton.kernels.convolution import pixels_of, tile_of
from triton_cases import ATTENTION, WIDE, cast, compare_attention, made

assert triton.INTERPRETED, "set TRITON_INTERPRET=1 before Triton is imported"


pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture
def parts_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are cut into parts of four channels, so that small ones have several."""
    monkeypatch.setattr(attention_configs, "WIDEST_PART", 4)


# The interpreter adds up the channels of planes one after the other, a card in a tree: in float32 its roundings show.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("513-channels", torch.float16),
        ("600-channels-last", torch.float32),
        ("1024-channels", torch.bfloat16),
        pytest.param("2100-channels-last", torch.float32, marks=pytest.mark.slow),
        pytest.param("2100-channels-last", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_wide_heads(name: str, dtype: torch.dtype) -> None:
    shape, layout = WIDE[name]
    compare_attention((shape, 3, 1, 1, layout), dtype)


@pytest.mark.usefixtures("parts_of_four")
@pytest.mark.parametrize(
    ("case", "dtype", "position"),
    [
        pytest.param(
            ((1, 1, 10, 3, 4), 3, 1, 1, "contiguous"),
            torch.float32,
            True,
            marks=pytest.mark.slow,
            id="rows-below-each-other",
        ),
        pytest.param(
            ((1, 2, 8, 2, 3), 3, 1, 1, "channels_last"),
            torch.float16,
            False,
            marks=pytest.mark.slow,
            id="channels-last",
        ),
        pytest.param(((1, 1, 9, 5, 4), 3, 2, 2, "sliced"), torch.float32, True, id="stride-2-dilation-2"),
        pytest.param(
            ((2, 1, 5, 1, 1), 5, 1, 1, "contiguous"), torch.bfloat16, True, marks=pytest.mark.slow, id="one-pixel"
        ),
    ],
)
def test_heads_in_parts(case: tuple[Any, ...], dtype: torch.dtype, position: bool) -> None:
    compare_attention(case, dtype, position=position)


@pytest.mark.usefixtures("parts_of_four")
def test_heads_in_parts_with_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "extent_is_wide", lambda *tensors: True)
    compare_attention(((1, 1, 6, 3, 2), 3, 2, 1, "contiguous"), torch.float32)


# Triton takes annotations for compile-time arguments, which are written in capitals: hence what is not checked below.
@compiler.jit
def _walk(found, tile, rows, columns, PLACES: tl.constexpr, ROWS: tl.constexpr):  # noqa: ANN001, ANN202, N803
    row, column, there = places_of(tile, rows, columns, PLACES, ROWS, True)
    lane = tl.arange(0, PLACES)
    tl.store(found + lane, row)
    tl.store(found + PLACES + lane, column)
    tl.store(found + 2 * PLACES + lane, there.to(tl.int64))
    tl.store(found + 3 * PLACES + lane, tiles_of(rows, columns, PLACES, ROWS, True) + lane * 0)


@compiler.jit
def _mix(found, tile, rows, columns, PLACES: tl.constexpr, ROWS: tl.constexpr):  # noqa: ANN001, ANN202, N803
    count = pixels_of(rows, columns, True)
    row, column, there = tile_of(tile, count, columns, PLACES, True)
    lane = tl.arange(0, PLACES)
    tl.store(found + lane, row)
    tl.store(found + PLACES + lane, column)
    tl.store(found + 2 * PLACES + lane, there.to(tl.int64))
    tl.store(found + 3 * PLACES + lane, tl.cdiv(count, PLACES) + lane * 0)


@pytest.mark.parametrize(("kernel", "below"), [(_walk, 1), (_walk, 4), (_mix, 1)], ids=["walk", "walk-4", "mix"])
def test_pixels_beyond_32_bits_are_found(kernel: Any, below: int) -> None:
    """The last tiles of a map of more pixels than 32 bits count; no such map fits here."""
    rows, columns, places = 3 * 2**17 - 3, 2**16 + 5, 16
    count = -(-rows // below) * columns
    tiles = -(-count // places)
    assert count > 2**31
    for tile in (tiles - 1, 2**27 + 12345):
        found = torch.zeros(4, places, dtype=torch.int64)
        kernel[(1,)](found, tile, rows, columns, PLACES=places, ROWS=below)
        index = tile * places + torch.arange(places)
        last = index.clamp(max=count - 1)
        expected = torch.stack(
            [last // columns * below, last % columns, (index < count).long(), torch.full_like(last, tiles)]
        )
        assert torch.equal(found, expected)


def test_what_is_written_counts_for_the_offsets_width() -> None:
    """Inputs that are expanded reach nowhere; the dense output of as many pixels does."""
    q = torch.zeros(1).expand(1, 1, 2, 2**15, 2**15 + 1)
    out = torch.empty(q.shape, device="meta")
    window = Window(3, 1, 1, 1.0)
    assert not plan_launch(q, window, q, q, backward=False).wide
    assert plan_launch(q, window, q, q, out, backward=False).wide


def test_logits_as_low_as_float32_goes() -> None:
    q, v = torch.full((1, 1, 1, 2, 3), -1.5e19), made((1, 1, 1, 2, 3), "contiguous", 0).float()
    k = torch.full_like(q, 1e19)
    ours = local_attention(q, k, v, 3, scale=1.0, impl="triton")
    torch.testing.assert_close(ours, local_attention(q, k, v, 3, scale=1.0, impl="reference"))


# By numpy, which computes here.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("shape", "window", "dtype", "beyond"),
    [((1, 1, 3, 9, 12), 3, torch.float32, 3), ((1, 1, 32, 3, 60), 5, torch.bfloat16, 22)],
    ids=["walk", "matrices"],
)
def test_what_is_not_finite_arrives_and_goes_no_further(
    value: float, shape: tuple[int, ...], window: int, dtype: torch.dtype, beyond: int
) -> None:
    """Nothing hides it from results that depend on it; others take it up only near the window."""
    q, k, v = (made(shape, "contiguous", seed).to(dtype) for seed in range(3))
    at = torch.tensor([2, shape[4] - 2])
    pixels = torch.stack(torch.meshgrid(*(torch.arange(size) for size in shape[3:]), indexing="ij"), -1)
    distance = (pixels - at).abs().amax(-1)
    for place in range(3):
        tensors = [x.clone() for x in (q, k, v)]
        tensors[place][..., at[0], at[1]] = value
        results = []
        for impl in ("triton", "reference"):
            leaves = [x.clone().requires_grad_() for x in tensors]
            out = local_attention(*leaves, window, impl=impl)
            results.append([out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))])
        near = window // 2 + beyond
        for ours, expected, reach in zip(*results, (near, 2 * near, 2 * near, 2 * near), strict=True):
            assert not (ours.isfinite() & ~expected.isfinite()).any()
            assert ours[..., distance > reach].isfinite().all()
        assert (distance > near).any()


def test_a_window_far_beyond_the_map() -> None:
    compare_attention(((1, 1, 2, 2, 1), 15, 1, 2, "contiguous"), torch.float16)


def test_a_dilation_beyond_32_bits_leaves_the_central_tap() -> None:
    """The reference would pad its maps by as much."""
    shapes = (1, 1, 2, 3, 4), (81, 2), (1, 81, 9, 9)
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    ours = convolution_path(*inputs, dilation=2**30, impl="triton")
    torch.testing.assert_close(ours, convolution_path(*inputs, dilation=4, impl="reference"))


def test_the_convolution_path_of_no_images() -> None:
    pieces, fc, shift = torch.empty(0, 2, 6, 5, 4), torch.randn(9, 6), torch.randn(4, 9, 3, 3)
    leaves = [x.requires_grad_() for x in (pieces, fc, shift)]
    out = convolution_path(*leaves, stride=2, impl="triton")
    assert out.shape == (0, 4, 3, 2)
    grads = torch.autograd.grad(out.sum(), leaves)
    assert [grad.shape for grad in grads] == [x.shape for x in leaves]
    assert not any(grad.any() for grad in grads)


class _Copies(TorchDispatchMode):
    """Notes what is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The interpreter itself writes results back by `copy_`.
        if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", ["K3-channels-last", "K5-sliced", "stride-2-channels-last", "K3-images-inside-channels"]
)
def test_no_layout_is_copied(name: str) -> None:
    shape, kernel_size, stride, dilation, layout = ATTENTION[name]
    q, k, v = (cast(made(shape, layout, seed), torch.float32) for seed in range(3))
    assert q.stride() == made(shape, layout, 0).stride()
    window = Window(kernel_size, stride, dilation, 1.0)
    with _Copies() as copies:
        out, lse = triton.local_attention(q, k, v, None, window)
        triton.local_attention_backward(out, (q, k, v), None, window, (out, lse))
    assert not copies.names


def test_a_gradient_may_have_any_layout() -> None:
    for layout in ("contiguous", "channels_last"):
        leaves = [made((1, 2, 4, 3, 2), layout, seed).float().requires_grad_() for seed in range(3)]
        out = local_attention(*leaves, 3, impl="triton")
        expected = torch.autograd.grad(out, leaves, made((1, 2, 4, 3, 2), "contiguous", 3).float(), retain_graph=True)
        grad = made((1, 2, 4, 3, 2), "contiguous", 3).float().permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
        assert grad.stride(2) == 1
        for ours, theirs in zip(torch.autograd.grad(out, leaves, grad), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_copy_would_be_noted() -> None:
    with _Copies() as copies:
        torch.zeros(2, 2).mT.contiguous()
    assert copies.names == ["aten.clone.default"]


def test_dtypes_that_differ_are_refused_at_the_door() -> None:
    q = torch.zeros(1, 1, 2, 3, 3)
    with pytest.raises(TypeError, match="local_attention"):
        local_attention(q, q.half(), q, 3, impl="triton")


def test_the_result_of_each_gradient_is_of_its_inputs_dtype() -> None:
    leaves: list[Tensor] = [made((1, 1, 2, 2, 3), "contiguous", seed).half().requires_grad_() for seed in range(3)]
    grads = torch.autograd.grad(local_attention(*leaves, 3, impl="triton").float().square().sum(), leaves)
    assert [grad.dtype for grad in grads] == [torch.float16] * 3
