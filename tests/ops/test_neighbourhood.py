"""The sums over a window against loops, against the unfolded form, and what they keep for the backward pass."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from acmix.functional import neighbourhood_aggregate
from acmix.ops.geometry import reflect
from acmix.ops.neighbourhood import neighbourhood_project
from acmix.ops.window_moments import difference_moments, projection_moments, window_moments
from layer_comparison import randn

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
LAYOUTS = ["contiguous", "channels_last", "sliced", "expanded"]


def unfolded(x: Tensor, kernel: int) -> Tensor:
    """[B, C, H, W] -> [B, C, K * K, H, W], pixel by pixel."""
    height, width = x.shape[2:]
    out = x.new_zeros((*x.shape[:2], kernel**2, height, width))
    for offset in range(kernel**2):
        rows = reflect(torch.arange(height) + offset // kernel - kernel // 2, height)
        columns = reflect(torch.arange(width) + offset % kernel - kernel // 2, width)
        for y, row in enumerate(rows):
            for x_, column in enumerate(columns):
                out[:, :, offset, y, x_] = x[:, :, row, column]
    return out


def laid_out(shape: tuple[int, ...], layout: str, seed: int) -> Tensor:
    if layout == "channels_last":
        return randn(*shape, seed=seed).to(memory_format=torch.channels_last)
    if layout == "sliced":
        return randn(*shape[:-1], 2 * shape[-1], seed=seed)[..., ::2]
    if layout == "expanded":
        return randn(*shape[:-1], 1, seed=seed).expand(shape)
    return randn(*shape, seed=seed)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, tuple[int, ...], str]:
    sizes = st.integers(1, 9)
    shape = (draw(st.integers(0, 3)), draw(st.sampled_from([4, 6])), draw(sizes), draw(sizes))
    return draw(st.sampled_from([1, 3, 5, 7])), shape, draw(st.sampled_from(LAYOUTS))


def inputs_of_aggregate(kernel: int, shape: tuple[int, ...], layout: str) -> list[Tensor]:
    weights = randn(shape[0], 2, kernel**2, *shape[2:], seed=1)
    if layout == "channels_last":
        weights = weights.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    return [weights.requires_grad_(), laid_out(shape, layout, 2).requires_grad_()]


def inputs_of_project(kernel: int, shape: tuple[int, ...], layout: str) -> list[Tensor]:
    affine = (shape[1], kernel**2)
    tensors = [laid_out(shape, layout, 2), randn(*affine, seed=3), randn(*affine, seed=4), randn(3, *affine, seed=5)]
    return [tensor.requires_grad_() for tensor in tensors]


OPS = {
    "aggregate": (neighbourhood_aggregate, inputs_of_aggregate),
    "project": (neighbourhood_project, inputs_of_project),
}


def close(ours: Tensor, expected: Tensor) -> None:
    scale = max(float(expected.detach().abs().max()), 1.0) if expected.numel() else 1.0
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("size", [(4, 3), (1, 2)], ids=str)
def test_the_reference_is_the_definition(size: tuple[int, int]) -> None:
    weights, v = (x.detach() for x in inputs_of_aggregate(5, (2, 6, *size), "contiguous"))
    expected = torch.zeros_like(v)
    for channel in range(6):
        expected[:, channel] = (weights[:, channel % 2] * unfolded(v, 5)[:, channel]).sum(1)
    close(neighbourhood_aggregate(weights, v, 5, impl="reference"), expected)
    k, scale, shift, weight = (x.detach() for x in inputs_of_project(5, (2, 4, *size), "contiguous"))
    hidden = (unfolded(k, 5) * scale[..., None, None] + shift[..., None, None]).relu()
    expected = (weight[:, None, ..., None, None] * hidden).sum((2, 3)).transpose(0, 1)
    close(neighbourhood_project(k, scale, shift, weight, 5, impl="reference"), expected)


@pytest.mark.parametrize("name", OPS)
@SETTINGS
@given(cases())
def test_values_and_gradients_equal_the_reference(name: str, case: tuple[int, tuple[int, ...], str]) -> None:
    op, make = OPS[name]
    kernel, shape, layout = case
    tensors = make(kernel, shape, layout)
    ours, expected = (op(*tensors, kernel, impl=impl) for impl in ("torch", "reference"))
    close(ours, expected)
    grad = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).reshape(expected.shape)
    wanted = torch.autograd.grad(expected, tensors, grad)
    for got, want in zip(torch.autograd.grad(ours, tensors, grad), wanted, strict=True):
        close(got, want)
    for index, want in enumerate(wanted):
        alone = [x if i == index else x.detach() for i, x in enumerate(tensors)]
        close(torch.autograd.grad(op(*alone, kernel, impl="torch"), alone[index], grad)[0], want)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("size", [(1, 1), (3, 2)], ids=str)
def test_first_and_second_derivatives(name: str, size: tuple[int, int]) -> None:
    op, make = OPS[name]
    tensors = make(3, (1, 4, *size), "contiguous")
    assert torch.autograd.gradcheck(lambda *x: op(*x, 3), tensors)
    assert torch.autograd.gradgradcheck(lambda *x: op(*x, 3), tensors, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_error_is_no_worse_than_the_references_in_the_same_dtype(name: str, dtype: torch.dtype) -> None:
    op, make = OPS[name]
    low = [x.detach().to(dtype) for x in make(7, (2, 6, 14, 14), "contiguous")]
    truth = op(*(x.double() for x in low), 7, impl="reference")
    ours, eager = ((op(*low, 7, impl=impl).double() - truth).abs().max() for impl in ("torch", "reference"))
    # The output itself is rounded to the dtype: half a unit in the last place of its largest entry. Before that, 49
    # terms are added one after the other in float32, which may lose half a unit of the sum of their sizes each time.
    sizes = op(*(x.double().abs() for x in low), 7, impl="reference").max()
    rounding = torch.finfo(dtype).eps / 2 * truth.abs().max() + 49 * torch.finfo(torch.float32).eps / 2 * sizes
    assert ours <= eager + rounding


@pytest.mark.parametrize("name", OPS)
def test_the_map_keeps_its_memory_format(name: str) -> None:
    op, make = OPS[name]
    for layout, memory_format in [("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)]:
        tensors = make(3, (2, 4, 5, 6), layout)
        out = op(*tensors, 3)
        out.square().sum().backward()
        gradients = {tuple(x.shape): x.grad for x in tensors}
        assert out.is_contiguous(memory_format=memory_format)
        assert gradients[2, 4, 5, 6].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", OPS)
def test_functorch(name: str) -> None:
    op, make = OPS[name]
    first, second = make(3, (2, 4, 3, 4), "contiguous"), make(3, (2, 4, 3, 4), "channels_last")
    stacked = [torch.stack(pair).detach() for pair in zip(first, second, strict=True)]
    expected = torch.stack([op(*first, 3), op(*second, 3)])
    close(torch.vmap(lambda *x: op(*x, 3))(*stacked), expected)
    gradients = torch.func.grad(lambda x: op(x, *first[1:], 3).sin().sum())(first[0])
    close(gradients, torch.autograd.grad(op(*first, 3).sin().sum(), first[0])[0])


def kept(run: Callable[[], Tensor]) -> int:
    """Bytes of all storages that autograd keeps, those of leaves included."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("name", OPS)
def test_the_inputs_are_all_that_is_kept(name: str) -> None:
    op, make = OPS[name]
    tensors = make(7, (2, 6, 14, 14), "contiguous")
    inputs = sum(x.untyped_storage().nbytes() for x in tensors)
    assert kept(lambda: op(*tensors, 7)) == inputs
    # The reference shows what the measure sees: the unfolded map, of 49 times the map's 2352 numbers.
    assert kept(lambda: op(*tensors, 7, impl="reference")) > 49 * 2352 * 8


@pytest.mark.parametrize("name", OPS)
def test_unwritten_memory_is_never_read(name: str) -> None:
    op, make = OPS[name]
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills what `empty` returns with NaN
    try:
        for size in [(1, 1), (5, 9)]:
            tensors = make(5, (2, 4, *size), "contiguous")
            out = op(*tensors, 5)
            out.sum().backward()
            assert all(x.isfinite().all() for x in (out, *(tensor.grad for tensor in tensors)))
    finally:
        torch.use_deterministic_algorithms(before)


def test_flops_of_forward_and_backward() -> None:
    tensors = inputs_of_aggregate(3, (2, 4, 5, 6), "contiguous")
    with FlopCounterMode(display=False) as counter:
        out = neighbourhood_aggregate(*tensors, 3)
    assert counter.get_total_flops() == 2 * 2 * 4 * 9 * 5 * 6
    with counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 2 * 4 * 9 * 5 * 6


def test_wrong_arguments_are_named() -> None:
    weights, v = (x.detach() for x in inputs_of_aggregate(3, (2, 4, 5, 6), "contiguous"))
    with pytest.raises(ValueError, match=r"weights has shape \(2, 2, 9, 5, 6\).*\(2, G, 25, 5, 6\)"):
        neighbourhood_aggregate(weights, v, 5)
    with pytest.raises(ValueError, match="G a divisor of the 3 channels"):
        neighbourhood_aggregate(weights, v[:, :3], 3)
    with pytest.raises(ValueError, match="kernel_size=4, expected an odd integer"):
        neighbourhood_aggregate(weights, v, 4)
    with pytest.raises(TypeError, match=r"v is torch\.float64 on cpu but weights is torch\.float32"):
        neighbourhood_aggregate(weights.float(), v, 3)
    with pytest.raises(ValueError, match="impl='tourch' is no backend"):
        neighbourhood_aggregate(weights, v, 3, impl="tourch")
    k, scale, shift, weight = (x.detach() for x in inputs_of_project(3, (2, 4, 5, 6), "contiguous"))
    with pytest.raises(ValueError, match=r"scale has shape \(4, 8\), expected \[C, K \* K\] = \(4, 9\)"):
        neighbourhood_project(k, scale[:, 1:], shift, weight, 3)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 4)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_are_those_of_the_unfolded_map(size: tuple[int, int], offset: float) -> None:
    q, k = randn(2, 3, *size, seed=1) + offset, (2 + randn(2, 3, *size, seed=2)).requires_grad_()
    window = unfolded(k, 5)
    differences = (q[:, :, None] - window).transpose(0, 1).flatten(1)
    matrix = randn(4, 3, seed=3)
    projected = torch.einsum("mc,bchw->mbhw", matrix, q).flatten(1)
    cases = [
        (window_moments(k, 5), window.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)),
        (difference_moments(q, k, 5), differences),
        (projection_moments(q, matrix), projected),
    ]
    for (mean, var), values in cases:
        torch.testing.assert_close(mean.flatten(), values.mean(-1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(var.flatten(), values.var(-1, correction=0), rtol=1e-7, atol=1e-9)
    ours, expected = window_moments(k, 5)[1].square().sum(), window.var((0, 3, 4), correction=0).square().sum()
    close(torch.autograd.grad(ours, k)[0], torch.autograd.grad(expected, k)[0])
