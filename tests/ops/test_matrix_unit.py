"""Stage I on a matrix unit (AMX), which multiplies bfloat16: a float32 in three parts loses nothing by it."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from acmix import ACmix
from fast_backends import INSTRUCTION_SETS, FastBackend, on_threads, using

AMX, PLAIN = FastBackend("cpu", "amx"), FastBackend("cpu", "avx512")
EPS = torch.finfo(torch.float32).eps

# scripts/check_kernels.py runs the same kernels in plain code where a processor has AVX512BW and no unit.
pytestmark = pytest.mark.skipif(
    "amx" not in INSTRUCTION_SETS,
    reason=f"needs a processor with AMX and kernels built for it; there are {INSTRUCTION_SETS or 'no native kernels'}",
)

# Channels in and out, heads, map, batch: tiles that come out even; cut ones in depth, rows and between images; q, k and
# v kept; much depth in either pass.
CASES = [
    (64, 64, 4, (28, 28), 1),
    (88, 84, 4, (22, 21), 2),
    (160, 128, 4, (13, 13), 3),
    (1100, 96, 4, (12, 11), 2),
    (96, 512, 4, (12, 13), 2),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def made(case: tuple[int, int, int, tuple[int, int], int]) -> tuple[ACmix, Tensor]:
    channels, out_channels, heads, size, batch = case
    torch.manual_seed(channels)
    layer = ACmix(channels, out_channels, num_heads=heads)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    return layer, torch.randn(batch, channels, *size).relu()  # of one sign, so that sums grow


def answers(layer: ACmix, x: Tensor, backend: FastBackend) -> list[Tensor]:
    """The output, and gradients of the input and all parameters."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    layer.impl = "reference" if x.dtype == torch.float64 else backend.impl
    with using(backend):
        out = layer(x)
        (out * torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view_as(out)).sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]


@every_case
def test_errors_are_those_of_sums_in_float32(case: tuple[int, int, int, tuple[int, int], int]) -> None:
    layer, x = made(case)
    unit, plain, eager = (answers(layer, x, backend) for backend in (AMX, PLAIN, FastBackend("reference")))
    truth = answers(layer.double(), x.double(), PLAIN)
    assert not torch.equal(unit[0], plain[0]), "the unit is not in use"

    def error(found: list[Tensor], number: int) -> float:
        return float((found[number] - truth[number]).square().mean().sqrt())

    for number in range(2):  # the output and the input's gradient, which the unit multiplies
        assert error(unit, number) <= 1.1 * error(plain, number)
    for number, exact in enumerate(truth):
        # One number says little, and the position's bias has no gradient.
        if exact.numel() > 1 and exact.abs().max() > 1e-9:
            rounding = EPS / 2 * float(exact.abs().max())
            assert error(unit, number) <= 1.5 * max(error(plain, number), error(eager, number)) + rounding


@every_case
def test_any_number_of_threads_gives_the_same_bits(case: tuple[int, int, int, tuple[int, int], int]) -> None:
    layer, x = made(case)
    first, *others = on_threads(lambda: answers(layer, x, AMX))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_strips_of_a_large_map_have_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made((128, 64, 4, (150, 150), 1))  # from 128 channels on q, k and v of the whole map are kept
    layer.impl = "cpu"
    native_layer = sys.modules["acmix.ops.impl.cpu.layer"]
    plans: list[int] = []
    of_shapes = native_layer._forward_plan

    def watched(*arguments: Any) -> Any:
        plan = of_shapes(*arguments)
        plans.append(plan.rows)
        return plan

    monkeypatch.setattr(native_layer, "_forward_plan", watched)
    with using(AMX):
        with torch.no_grad():
            strips = layer(x)
        assert torch.equal(strips, layer(x).detach())
    assert plans[0] < plans[1] == 150


@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf, 3.4e38])
def test_what_is_no_number_stays_where_it_is_seen(what: float) -> None:
    layer, x = made((64, 64, 4, (28, 28), 2))
    layer.impl = "cpu"
    spoilt = x.clone()
    spoilt[1, 5, 2, 3] = what
    with using(AMX), torch.no_grad():
        out, clean = layer(spoilt), layer(x)
    assert torch.equal(out[0], clean[0])
    assert out[1, :, 2, 3].isnan().all()
    # Seven by seven around it, and what a reflection shows of that.
    assert torch.equal(out[1, :, 6:], clean[1, :, 6:])
    assert torch.equal(out[1, :, :, 7:], clean[1, :, :, 7:])


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**-60, 2.0**60, 2.0**100])
def test_numbers_of_any_size(scale: float) -> None:
    layer, x = made((64, 64, 4, (28, 28), 2))
    layer = layer.requires_grad_(False)
    for projection in (layer.query, layer.key, layer.value):
        projection.weight /= scale
        projection.bias.zero_()
    layer.impl = "cpu"
    with using(AMX):
        ours = layer(x * scale)
    with using(PLAIN):
        plain = layer(x * scale)
    assert not torch.equal(ours, plain), "the unit is not in use"
    assert (ours - plain).abs().max() <= 16 * EPS * plain.abs().max()
