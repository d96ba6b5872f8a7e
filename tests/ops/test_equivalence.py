"""The backends against the reference, and the reference against loops written from the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acmix.functional import convolution_path, local_attention, local_attention_weights
from fast_backends import FAST, FastBackend, every_fast_backend, using

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
WINDOWS = st.sampled_from([1, 3, 5, 7, 9])


def reflect(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = 0 if size == 1 else (-index if index < 0 else 2 * (size - 1) - index)
    return index


def attention_by_loops(q: Tensor, k: Tensor, v: Tensor, p: Tensor, options: dict[str, int]) -> Tensor:
    """Every query, every window position, one at a time."""
    batch, heads, width, height, columns = q.shape
    window, stride, dilation = options["kernel_size"], options["stride"], options["dilation"]
    radius = (window - 1) // 2
    out = q.new_zeros(batch, heads, width, -(-height // stride), -(-columns // stride))
    for y in range(out.shape[3]):
        for x in range(out.shape[4]):
            here = (..., y * stride, x * stride)
            keys = [
                (..., reflect(y * stride + i * dilation, height), reflect(x * stride + j * dilation, columns))
                for i in range(-radius, radius + 1)
                for j in range(-radius, radius + 1)
            ]
            relative = [k[at] + p[here] - p[at] for at in keys]
            logits = torch.stack([(q[here] * key).sum(-1) for key in relative], -1) / math.sqrt(width)
            weights = logits.softmax(-1)
            out[..., y, x] = sum(weights[..., n, None] * v[at] for n, at in enumerate(keys))
    return out


@st.composite
def attention_cases(draw: st.DrawFn) -> tuple[list[Tensor], dict[str, int]]:
    sizes = st.integers(1, 20)
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(sizes), draw(sizes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    layout = draw(st.sampled_from(["contiguous", "channels_last", "sliced", "expanded"]))

    def tensor() -> Tensor:
        make = {"generator": generator, "dtype": torch.float64}
        b, n, d, h, w = shape
        if layout == "channels_last":
            return torch.randn(b, h, w, d, n, **make).permute(0, 4, 3, 1, 2)
        if layout == "sliced":
            return torch.randn(b, n, 2 * d, h, 2 * w, **make)[:, :, ::2, :, ::2]
        if layout == "expanded":
            return torch.randn(1, n, d, h, 1, **make).expand(shape)
        return torch.randn(shape, **make)

    tensors = [tensor().requires_grad_() for _ in range(3)]
    tensors.append(torch.randn(shape[2:], generator=generator, dtype=torch.float64).requires_grad_())
    options = {"kernel_size": draw(WINDOWS), "stride": draw(st.integers(1, 4)), "dilation": draw(st.integers(1, 3))}
    return tensors, options


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    scale = max(float(expected.detach().abs().max()), 1.0) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def test_reference_is_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, window, stride, dilation in [((5, 4), 3, 1, 1), ((3, 6), 7, 2, 1), ((1, 2), 5, 1, 2), ((7, 7), 3, 3, 2)]:
        q, k, v = torch.randn(3, 2, 2, 3, *size, generator=generator, dtype=torch.float64)
        p = torch.randn(3, *size, generator=generator, dtype=torch.float64)
        options = {"kernel_size": window, "stride": stride, "dilation": dilation}
        expected = attention_by_loops(q, k, v, p, options)
        close(local_attention(q, k, v, position=p, impl="reference", **options), expected)


@every_fast_backend
@SETTINGS
@given(case=attention_cases())
def test_attention_and_its_gradients_equal_the_reference(
    backend: FastBackend, case: tuple[list[Tensor], dict[str, int]]
) -> None:
    with using(backend) as impl:
        assert_attention_equals_the_reference(case, impl)


def assert_attention_equals_the_reference(case: tuple[list[Tensor], dict[str, int]], impl: str) -> None:
    (q, k, v, p), options = case
    expected = local_attention(q, k, v, position=p, impl="reference", **options)
    actual = local_attention(q, k, v, position=p, impl=impl, **options)
    close(actual, expected)
    grad = torch.sin(torch.arange(expected.numel(), dtype=torch.float64)).reshape(expected.shape)
    wanted = torch.autograd.grad(expected, (q, k, v, p), grad)
    for got, want in zip(torch.autograd.grad(actual, (q, k, v, p), grad), wanted, strict=True):
        close(got, want)
    for alone, want in zip((q, k, v, p), wanted, strict=True):
        again = local_attention(
            *(x if x is alone else x.detach() for x in (q, k, v)),
            impl=impl,
            **options,
            position=p if p is alone else p.detach(),
        )
        close(torch.autograd.grad(again, alone, grad)[0], want)


@every_fast_backend
@SETTINGS
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    maps=st.sampled_from([(6, 2), (12, 4), (6, 4), (9, 3), (5, 7), (1, 1)]),
    kernel=st.sampled_from([1, 3, 5]),
    spacing=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    bias=st.booleans(),
    channels_last=st.booleans(),
)
def test_convolution_path_equals_the_reference_in_both_forms(
    backend: FastBackend,
    size: tuple[int, int],
    maps: tuple[int, int],
    kernel: int,
    spacing: tuple[int, int],
    bias: bool,
    channels_last: bool,
) -> None:
    pieces, outputs = maps
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 3, pieces, *size), (kernel**2, pieces), (3 * outputs, kernel**2, kernel, kernel), (kernel**2,)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes[: 3 + bias]]
    options = {"stride": spacing[0], "dilation": spacing[1]}
    expected = convolution_path(*tensors, impl="reference", **options)
    grad = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).reshape(expected.shape)
    wanted = torch.autograd.grad(expected, tensors, grad)
    given_pieces = tensors[0]
    if channels_last:
        given_pieces = given_pieces.movedim((3, 4), (1, 2)).contiguous().movedim((1, 2), (3, 4))
    for form in ("composed", "two_step"):
        with using(backend) as impl:
            actual = convolution_path(given_pieces, *tensors[1:], impl=impl, form=form, **options)
            gradients = torch.autograd.grad(actual, tensors, grad, retain_graph=True)
        close(actual, expected)
        for got, want in zip(gradients, wanted, strict=True):
            close(got, want)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 4)], ids=str)
@every_fast_backend
def test_first_and_second_derivatives(backend: FastBackend, size: tuple[int, int], stride: int) -> None:
    with using(backend) as impl:
        check_derivatives(size, stride, impl)


def check_derivatives(size: tuple[int, int], stride: int, impl: str) -> None:
    generator = torch.Generator().manual_seed(2)
    make = {"generator": generator, "dtype": torch.float64}
    q, k, v = (torch.randn(1, 2, 2, *size, **make).requires_grad_() for _ in range(3))
    p = torch.randn(2, *size, **make).requires_grad_()

    def attention(*x: Tensor) -> Tensor:
        return local_attention(*x[:3], 3, position=x[3], stride=stride, impl=impl)

    assert torch.autograd.gradcheck(attention, (q, k, v, p))
    assert torch.autograd.gradgradcheck(attention, (q, k, v, p), fast_mode=True)
    weights = [torch.randn(s, **make).requires_grad_() for s in [(1, 2, 6, *size), (9, 6), (4, 9, 3, 3), (9,)]]

    def convolution(*x: Tensor) -> Tensor:
        return convolution_path(*x, stride=stride, impl=impl)

    assert torch.autograd.gradcheck(convolution, weights)
    assert torch.autograd.gradgradcheck(convolution, weights, fast_mode=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every_fast_backend
def test_error_is_no_worse_than_eager_in_the_same_dtype(backend: FastBackend, dtype: torch.dtype, layout: str) -> None:
    generator = torch.Generator().manual_seed(3)
    shape = (2, 14, 14, 4, 16) if layout == "channels_last" else (2, 4, 16, 14, 14)
    q, k, v = (torch.randn(shape, generator=generator).to(dtype).double() for _ in range(3))
    if layout == "channels_last":
        q, k, v = (x.permute(0, 3, 4, 1, 2) for x in (q, k, v))
    pieces = torch.stack([q, k, v], 1).flatten(1, 2).transpose(1, 2)
    fc, shift = (torch.randn(s, generator=generator).to(dtype).double() for s in [(9, 12), (64, 9, 3, 3)])

    def answers(impl: str, low: torch.dtype) -> list[Tensor]:
        inputs = [x.to(low).detach().requires_grad_() for x in (q, k, v, pieces, fc, shift)]
        outputs = local_attention(*inputs[:3], 7, impl=impl), convolution_path(*inputs[3:], impl=impl)
        total = sum((out * out.detach().sign()).sum() for out in outputs)
        return [*outputs, *torch.autograd.grad(total, inputs)]

    truth, eager = answers("reference", torch.float64), answers("reference", dtype)
    with using(backend) as impl:
        ours = answers(impl, dtype)
    if dtype != torch.float32 or backend.impl == "torch":
        # The attention itself composes nothing: half a unit for what comes out is all.
        half = torch.finfo(dtype).eps / 2 * truth[0].abs().max()
        assert (ours[0] - truth[0]).abs().max() <= (eager[0] - truth[0]).abs().max() + half
    for exact, theirs, mine in zip(truth, eager, ours, strict=True):
        # Half a unit in the last place of the largest entry for what comes out, and as much for the composed weights,
        # which a convolution of that dtype takes. In float32 sums of some thousand terms run in another order than
        # eager's: one and a half units more.
        rounding = torch.finfo(dtype).eps * exact.abs().max() * (2.5 if dtype == torch.float32 else 1)
        assert (mine - exact).abs().max() <= (theirs - exact).abs().max() + rounding


def test_weights_are_those_of_the_output() -> None:
    generator = torch.Generator().manual_seed(4)
    q, k, v = torch.randn(3, 2, 2, 3, 6, 5, generator=generator, dtype=torch.float64)
    p = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    options = {"position": p, "stride": 2, "dilation": 2}
    weights = local_attention_weights(q, k, [(0, 0), (2, 1)], 5, **options)
    close(weights.sum((-2, -1)), torch.ones(2, 2, 2, dtype=torch.float64))
    out = torch.einsum("bnphw,bndhw->bndp", weights, v)
    close(out, local_attention(q, k, v, 5, **options)[..., [0, 2], [0, 1]])


@pytest.mark.parametrize("impl", [*sorted({fast.impl for fast in FAST}), "reference"])
def test_unwritten_memory_is_never_read(impl: str) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills what `empty` returns with NaN
    try:
        for size in [(1, 1), (5, 9), (17, 8)]:
            x = torch.randn(3, 2, 2, 3, *size, requires_grad=True)
            out = local_attention(*x.unbind(0), 5, stride=2, impl=impl)
            pieces = torch.randn(2, 3, 6, *size, requires_grad=True)
            path = convolution_path(pieces, torch.randn(9, 6), torch.randn(6, 9, 3, 3), stride=2, impl=impl)
            (out.sum() + path.sum()).backward()
            for tensor in (out, path, x.grad, pieces.grad):
                assert tensor is not None
                assert tensor.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(before)


def test_an_unknown_backend_is_named() -> None:
    q = torch.randn(1, 1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"impl='tourch' is no backend.*did you mean 'torch'"):
        local_attention(q, q, q, 3, impl="tourch")
