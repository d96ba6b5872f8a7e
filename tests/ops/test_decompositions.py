"""The two decompositions against torch.nn.functional, in float64."""

import doctest
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acmix.ops import decompositions
from acmix.ops.decompositions import attention_two_stage, conv2d_two_stage, shift

EXACT = {"rtol": 1e-11, "atol": 1e-11}
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
small = st.integers(1, 7)


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def plain_attention(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, num_heads: int) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (F.linear(tokens, w).unflatten(2, (num_heads, -1)).transpose(1, 2) for w in (w_q, w_k, w_v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])


@PROPERTY
@given(
    size=st.tuples(small, small),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    with_bias=st.booleans(),
)
def test_convolution_equals_torch(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    channels: tuple[int, int],
    with_bias: bool,
) -> None:
    c_in, c_out = channels
    x = randn(2, c_in, *size)
    weight = randn(c_out, c_in, *kernel, seed=1)
    bias = randn(c_out, seed=2) if with_bias else None
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    covers = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(n + 2 * p < c for n, p, c in zip(size, padding, covers, strict=True)):
        with pytest.raises(ValueError, match="at least"):
            conv2d_two_stage(x, weight, bias, **options)
        return
    torch.testing.assert_close(
        conv2d_two_stage(x, weight, bias, **options), F.conv2d(x, weight, bias, **options), **EXACT
    )


@pytest.mark.parametrize("kernel", list(product((1, 2, 3, 4), (1, 2, 5))), ids=lambda k: f"{k[0]}x{k[1]}")
@pytest.mark.parametrize("dilation", [1, 2])
# torch says that an even kernel costs it a padded copy; that is its business.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_convolution_with_same_padding(kernel: tuple[int, int], dilation: int) -> None:
    x, weight = randn(1, 2, 6, 5), randn(3, 2, *kernel, seed=1)
    options = {"padding": "same", "dilation": dilation}
    torch.testing.assert_close(conv2d_two_stage(x, weight, **options), F.conv2d(x, weight, **options), **EXACT)


def test_convolution_with_valid_padding() -> None:
    x, weight = randn(1, 2, 6, 5), randn(3, 2, 3, 4, seed=1)
    options = {"padding": "valid", "stride": 2}
    torch.testing.assert_close(conv2d_two_stage(x, weight, **options), F.conv2d(x, weight, **options), **EXACT)


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1}, {"padding": 2, "stride": 2}, {"padding": (3, 0), "stride": (1, 3), "dilation": (2, 1)}],
    ids=["plain", "padded", "strided", "all"],
)
def test_convolution_gradients_equal_torch(options: dict[str, Any]) -> None:
    inputs = [randn(2, 3, 7, 6), randn(4, 3, 3, 2, seed=1), randn(4, seed=2)]
    mine, theirs = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
    out = conv2d_two_stage(*mine, **options)
    out_gradient = randn(*out.shape, seed=3)
    gradients = torch.autograd.grad(out, mine, out_gradient)
    expected = torch.autograd.grad(F.conv2d(*theirs, **options), theirs, out_gradient)
    for gradient, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, truth, **EXACT)


def test_convolution_has_a_second_derivative() -> None:
    inputs = [randn(1, 2, 3, 3).requires_grad_(), randn(2, 2, 2, 3, seed=1).requires_grad_()]
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d_two_stage(x, w, padding=1), inputs)


@PROPERTY
@given(
    size=st.tuples(small, small),
    heads=st.integers(1, 4),
    width=st.integers(1, 4),
    c_in=st.integers(1, 4),
    batch=st.integers(0, 2),
)
def test_attention_equals_torch(size: tuple[int, int], heads: int, width: int, c_in: int, batch: int) -> None:
    x = randn(batch, c_in, *size)
    weights = randn(3, heads * width, c_in, seed=1).unbind()
    out = attention_two_stage(x, *weights, num_heads=heads)
    torch.testing.assert_close(out, plain_attention(x, *weights, num_heads=heads), **EXACT)


def test_attention_gradients_equal_torch() -> None:
    inputs = [randn(2, 3, 4, 5), *randn(3, 6, 3, seed=1).unbind()]
    mine, theirs = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
    out_gradient = randn(2, 6, 4, 5, seed=2)
    gradients = torch.autograd.grad(attention_two_stage(*mine, num_heads=2), mine, out_gradient)
    expected = torch.autograd.grad(plain_attention(*theirs, num_heads=2), theirs, out_gradient)
    for gradient, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, truth, **EXACT)


def test_attention_takes_weights_of_1x1_convolutions() -> None:
    x, weights = randn(1, 3, 4, 4), randn(3, 6, 3, seed=1).unbind()
    out = attention_two_stage(x, *(w[:, :, None, None] for w in weights), num_heads=3)
    torch.testing.assert_close(out, attention_two_stage(x, *weights, num_heads=3), rtol=0, atol=0)


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "slice": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolution_of_any_memory_layout(layout: str) -> None:
    x, weight = LAYOUTS[layout](randn(2, 3, 6, 5)), LAYOUTS[layout](randn(4, 3, 3, 3, seed=1))
    torch.testing.assert_close(conv2d_two_stage(x, weight, padding=1), F.conv2d(x, weight, padding=1), **EXACT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_of_any_memory_layout(layout: str) -> None:
    x, weights = LAYOUTS[layout](randn(2, 3, 6, 5)), randn(3, 6, 3, seed=1).unbind()
    torch.testing.assert_close(attention_two_stage(x, *weights, 2), plain_attention(x, *weights, 2), **EXACT)


def test_convolution_keeps_channels_last() -> None:
    x = randn(2, 3, 6, 5).contiguous(memory_format=torch.channels_last)
    assert conv2d_two_stage(x, randn(4, 3, 3, 3), padding=1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_both_keep_the_dtype(dtype: torch.dtype) -> None:
    x, weights = randn(1, 4, 5, 5).to(dtype), randn(3, 4, 4, seed=1).to(dtype).unbind()
    results = {attention_two_stage(x, *weights, 2).dtype, conv2d_two_stage(x, weights[0][:, :, None, None]).dtype}
    assert results == {dtype}


def test_convolution_follows_autocast() -> None:
    x, weight, bias = randn(1, 4, 5, 5).float(), randn(4, 4, 3, 3, seed=1).float(), randn(4, seed=2).float()
    with torch.autocast("cpu", torch.bfloat16):
        out, truth = conv2d_two_stage(x, weight, bias, padding=1), F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(out, truth, rtol=0.05, atol=0.15)  # check_dtype holds bfloat16; nine roundings to 8 bits


def test_both_run_on_the_meta_device() -> None:
    x, weight = torch.empty(2, 4, 9, 7, device="meta"), torch.empty(8, 4, 3, 3, device="meta")
    matrix = weight[:, :, 0, 0]
    shapes = conv2d_two_stage(x, weight, stride=2).shape, attention_two_stage(x, matrix, matrix, matrix, 2).shape
    assert shapes == ((2, 8, 4, 3), (2, 8, 9, 7))


@pytest.mark.parametrize("dy", [-9, -3, -1, 0, 1, 2, 9])
@pytest.mark.parametrize("dx", [-9, -2, 0, 1, 3, 9])
def test_shift_reads_from_the_offset_and_fills_with_zero(dy: int, dx: int) -> None:
    x = randn(2, 4, 3)
    expected = torch.zeros_like(x)
    for i, j in product(range(4), range(3)):
        if 0 <= i + dy < 4 and 0 <= j + dx < 3:
            expected[:, i, j] = x[:, i + dy, j + dx]
    assert torch.equal(shift(x, dy, dx), expected)


def test_convolution_is_the_shifts_of_the_paper() -> None:
    """Eq. 5 word for word: the shift of kernel position (p, q) is (p - k // 2, q - k // 2)."""
    x, weight = randn(1, 2, 6, 7), randn(3, 2, 5, 5, seed=1)
    maps = [
        shift(torch.einsum("oc,bchw->bohw", weight[:, :, p, q], x), p - 2, q - 2)
        for p, q in product(range(5), repeat=2)
    ]
    torch.testing.assert_close(torch.stack(maps).sum(0), conv2d_two_stage(x, weight, padding="same"), **EXACT)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_both_trace_as_one_graph(dynamic: bool) -> None:
    @torch.compile(backend="eager", fullgraph=True, dynamic=dynamic)
    def both(x: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
        return conv2d_two_stage(attention_two_stage(x, matrix, matrix, matrix, 2), weight, stride=2, padding=1)

    x, weight, matrix = randn(2, 4, 7, 5), randn(3, 4, 3, 3, seed=1), randn(4, 4, seed=2)
    expected = F.conv2d(plain_attention(x, matrix, matrix, matrix, 2), weight, stride=2, padding=1)
    torch.testing.assert_close(both(x, weight, matrix), expected, **EXACT)


X = torch.zeros(1, 4, 5, 5)
KERNEL = torch.zeros(2, 4, 3, 3)
CONVOLUTION_ERRORS = {
    "three dimensions": ((X[0], KERNEL), {}, r"x has shape \[4, 5, 5\].*x\[None\]"),
    "flat kernel": ((X, KERNEL[0]), {}, r"weight has shape \[4, 3, 3\].*C_out, C_in, kh, kw"),
    "empty kernel": ((X, KERNEL[:, :, :0]), {}, r"weight has shape \[2, 4, 0, 3\].*none of them 0"),
    "channels": ((X, KERNEL[:, :2]), {}, "weight takes 2 channels, x has 4"),
    "bias": ((X, KERNEL, torch.zeros(3)), {}, r"bias has shape \[3\]; expected \[C_out\] = \[2\]"),
    "dtype": ((X, KERNEL.double()), {}, r"weight is torch.float64.*weight.to\(x\)"),
    "zero stride": ((X, KERNEL), {"stride": 0}, "stride is 0.*at least 1"),
    "three strides": ((X, KERNEL), {"stride": (1, 1, 1)}, r"stride is \(1, 1, 1\).*two"),
    "fractional dilation": ((X, KERNEL), {"dilation": 1.5}, "dilation is 1.5.*integer"),
    "negative padding": ((X, KERNEL), {"padding": (0, -1)}, r"padding is \(0, -1\).*at least 0"),
    "padding word": ((X, KERNEL), {"padding": "full"}, "padding is 'full'; expected 'same', 'valid'"),
    "same with stride": ((X, KERNEL), {"padding": "same", "stride": 2}, r"'same' came with stride \(2, 2\)"),
    "kernel too large": ((X, KERNEL), {"dilation": 3}, "padded input has H = 5; expected at least 7"),
}


@pytest.mark.parametrize("case", CONVOLUTION_ERRORS)
def test_convolution_says_what_is_wrong(case: str) -> None:
    args, options, message = CONVOLUTION_ERRORS[case]
    with pytest.raises(ValueError, match=f"^conv2d_two_stage: .*{message}"):
        conv2d_two_stage(*args, **options)


W = torch.zeros(6, 4)
ATTENTION_ERRORS = {
    "three dimensions": ((X[0], W, W, W, 2), r"x has shape \[4, 5, 5\].*x\[None\]"),
    "channels": ((X, W, W[:, :3], W, 2), r"w_k has shape \[6, 3\]; expected \[C_out, 4\].*x of 4 channels"),
    "3x3 kernel": ((X, torch.zeros(6, 4, 3, 3), W, W, 2), r"w_q has shape \[6, 4, 3, 3\].*1x1 convolution"),
    "unequal": ((X, W, W, W[:3], 3), r"shapes \[6, 4\], \[6, 4\], \[3, 4\]; expected one shape"),
    "heads": ((X, W, W, W, 4), "num_heads is 4; expected a positive divisor of C_out = 6"),
    "no head": ((X, W, W, W, 0), "num_heads is 0"),
    "dtype": ((X, W, W, W.half(), 2), "w_v is torch.float16.*expected torch.float32"),
}


@pytest.mark.parametrize("case", ATTENTION_ERRORS)
def test_attention_says_what_is_wrong(case: str) -> None:
    args, message = ATTENTION_ERRORS[case]
    with pytest.raises(ValueError, match=f"^attention_two_stage: .*{message}"):
        attention_two_stage(*args)


def test_shift_needs_two_dimensions() -> None:
    with pytest.raises(ValueError, match=r"shift: x has shape \[3\]; expected a map"):
        shift(torch.zeros(3), 0, 1)


def test_docstring_examples_run() -> None:
    result = doctest.testmod(decompositions)
    assert result.failed == 0 < result.attempted
