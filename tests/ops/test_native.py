"""The native CPU backend beside its values: threads, instruction sets, what it says where it is missing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from acmix import ACmix
from acmix.functional import convolution_path, local_attention
from acmix.ops.dispatch import backend_reasons, choose_backend
from acmix.ops.impl import cpu
from acmix.ops.impl.cpu.native import _load
from acmix.ops.problem import Problem
from fast_backends import INSTRUCTION_SETS, FastBackend, native, on_threads, using

pytestmark = native


def answers(seed: int = 0, stride: int = 1) -> list[Tensor]:
    """Outputs and gradients of both ops at a size with remainders everywhere."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(3, 4, 5, 19, 23, generator=generator).requires_grad_() for _ in range(3))
    pieces = torch.randn(3, 5, 12, 19, 23, generator=generator).requires_grad_()
    fc, shift = (torch.randn(shape, generator=generator).requires_grad_() for shape in [(9, 12), (20, 9, 3, 3)])
    out = local_attention(q, k, v, 7, stride=stride, impl="cpu")
    path = convolution_path(pieces, fc, shift, stride=stride, impl="cpu")
    total = out.square().sum() + path.square().sum()
    return [out, path, *torch.autograd.grad(total, (q, k, v, pieces, fc, shift))]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_any_number_of_threads_gives_the_same_bits(instructions: str, stride: int) -> None:
    with using(FastBackend("cpu", instructions)):
        runs = on_threads(lambda: answers(stride=stride))
    names = ("out", "path", "q", "k", "v", "pieces", "fc", "shift")
    for other in runs[1:]:
        # The FC's gradients go through torch's own products of small matrices.
        differ = [name for name, a, b in zip(names[:6], runs[0], other, strict=False) if not torch.equal(a, b)]
        assert differ == []


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix.ops.impl.cpu.native._INTERFACE", -1)
    assert "was built from other sources" in str(_load())
    monkeypatch.setattr("acmix.ops.impl.cpu.native._interface", lambda: -1)
    assert _load() is None


def test_auto_takes_it_on_a_cpu() -> None:
    assert choose_backend(Problem("local_attention", "cpu", torch.float32, 7, 16), "auto") == "cpu"
    assert choose_backend(Problem("convolution_path", "cpu", torch.bfloat16, 3, 16), "auto") == "cpu"


def test_it_says_why_it_cannot_run_elsewhere() -> None:
    reasons = backend_reasons(Problem("local_attention", "cuda", torch.float8_e5m2, 7, 16))["cpu"]
    assert reasons == ["the tensors are on cuda", "it knows no torch.float8_e5m2"]
    with pytest.raises(RuntimeError, match=r"impl='cpu' cannot run .*it has no neighbourhood_aggregate"):
        choose_backend(Problem("neighbourhood_aggregate", "cpu", torch.float32, 7, 16), "cpu")


def test_every_processor_has_the_portable_kernels() -> None:
    assert cpu.instruction_sets()[-1] == "portable"


def test_an_instruction_set_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"'sse9', expected 'auto' or one of \(.*'portable'"):
        cpu.use_instruction_set("sse9")


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_environment_chooses_the_instruction_set(name: str, run_python: Any) -> None:
    run_python(
        f"""
        import os
        os.environ["ACMIX_CPU_INSTRUCTIONS"] = {name!r}
        import torch, acmix
        acmix.ACmix(8, 8, impl="cpu")(torch.zeros(1, 8, 5, 5))
        """
    )


def test_a_wrong_name_in_the_environment_is_told_and_the_others_serve(run_python: Any) -> None:
    run_python(
        """
        import os
        os.environ["ACMIX_CPU_INSTRUCTIONS"] = "sse9"
        import torch, acmix
        x = torch.zeros(1, 8, 5, 5)
        acmix.ACmix(8, 8)(x)
        try:
            acmix.ACmix(8, 8, impl="cpu")(x)
        except RuntimeError as error:
            assert "ACMIX_CPU_INSTRUCTIONS='sse9', but this process may use" in str(error), error
        else:
            raise SystemExit("nothing was said")
        """
    )


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7FC001FF, 0x7F800001])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_a_nan_stays_a_nan(instructions: str, bits: int) -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 9, 9)
    k.view(torch.int32)[..., 4, 4] = bits
    with using(FastBackend("cpu", instructions)):
        out = local_attention(q, k, v, 3, impl="cpu")
    assert out[..., 3:6, 3:6].isnan().all()
    out[..., 3:6, 3:6] = 0
    assert out.isfinite().all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lanes_behind_the_last_column_give_no_nan_to_the_kernels(
    stride: int, instructions: str, dtype: torch.dtype
) -> None:
    x, weight = torch.randn(2, 2, 3, 6, 18 * stride, dtype=dtype), torch.randn(8, 3, 3, 3, dtype=dtype)
    x[0, 1, 2, 2, -1] = math.nan
    grad = torch.randn(2, 8, 6 // stride, 18, dtype=dtype)
    found, grad_x = torch.empty_like(weight), torch.empty_like(x)
    with using(FastBackend("cpu", instructions)):
        rows = grad.unflatten(1, (2, 4))
        torch.ops.acmix_cpu.convolution_backward(rows, x, weight, grad_x, found, stride, 1, False)
    truth = torch.nn.grad.conv2d_weight(x.flatten(1, 2), weight.shape, grad, stride, 1, groups=2)
    torch.testing.assert_close(found, truth, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_lanes_behind_the_last_column_give_no_nan_to_keys_and_values(stride: int, instructions: str) -> None:
    q, k, v = torch.rand(3, 1, 1, 2, 8, 18 * stride)
    k[..., 4, -1] = -math.inf  # whose weight is zero
    found = []
    for impl in ("cpu", "reference"):
        inputs = [x.clone().requires_grad_() for x in (k, v)]
        with using(FastBackend("cpu", instructions)):
            out = local_attention(q, *inputs, 5, stride=stride, impl=impl)
            found.append(torch.autograd.grad(out.sin().sum(), inputs))
    torch.testing.assert_close(*found)
    assert all(x.isfinite().all() for x in found[0])


def test_large_logits_do_not_overflow() -> None:
    q, k, v = torch.randn(3, 1, 2, 8, 11, 9)
    truth = local_attention(300 * q.double(), 300 * k.double(), v.double(), 5, impl="reference")
    torch.testing.assert_close(
        local_attention(300 * q, 300 * k, v, 5, impl="cpu").double(), truth, rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_logits_far_below_zero_are_above_what_is_no_key(instructions: str, stride: int) -> None:
    q = torch.full((1, 1, 2, 6, 6), 1e17)
    with using(FastBackend("cpu", instructions)):
        out = local_attention(q, -q, torch.ones_like(q), 5, stride=stride, impl="cpu")
    torch.testing.assert_close(out, torch.ones_like(out))


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_weights_that_make_subnormal_products_are_none(instructions: str) -> None:
    q = torch.ones(1, 1, 1, 5, 20)
    k, v = torch.zeros_like(q), torch.zeros_like(q)
    k[..., 10], v[..., 10] = -75, 1e30
    with using(FastBackend("cpu", instructions)):
        out = local_attention(q, k, v, 3, impl="cpu")
        k[..., 10] = -65
        more = local_attention(q, k, v, 3, impl="cpu")
    assert not out.any()
    truth = local_attention(q.double(), k.double(), v.double(), 3, impl="reference")
    torch.testing.assert_close(more.double(), truth, rtol=1e-4, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_where_one_weight_is_all_logits_have_no_gradient(instructions: str, stride: int) -> None:
    q, k, v = torch.randn(3, 1, 2, 4, 15, 9, generator=torch.Generator().manual_seed(0))
    inputs = [(40 * x).requires_grad_() for x in (q, k)]
    with using(FastBackend("cpu", instructions)):
        out = local_attention(*inputs, v, 3, stride=stride, impl="cpu")
        grads = torch.autograd.grad(out.square().sum(), inputs)
    assert all(grad.abs().median() < 1e-12 for grad in grads)  # true ones are below 1e-100


def test_the_layer_is_deterministic() -> None:
    layer, x = ACmix(16, 16), torch.randn(2, 16, 13, 13, requires_grad=True)
    first, second = (torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "options",
    [{"dilation": 200_000}, {"stride": 10**7}, {"kernel_size": 127}, {"dilation": 64}, {"stride": 64, "dilation": 2}],
    ids=str,
)
def test_windows_and_strides_beyond_the_map(options: dict[str, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 3, 5, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3))
    window = {"kernel_size": 3, **options}
    for impl in ("cpu", "torch"):
        out = local_attention(q, k, v, impl=impl, **window)
        answer = [out, *torch.autograd.grad(out.sin().sum(), (q, k, v))]
        if impl == "cpu":
            ours = answer
    torch.testing.assert_close(ours, answer, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", [{"dilation": 10**6}, {"stride": 10**7}, {"stride": 9, "dilation": 5}], ids=str)
def test_convolutions_beyond_the_map(options: dict[str, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 6, 5, 4), (9, 6), (6, 9, 3, 3), (9,)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    answers = []
    for impl in ("cpu", "torch"):
        out = convolution_path(*inputs, impl=impl, **options)
        answers.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-11, atol=1e-11)
