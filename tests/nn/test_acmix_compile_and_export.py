"""torch.compile, torch.export, ONNX and tracing."""

import io
import warnings
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

from acmix import ACmix
from layer_comparison import randn, results, scrambled, twin, worst_difference

SINGLE = torch.float32


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def assert_compiled_agrees(layer: ACmix, compiled: Any, x: Tensor, tolerance: float) -> None:
    ours, expected = _named(results(compiled, x)), results(layer, x)
    if x.dtype == SINGLE and "d.position.bias" in ours:
        # Zero in truth: both are rounding alone.
        assert ours.pop("d.position.bias").abs().max() <= 1e-4
        assert expected.pop("d.position.bias").abs().max() <= 1e-4
    difference, name = worst_difference(ours, expected)
    assert difference <= tolerance, name
    assert ours["y"].stride() == expected["y"].stride()


def _named(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("_orig_mod.", ""): value for name, value in values.items()}


@pytest.mark.parametrize(
    ("stride", "memory_format"),
    [(1, torch.contiguous_format), (2, torch.channels_last)],
    ids=["T15-s1-nchw", "T15-s2-nhwc"],
)
def test_inductor_static(stride: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")  # inductor is stricter where it is set
    layer = scrambled(8, 8, stride=stride, dtype=SINGLE)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    x = randn(2, 8, 9, 7, dtype=SINGLE).to(memory_format=memory_format)
    assert_compiled_agrees(layer, compiled, x, 1e-5)


def test_T15_inductor_dynamic_compiles_once_for_all_sizes() -> None:
    layer = scrambled(8, 8, dtype=SINGLE)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    assert_compiled_agrees(layer, compiled, randn(2, 8, 9, 7, dtype=SINGLE), 1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):
        for shape in ((3, 8, 14, 10), (2, 8, 33, 5), (5, 8, 4, 6)):
            assert_compiled_agrees(layer, compiled, randn(*shape, dtype=SINGLE), 1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("stride", [1, 2, 3], ids=lambda stride: f"T15-s{stride}")
def test_aot_eager_static(stride: int, memory_format: torch.memory_format) -> None:
    layer, x = scrambled(8, 8, stride=stride), randn(2, 8, 9, 7).to(memory_format=memory_format)
    compiled = torch.compile(layer, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_compiled_agrees(layer, compiled, x, 1e-11)


@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T15-s{stride}")
def test_aot_eager_dynamic(stride: int) -> None:
    layer = scrambled(8, 8, stride=stride)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    assert_compiled_agrees(layer, compiled, randn(2, 8, 9, 7), 1e-11)
    with torch.compiler.set_stance("fail_on_recompile"):
        for shape in ((3, 8, 14, 10), (2, 8, 33, 5)):
            assert_compiled_agrees(layer, compiled, randn(*shape), 1e-11)


def test_T15_sizes_of_one_compile() -> None:
    layer = scrambled(8, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_compiled_agrees(layer, compiled, randn(1, 8, 1, 1), 1e-11)


@pytest.mark.parametrize("paths", ["attention", "convolution"])
def test_one_path_compiles(paths: str) -> None:
    layer = scrambled(8, 8, paths=paths)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_compiled_agrees(layer, compiled, randn(2, 8, 9, 7), 1e-11)


def test_T15_compiled_under_autocast() -> None:
    layer, x = scrambled(8, 8, dtype=SINGLE), randn(2, 8, 9, 7, dtype=SINGLE)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = compiled(x), layer(x)
    assert ours.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=0.02)


def smallest(stride: int) -> int:
    """torch.export takes a size of 1 for a constant, an output's too: `nn.Conv2d` of stride 2 has the same limit."""
    return 1 if stride == 1 else stride + 1


def dynamic_shapes(stride: int = 1) -> dict[str, dict[int, Any]]:
    least = smallest(stride)
    return {"x": {0: Dim("b"), 2: Dim("h", min=least), 3: Dim("w", min=least)}}


SIZES = [(2, 8, 9, 7), (1, 8, 1, 1), (3, 8, 2, 31), (5, 8, 17, 3)]
OPTIONS: list[dict[str, Any]] = [{}, {"stride": 2}, {"dilation": 2}, {"position_step": 0.1}]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "T15-" + ("-".join(map(str, options)) or "plain"))
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_export_with_any_batch_height_and_width(strict: bool, options: dict[str, Any]) -> None:
    layer = scrambled(8, 8, **options)
    program = torch.export.export(
        layer, (randn(2, 8, 14, 10),), dynamic_shapes=dynamic_shapes(layer.stride), strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    module = torch.export.load(file).module()
    for shape in SIZES:
        if min(shape[2:]) >= smallest(layer.stride):
            torch.testing.assert_close(module(randn(*shape)), layer(randn(*shape)), rtol=1e-12, atol=1e-12)


def test_T15_an_exported_layer_trains() -> None:
    layer, x = scrambled(8, 8), randn(3, 8, 9, 7)
    module = torch.export.export(layer, (randn(2, 8, 14, 10),), dynamic_shapes=dynamic_shapes()).module()
    module(x).square().sum().backward()
    layer(x).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in layer.named_parameters()}
    difference, name = worst_difference({name: p.grad for name, p in module.named_parameters()}, expected)
    assert difference <= 1e-11, name


class FirstRows(nn.Module):
    """The layer on as many rows as a tensor says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = ACmix(16, 16)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        count: Any = rows.item()
        torch._check(count >= 1)
        torch._check(count <= x.shape[2])
        out: Tensor = self.layer(x[:, :, :count])
        return out


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_height_that_the_data_give(strict: bool) -> None:
    network, x = FirstRows(), torch.randn(2, 16, 9, 11)
    exported = torch.export.export(network, (x, torch.tensor(5)), strict=strict).module()
    torch.testing.assert_close(exported(x, torch.tensor(7)), network(x, torch.tensor(7)))


def test_a_graph_of_symbolic_sizes_serves_others() -> None:
    layer = ACmix(16, 16)
    with torch.no_grad():
        graph = make_fx(layer, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.randn(2, 16, 9, 11))
        x = torch.randn(3, 16, 14, 8)
        torch.testing.assert_close(graph(x), layer(x))


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "kernel_att": 3, "dilation": 2}], ids=["T15-plain", "T15-stride"]
)
def test_onnx_at_other_sizes_than_it_was_exported_with(options: dict[str, Any]) -> None:
    layer = scrambled(8, 8, dtype=SINGLE, **options).eval()
    program = torch.onnx.export(
        layer,
        (randn(2, 8, 14, 10, dtype=SINGLE),),
        dynamo=True,
        dynamic_shapes=dynamic_shapes(layer.stride),
        verbose=False,
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for shape in ((2, 8, 14, 10), (1, 8, 9, 23), (3, 8, 3, 31), (3, 8, 2, 1), (1, 8, 1, 1)):
        if min(shape[2:]) < smallest(layer.stride):
            continue
        x = randn(*shape, dtype=SINGLE)
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), layer(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T15-s{stride}")
def test_a_trace_serves_other_sizes(stride: int) -> None:
    layer = scrambled(8, 8, stride=stride).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        traced = torch.jit.trace(layer, randn(2, 8, 14, 10))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        traced = torch.jit.load(file)
    for shape in SIZES:
        torch.testing.assert_close(traced(randn(*shape)), layer(randn(*shape)), rtol=1e-12, atol=1e-12)


def test_T15_scripting_is_documented_as_not_supported() -> None:
    assert "torch.jit.script" in str(ACmix.__doc__)


def test_T15_a_network_around_the_layer_compiles_and_exports() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), scrambled(8, 8, dtype=SINGLE), nn.BatchNorm2d(8), nn.ReLU()
    ).eval()
    x = randn(2, 3, 16, 12, dtype=SINGLE)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x))
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), network(x))


def test_T15_the_first_call_of_a_process_may_be_a_compiled_one(run_python: Any) -> None:
    run_python(
        """
        import torch, acmix
        layer = torch.compile(acmix.ACmix(8, 8), fullgraph=True, backend="aot_eager")
        assert layer(torch.zeros(1, 8, 5, 5)).shape == (1, 8, 5, 5)
        """
    )


def test_T15_the_reference_compiles_and_exports() -> None:
    layer = twin(scrambled(8, 8, kernel_att=3))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_compiled_agrees(layer, compiled, randn(2, 8, 9, 7), 1e-11)
    module = torch.export.export(layer, (randn(2, 8, 14, 10),), dynamic_shapes=dynamic_shapes()).module()
    for shape in SIZES:
        torch.testing.assert_close(module(randn(*shape)), layer(randn(*shape)), rtol=1e-12, atol=1e-12)
