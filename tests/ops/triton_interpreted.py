"""Triton's kernels under its interpreter; `test_triton_kernels.py` runs this file where TRITON_INTERPRET is set."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from acmix import ACmix
from acmix.bench.timing import WallClock
from acmix.functional import local_attention
from acmix.ops.impl import triton
from acmix.ops.impl.triton import attention, attention_on_matrices
from triton_cases import ATTENTION, CONVOLUTION, MATRICES, compare_attention, compare_convolution, made

assert triton.INTERPRETED, "set TRITON_INTERPRET=1 before Triton is imported"

pytestmark = pytest.mark.usefixtures("poisoned_memory")

OPS = torch.ops.acmix
# Of torch's own checks; sizes that change are the same to every backend (`test_own_checks.py`).
STATIC = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")


def halves(*names: str) -> list[Any]:
    """Each case in one of the half precisions, the other one with the slow part."""
    both = (torch.float16, torch.bfloat16)
    return [
        pytest.param(name, dtype, marks=() if number % 2 == place else pytest.mark.slow, id=f"{name}-{dtype}")
        for number, name in enumerate(names)
        for place, dtype in enumerate(both)
    ]


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs cut as for a card, not as for the interpreter."""
    monkeypatch.setattr(attention, "INTERPRETED", False)


@pytest.mark.parametrize("case", ATTENTION.values(), ids=ATTENTION)
def test_attention(case: tuple[Any, ...]) -> None:
    compare_attention(case, torch.float32)


@pytest.mark.parametrize(("name", "dtype"), halves("K5-sliced", "K3-channels-last", "stride-2"))
def test_attention_in_half_precision(name: str, dtype: torch.dtype) -> None:
    compare_attention(ATTENTION[name], dtype)


@pytest.mark.parametrize(("name", "dtype"), halves(*MATRICES))
def test_attention_on_matrix_units(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "plan_launch", _only_the_stride(attention.plan_launch))
    shape, kernel_size, layout = MATRICES[name]
    compare_attention((shape, kernel_size, 1, 1, layout), dtype)


def _only_the_stride(plan: Any) -> Any:
    """A plan from which the other kernels cannot be launched."""
    return lambda *args, **options: plan(*args, **options)._replace(cut=None)


def test_attention_on_matrix_units_without_a_position_with_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_on_matrices, "extent_is_wide", lambda *tensors: True)
    compare_attention(((1, 1, 32, 5, 6), 5, 1, 1, "contiguous"), torch.bfloat16, position=False)


def test_attention_without_a_position() -> None:
    compare_attention(ATTENTION["K3-two-heads"], torch.float32, position=False)


@pytest.mark.usefixtures("as_on_a_card")
@pytest.mark.parametrize("shape", [(1, 1, 16, 13, 11), (1, 2, 64, 3, 3), (1, 1, 128, 3, 4)], ids=str)
def test_attention_in_many_programs(shape: tuple[int, ...]) -> None:
    compare_attention((shape, 3, 1, 1, "contiguous"), torch.float32)


@pytest.mark.usefixtures("as_on_a_card")
def test_attention_in_many_programs_channels_last_at_a_stride() -> None:
    compare_attention(((1, 2, 16, 19, 18), 3, 2, 1, "channels_last"), torch.float32)


def test_attention_with_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "extent_is_wide", lambda *tensors: True)
    compare_attention(ATTENTION["stride-2"], torch.float32)


def test_each_gradient_of_attention_alone() -> None:
    tensors = [made((1, 1, 2, 2, 3), "contiguous", seed).float() for seed in range(3)]
    tensors.append(made((2, 2, 3), "contiguous", 3).float())

    def gradients(*wanted: int) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_(place in wanted) for place, x in enumerate(tensors)]
        out = local_attention(*leaves[:3], 3, position=leaves[3], impl="triton")
        return torch.autograd.grad(out.square().sum(), [leaves[place] for place in wanted])

    together = gradients(0, 1, 2, 3)
    for place, expected in enumerate(together):
        assert torch.equal(gradients(place)[0], expected)


def test_attention_over_no_images() -> None:
    q = torch.empty(0, 2, 3, 4, 5, requires_grad=True)
    p = torch.randn(3, 4, 5, requires_grad=True)
    out = local_attention(q, q, q, 3, position=p, impl="triton")
    assert out.shape == (0, 2, 3, 4, 5)
    out.sum().backward()
    assert p.grad is not None
    assert not p.grad.any()


@pytest.mark.parametrize("case", CONVOLUTION.values(), ids=CONVOLUTION)
def test_convolution(monkeypatch: pytest.MonkeyPatch, case: tuple[Any, ...]) -> None:
    monkeypatch.setattr(triton.convolution, "choose_form", lambda shape: "triton")
    compare_convolution(case, torch.float32)


@pytest.mark.slow
def test_forms_are_measured_by_name() -> None:
    """The script that fills the table, as far as it goes without a card."""
    path = Path(__file__).resolve().parents[2] / "scripts" / "choose_convolution_forms.py"
    spec = importlib.util.spec_from_file_location("choose_convolution_forms", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    inputs = script.inputs_of(ACmix(4, 4, impl="torch"), torch.randn(1, 4, 3, 3))
    assert inputs.shape_class.key == "float32-first-1x12to4-k3-s1-map4"
    form, ratio = script.fastest_form(inputs, WallClock(), 3)
    assert form == ("triton" if ratio >= 1 else "cudnn")
    assert script.dense_over(inputs, "triton", WallClock(), 3) > 0


def test_convolution_where_the_table_names_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.convolution, "choose_form", lambda shape: "cudnn")
    monkeypatch.setattr(triton.convolution, "composed_forward", None)
    compare_convolution(CONVOLUTION["bias"], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_convolution_in_half_precision(dtype: torch.dtype) -> None:
    compare_convolution(CONVOLUTION["layer"], dtype)


def test_convolution_in_two_steps() -> None:
    compare_convolution(CONVOLUTION["bias"], torch.float32, form="two_step")


def test_convolution_with_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.convolution, "extent_is_wide", lambda *tensors: True)
    compare_convolution(CONVOLUTION["stride-2"], torch.float32)


# What opcheck itself does to the inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_ops_are_registered_as_torch_wants_them() -> None:
    q, k, v = (made((2, 1, 3, 4, 3), "contiguous", seed).float().requires_grad_() for seed in range(3))
    position = made((3, 4, 3), "contiguous", 3).float().requires_grad_()
    window = 3, 2, 1, 0.5, "triton"
    torch.library.opcheck(OPS.local_attention.default, (q, k, v, position, *window), test_utils=STATIC)
    tensors = [x.detach() for x in (q, k, v, position)]
    out, lse = OPS.local_attention(*tensors, *window)
    backward = OPS.local_attention_backward.default
    torch.library.opcheck(
        backward, (torch.ones_like(out), *tensors, out, lse, *window), test_utils=("test_schema", "test_faketensor")
    )
    pieces, fc = made((2, 2, 6, 4, 3), "contiguous", 0).float(), made((9, 6), "contiguous", 1).float()
    shift = made((4, 9, 3, 3), "contiguous", 2).float()
    inputs = [x.requires_grad_() for x in (pieces, fc, shift)]
    torch.library.opcheck(OPS.convolution_path.default, (*inputs, None, 1, 1, "composed", "triton"), test_utils=STATIC)


def test_the_log_sum_exp_is_that_of_the_logits() -> None:
    q, k, v = (made((2, 2, 3, 3, 5), "contiguous", seed).float() for seed in range(3))
    _, lse = OPS.local_attention(q, k, v, None, 1, 1, 1, 0.5, "triton")
    torch.testing.assert_close(lse, 0.5 * (q * k).sum(2))


def test_two_runs_agree_to_the_bit_and_vmap_with_them() -> None:
    q, k, v = (made((2, 1, 3, 3, 2), "contiguous", seed).float().requires_grad_() for seed in range(3))

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return local_attention(q, k, v, 3, impl="triton")

    first, second = (torch.autograd.grad(run(q, k, v).square().sum(), (q, k, v)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    stacked = torch.vmap(run)(*(torch.stack([x, x.flip(0)]) for x in (q, k, v)))
    assert torch.equal(stacked[0], run(q, k, v))


@pytest.mark.parametrize(
    "memory_format",
    [pytest.param(torch.contiguous_format, marks=pytest.mark.slow), torch.channels_last],
    ids=str,
)
def test_the_compiled_layer_is_the_layer(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = ACmix(6, 6, 3, 2, impl="triton")
    x = torch.randn(2, 6, 5, 4).to(memory_format=memory_format)

    def results(function: Any) -> list[Tensor]:
        layer.zero_grad()
        out = function(x)
        out.square().sum().backward()
        assert layer.impl == "reference" or out.is_contiguous(memory_format=memory_format)
        return [out.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]

    ours = results(torch.compile(layer, fullgraph=True, backend="aot_eager"))
    layer.impl = "reference"
    for got, expected in zip(ours, results(layer), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_an_exported_layer_runs_the_kernels_at_other_sizes() -> None:
    torch.manual_seed(0)
    layer, shapes = ACmix(6, 6, 3, 2, impl="triton"), {"x": {0: Dim("b"), 2: Dim("h"), 3: Dim("w")}}
    program = torch.export.export(layer, (torch.randn(2, 6, 5, 4),), dynamic_shapes=shapes)
    attention = [node for node in program.graph.nodes if node.target is OPS.local_attention.default]
    assert [node.args[-1] for node in attention] == ["triton"]
    for shape in ((1, 6, 3, 5), (2, 6, 1, 1)):
        x = torch.randn(shape)
        torch.testing.assert_close(program.module()(x), layer(x))


def test_autocast_reaches_the_kernels() -> None:
    layer, x = ACmix(6, 6, 3, 2, impl="triton"), torch.randn(1, 6, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.isfinite().all()
