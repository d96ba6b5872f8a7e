"""When the Triton backend runs, and that nothing loads Triton before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from acmix import ACmix
from acmix.functional import convolution_path, local_attention
from acmix.ops.dispatch import backend_reasons, choose_backend
from acmix.ops.impl.triton import availability
from acmix.ops.impl.triton.attention_configs import WIDEST_PART, Call, plan_cut
from acmix.ops.impl.triton.convolution_forms import FORMS, ShapeClass, choose_form, read_table, wants_dense
from acmix.ops.problem import OpName, Problem

if availability.MISSING is not None:
    pytest.skip(availability.MISSING, allow_module_level=True)

OPS: tuple[OpName, ...] = ("local_attention", "convolution_path")


def reasons(problem: Problem) -> list[str]:
    return backend_reasons(problem)["triton"]


@pytest.mark.parametrize("op", OPS)
def test_cuda_tensors_get_triton_by_themselves(op: OpName) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert choose_backend(Problem(op, "cuda", dtype, 7, 16), "auto") == "triton"
    assert choose_backend(Problem(op, "cuda", torch.float64, 7, 16), "auto") == "torch"


def test_what_it_cannot_run_it_says() -> None:
    assert reasons(Problem("local_attention", "cpu", torch.float32, 7, 16)) == ["the tensors are on cpu"]
    assert reasons(Problem("window_attention", "cuda", torch.float32, 7, 16)) == ["it has no window_attention"]
    assert reasons(Problem("local_attention", "cuda", torch.float64, 7, 16)) == ["it knows no torch.float64"]
    assert reasons(Problem("local_attention", "cuda", torch.float32, 7, 10**5)) == []


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two cards, the current one of which is too old."""
    capabilities = {None: (7, 5), 0: (7, 5), 1: (12, 0)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capabilities[device])


@pytest.mark.usefixtures("cards")
def test_the_tensors_own_card_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("local_attention", "cuda", torch.float32, 7, 16)
    assert reasons(problem) == ["it needs compute capability 8.0, the card has 7.5"]
    assert reasons(problem._replace(device_index=0)) == ["it needs compute capability 8.0, cuda:0 has 7.5"]
    assert reasons(problem._replace(device_index=1)) == []
    # Of a card that is not here there are fake tensors alone.
    assert reasons(problem._replace(device_index=2)) == []
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert reasons(problem) == ["its kernels were made for NVIDIA's cards, and torch is built for ROCm"]


for_cards = pytest.mark.skipif(
    availability.INTERPRETED, reason="under TRITON_INTERPRET the kernels take tensors of a CPU alone, and no card's"
)


@for_cards
@pytest.mark.parametrize("compiled", [False, True])
def test_both_ops_ask_the_tensors_card(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def both(x: Tensor, fc: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return local_attention(x, x, x, 3, impl="triton"), convolution_path(x, fc, shift, impl="triton")

    # Not torch's own functions: the compiler asks them too, and would look for a driver.
    monkeypatch.setattr(availability, "_capability", {0: (7, 5), 1: (12, 0)}.get)
    torch.compiler.reset()
    function = torch.compile(both, fullgraph=True, backend="eager") if compiled else both
    with FakeTensorMode():
        for index in (1, 0):
            shapes = (1, 2, 3, 4, 4), (9, 3), (2, 9, 3, 3)
            # Made without a question to a driver, which is not here.
            tensors = [torch.empty(shape, device="meta").to(f"cuda:{index}") for shape in shapes]
            if index:
                assert [out.device.index for out in function(*tensors)] == [1, 1]
                continue
            with pytest.raises(Exception, match=r"cuda:0 has 7\.5"):
                function(*tensors)


def test_a_missing_compiler_is_named(run_python: Callable[[str], str]) -> None:
    program = """
        import sys
        sys.modules["triton"] = None
        import torch
        from acmix.ops.dispatch import backend_reasons
        from acmix.ops.problem import Problem
        print(backend_reasons(Problem("local_attention", "cuda", torch.float32, 7, 16))["triton"])
    """
    assert run_python(program).strip() == "['Triton is not installed: pip install triton']"


def test_an_explicit_choice_never_falls_back() -> None:
    q = torch.zeros(1, 1, 2, 3, 3)
    with pytest.raises(RuntimeError, match=r"impl='triton' cannot run .*the tensors are on cpu"):
        local_attention(q, q, q, 3, impl="triton")
    with pytest.raises(RuntimeError, match=r"impl='triton' cannot run .*the tensors are on cpu"):
        convolution_path(torch.zeros(1, 1, 3, 3, 3), torch.zeros(9, 3), torch.zeros(1, 9, 3, 3), impl="triton")


@for_cards
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_layer_on_tensors_of_a_card_that_is_not_here(
    stride: int, memory_format: torch.memory_format, compiled: bool
) -> None:
    with FakeTensorMode():
        layer = ACmix(16, 16, stride=stride, impl="triton", device="cuda", dtype=torch.bfloat16)
        x = torch.empty(2, 16, 9, 7, dtype=torch.bfloat16, device="cuda").to(memory_format=memory_format)
        # Tracing alone: nothing after it works without a driver.
        function = torch.compile(layer, fullgraph=True, backend="eager") if compiled else layer
        out = function(x)
        like = torch.nn.Conv2d(16, 16, 3, stride, 1, device="cuda", dtype=torch.bfloat16)(x)
    assert (out.shape, out.dtype, out.device) == (like.shape, like.dtype, like.device)
    assert out.is_contiguous(memory_format=memory_format)


def test_the_kept_log_sum_exp_and_the_gradients_have_shapes_without_values() -> None:
    with FakeTensorMode():
        q = torch.empty(2, 3, 5, 9, 7, dtype=torch.float16, device="cuda")
        position, window = torch.empty(5, 9, 7, dtype=torch.float16, device="cuda"), (7, 2, 1, 0.5, "triton")
        out, lse = torch.ops.acmix.local_attention(q, q, q, position, *window)
        grads = torch.ops.acmix.local_attention_backward(out, q, q, q, position, out, lse, *window)
    assert (out.shape, out.dtype) == ((2, 3, 5, 5, 4), torch.float16)
    assert (lse.shape, lse.dtype) == ((2, 3, 5, 4), torch.float32)
    assert [grad.shape for grad in grads] == [q.shape] * 3 + [position.shape]


def test_triton_is_loaded_when_a_kernel_runs_and_not_before(run_python: Callable[[str], str]) -> None:
    program = """
        import os, sys
        os.environ["TRITON_INTERPRET"] = "1"
        import torch
        from acmix import ACmix
        x = torch.randn(1, 4, 2, 2)
        ACmix(4, 4, 3, 2, impl="torch")(x)
        before = "triton" in sys.modules
        ACmix(4, 4, 3, 2, impl="triton")(x)
        print(before, "triton" in sys.modules)
    """
    assert run_python(program).split() == ["False", "True"]


def test_cuts_are_powers_of_two_that_fill_whole_warps() -> None:
    for width in (1, 2, 3, 5, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 513, WIDEST_PART, WIDEST_PART + 1, 10**5):
        for flags in range(8):
            cut = plan_cut(width, Call(bool(flags & 1), bool(flags & 2), bool(flags & 4)))
            assert cut.width * cut.parts >= width > (cut.width // 2) * cut.parts
            assert cut.parts == -(-width // WIDEST_PART)
            assert all(number.bit_count() == 1 for number in (cut.width, cut.places, cut.rows, cut.warps))
            assert cut.width * cut.places * cut.rows >= 32 * cut.warps


def test_the_table_of_forms_has_forms_and_a_rule_for_the_rest() -> None:
    table = read_table()
    assert set(table.forms.values()) <= set(FORMS)
    assert table.measured_on is not None or not (table.forms or table.dense_at_inference)
    new = ShapeClass(torch.float32, False, 1, 1, 1, 1, 99, 1)
    assert new.key == "float32-first-1x1to1-k1-s99-map1"
    assert choose_form(new) == "triton"
    # Of the half precisions the script measures one.
    halves = {new._replace(dtype=dtype).key for dtype in (torch.float16, torch.bfloat16)}
    assert halves == {"half-first-1x1to1-k1-s99-map1"}
    assert not wants_dense(new)
    assert choose_form(new._replace(channels_last=True)) == "cudnn"


def test_a_wrong_entry_of_the_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    path.write_text(
        '{"measured_on": "", "forms": {"float32-first-1x1to1-k1-s1-map1": "dense"}, "dense_at_inference": []}'
    )
    with pytest.raises(ValueError, match=r"forms.json: \['dense'\] are no forms, expected"):
        read_table(path)


def test_the_mark_of_constant_answers_is_the_compilers() -> None:
    def answer() -> int:
        return 0

    marked = set(vars(torch.compiler.assume_constant_result(answer)))
    assert marked
    assert marked <= set(vars(availability._card_reason))
