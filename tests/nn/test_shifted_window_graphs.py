"""ACmix over shifted windows in torch's compilers and transforms."""

import io

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acmix.nn import ShiftedWindowACmix
from layer_comparison import randn


def layer(shift: int) -> ShiftedWindowACmix:
    torch.manual_seed(0)
    return ShiftedWindowACmix(8, 2, 4, shift).eval()


@pytest.mark.parametrize("shift", [0, 2])
def test_compiles_for_all_sizes_in_one_graph(shift: int) -> None:
    torch.compiler.reset()
    plain = layer(shift)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(plain, fullgraph=True, dynamic=True, backend=backend)
    for size in ((10, 12), (7, 9), (20, 5)):
        x = randn(2, *size, 8, dtype=torch.float32)
        torch.testing.assert_close(compiled(x), plain(x))
    assert len(graphs) == 1


@pytest.mark.parametrize("shift", [0, 2])
def test_exports_with_any_batch_and_size(shift: int) -> None:
    plain, dims = layer(shift), [torch.export.Dim(name) for name in ("batch", "height", "width")]
    x = randn(2, 7, 9, 8, dtype=torch.float32)
    exported = torch.export.export(plain, (x,), dynamic_shapes={"x": dict(enumerate(dims))})
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for shape in ((1, 8, 8, 8), (3, 4, 13, 8)):
        y = randn(*shape, dtype=torch.float32)
        torch.testing.assert_close(again(y), plain(y))


def test_the_meta_device() -> None:
    made = ShiftedWindowACmix(8, 2, 4, 2, device="meta")
    assert {value.device.type for value in [*made.parameters(), *made.buffers()]} == {"meta"}
    assert made(torch.empty(2, 7, 9, 8, device="meta")).shape == (2, 7, 9, 8)


def test_from_the_meta_device_with_assigned_weights() -> None:
    made, plain, x = ShiftedWindowACmix(8, 2, 4, 2, device="meta").eval(), layer(2), randn(1, 8, 8, 8).float()
    made.load_state_dict(plain.state_dict(), assign=True)
    made.init_non_persistent_buffers()
    assert torch.equal(made(x), plain(x))


def test_autocast_rounds_to_its_dtype() -> None:
    plain, x = layer(2), randn(2, 7, 9, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = plain(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), plain(x), rtol=0.05, atol=0.02)


def test_counted_work() -> None:
    with FlopCounterMode(display=False) as counter:
        layer(2)(randn(1, 8, 12, 8, dtype=torch.float32))
    pixels = 8 * 12
    projections, attention, fc, shifts = 4 * 8 * 8, 2 * 16 * 8, 4 * 6 * 9, 8 * 81
    assert counter.get_total_flops() == 2 * pixels * (projections + attention + fc + shifts)
