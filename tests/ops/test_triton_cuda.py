"""Triton's kernels on a card."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from acmix import ACmix
from acmix.functional import convolution_path, local_attention
from triton_cases import ATTENTION, CONVOLUTION, MATRICES, WIDE, cast, compare_attention, compare_convolution, made

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, none here"),
    pytest.mark.filterwarnings("ignore:Deterministic behavior was enabled:UserWarning"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# What takes a good part of the card's memory runs one after the other (`--dist loadgroup`).
ALONE = pytest.mark.xdist_group("memory")
# The stages of ResNet-50: [B, N, D, H, W] and a window of 7 x 7.
STAGES = [(4, 4, 16, 56, 56), (4, 4, 32, 28, 28), (4, 4, 64, 14, 14), (4, 4, 128, 7, 7)]


@pytest.fixture(autouse=True)
def _poisoned_and_exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is handed out holds NaN, and float32 is float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ATTENTION.values(), ids=ATTENTION)
def test_attention(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    compare_attention(case, dtype, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MATRICES)
def test_attention_of_wide_heads(name: str, dtype: torch.dtype) -> None:
    shape, kernel_size, layout = MATRICES[name]
    compare_attention((shape, kernel_size, 1, 1, layout), dtype, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WIDE)
def test_attention_of_heads_wider_than_a_warp_holds(name: str, dtype: torch.dtype) -> None:
    shape, layout = WIDE[name]
    compare_attention((shape, 3, 1, 1, layout), dtype, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_each_kernel_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward pass alone: what `scripts/sanitize_cuda.py` watches."""
    monkeypatch.setattr("acmix.ops.impl.triton.convolution.choose_form", lambda shape: "triton")
    attention = [*ATTENTION.values(), *((shape, size, 1, 1, layout) for shape, size, layout in MATRICES.values())]
    attention += [(shape, 3, 1, 1, layout) for shape, layout in WIDE.values()]
    for shape, kernel_size, stride, dilation, layout in attention:
        leaves = [cast(made(shape, layout, seed), dtype, "cuda").requires_grad_() for seed in range(3)]
        position = cast(made(shape, "contiguous", 3)[0, 0], dtype, "cuda").requires_grad_()
        options: dict[str, Any] = {"stride": stride, "dilation": dilation, "impl": "triton"}
        out = local_attention(*leaves, kernel_size, position=position, **options)
        grads = torch.autograd.grad(out.square().sum(), [*leaves, position])
        assert all(x.isfinite().all() for x in (out, *grads))
    for shape, outputs, kernel, stride, dilation, _, layout in CONVOLUTION.values():
        shapes = (kernel**2, shape[2]), (shape[1] * outputs, kernel**2, kernel, kernel)
        weights = [cast(made(of, "contiguous", seed), dtype, "cuda") for seed, of in enumerate(shapes, 1)]
        leaves = [x.requires_grad_() for x in (cast(made(shape, layout, 0), dtype, "cuda"), *weights)]
        out = convolution_path(*leaves, form="composed", stride=stride, dilation=dilation, impl="triton")
        grads = torch.autograd.grad(out.sum(), leaves)
        assert all(x.isfinite().all() for x in (out, *grads))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", STAGES, ids=str)
def test_attention_at_the_stages(shape: tuple[int, ...], dtype: torch.dtype, stride: int, layout: str) -> None:
    compare_attention((shape, 7, stride, 1, layout), dtype, device="cuda")


@pytest.mark.parametrize("form", ["triton", "cudnn", "two_step"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONVOLUTION.values(), ids=CONVOLUTION)
def test_convolution(case: tuple[Any, ...], dtype: torch.dtype, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix.ops.impl.triton.convolution.choose_form", lambda shape: form)
    compare_convolution(case, dtype, form="two_step" if form == "two_step" else "composed", device="cuda")


@ALONE
@pytest.mark.parametrize("dilation", [1, 2])
def test_offsets_beyond_32_bits(dilation: int) -> None:
    """One head whose map alone has more numbers than 32 bits count; what its last rows give is what they give alone.

    At a dilation other programs run, which own one row of pixels each.
    """
    height, width, seen = 2**16, 2**15 + 64, 4 + 4 * dilation
    needed = 8 * 2 * height * width
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"eight maps of more than 2^31 numbers of 16 bits need {needed / 1e9:.0f} GB of free memory")
    q = torch.zeros(1, 1, 1, height, width, device="cuda", dtype=torch.bfloat16)
    q[..., -seen:, :] = torch.randn(seen, width, device="cuda", dtype=torch.bfloat16)
    out = local_attention(q, q, q, 3, dilation=dilation, impl="triton")[..., -4:, :]
    alone = local_attention(*(q[..., -seen:, :],) * 3, 3, dilation=dilation, impl="triton")[..., -4:, :]
    assert torch.equal(out, alone)


def results(layer: ACmix, function: Any, x: Tensor) -> list[Tensor]:
    layer.zero_grad()
    out = function(x)
    out.square().mean().backward()
    return [out.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_agree_to_the_bit(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    layer = ACmix(64, 64, impl="triton", device="cuda", dtype=dtype)
    x = torch.randn(4, 64, 28, 28, device="cuda", dtype=dtype).to(memory_format=memory_format)
    q = torch.randn(2, 4, 16, 28, 28, device="cuda", dtype=dtype, requires_grad=True)
    first, second = (results(layer, layer, x) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    grads = [torch.autograd.grad(local_attention(q, q, q, 7, impl="triton").square().sum(), q)[0] for _ in range(2)]
    assert torch.equal(*grads)


def test_the_compiled_layer_is_the_layer() -> None:
    layer, x = ACmix(64, 64, impl="triton", device="cuda"), torch.randn(2, 64, 14, 14, device="cuda")
    ours = results(layer, torch.compile(layer, fullgraph=True), x)
    for got, expected in zip(ours, results(layer, layer, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_training_step_is_captured_as_a_graph() -> None:
    layer, x = ACmix(64, 64, impl="triton", device="cuda"), torch.randn(2, 64, 14, 14, device="cuda")
    results(layer, layer, x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            layer.zero_grad(set_to_none=True)
            layer(x).square().mean().backward()
    torch.cuda.current_stream().wait_stream(side)
    layer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer(x)
        out.square().mean().backward()
    x.copy_(torch.randn_like(x))
    graph.replay()
    replayed = [out.detach().clone(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]
    for got, expected in zip(replayed, results(layer, layer, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_autocast_and_another_stream_reach_the_kernels() -> None:
    layer, x = ACmix(64, 64, device="cuda"), torch.randn(2, 64, 14, 14, device="cuda", requires_grad=True)
    with torch.cuda.stream(torch.cuda.Stream()), torch.autocast("cuda", torch.bfloat16):
        out = layer(x)
    torch.cuda.synchronize()
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.isfinite().all()


@ALONE
def test_a_training_step_keeps_no_window() -> None:
    """49 copies of keys and values at 128 x 64 x 56 x 56 are 10 GiB in float32; a map is 0.1 GiB."""
    q, k, v = (torch.randn(128, 4, 16, 56, 56, device="cuda", requires_grad=True) for _ in range(3))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    local_attention(q, k, v, 7, impl="triton").sum().backward()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 0.7 * 2**30


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, not here")
def test_the_current_device_does_not_matter() -> None:
    q = torch.randn(1, 2, 16, 9, 7, device="cuda:1")
    pieces, fc = torch.randn(1, 4, 12, 9, 7, device="cuda:1"), torch.randn(9, 12, device="cuda:1")
    shift = torch.randn(16, 9, 3, 3, device="cuda:1")
    for ours, expected in (
        (local_attention(q, q, q, 5, impl="triton"), local_attention(q, q, q, 5, impl="reference")),
        (convolution_path(pieces, fc, shift, impl="triton"), convolution_path(pieces, fc, shift, impl="reference")),
    ):
        assert ours.device == q.device
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
