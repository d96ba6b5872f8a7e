"""Any floating-point dtype, autocast like a convolution's, and the half-precision cycle of detection trainers."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from acmix import ACmix
from layer_comparison import randn, results, scrambled, twin, worst_difference

LOW = [torch.float16, torch.bfloat16]
DEVICES = [
    pytest.param("cpu", id="cpu"),
    pytest.param(
        "cuda",
        id="cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, none here"),
        ],
    ),
]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def autocast_like_a_convolution(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    convolution = nn.Conv2d(64, 64, 3, padding=1).to(x.device)
    with torch.autocast(x.device.type, dtype):
        return layer(x), convolution(x)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*LOW, torch.float64], ids=lambda dtype: f"T01-{name_of(dtype)}")
def test_output_and_gradients_are_those_of_float32(dtype: torch.dtype, device: str) -> None:
    layer, x = scrambled(64, 64, dtype=dtype).to(device), randn(2, 64, 14, 14, dtype=dtype).to(device)
    ours = results(layer, x)
    truth = results(twin(layer, dtype=torch.float32), x.float())
    assert {value.dtype for value in ours.values()} == {dtype}
    # Rounding of the inputs, of q, k, v and of both paths: units of the coarser of the two dtypes, added up over sums.
    difference, name = worst_difference(ours, truth)
    assert difference <= 64 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps), (name, difference)


@pytest.mark.parametrize("dtype", LOW, ids=name_of)
def test_half_precision_is_no_worse_than_the_reference_in_half_precision(dtype: torch.dtype) -> None:
    layer, x = scrambled(32, 32, dtype=dtype), randn(2, 32, 14, 14, dtype=dtype)
    truth = twin(layer, dtype=torch.float64)(x.double())
    error, budget = ((backend(x).double() - truth).abs().max() for backend in (layer, twin(layer)))
    rounding = torch.finfo(dtype).eps * truth.abs().max()
    assert error <= budget + rounding


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("dtype", LOW, ids=lambda dtype: f"T02-{name_of(dtype)}")
def test_autocast_gives_the_dtype_that_a_convolution_gives(dtype: torch.dtype, impl: str, device: str) -> None:
    layer, x = ACmix(64, 64, impl=impl).to(device), randn(2, 64, 14, 14, dtype=torch.float32).to(device)
    ours, convolutions = autocast_like_a_convolution(layer, x, dtype)
    assert ours.dtype == convolutions.dtype == dtype


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=lambda dtype: f"T02-{name_of(dtype)}")
def test_gradients_under_autocast_are_finite_and_in_the_parameters_dtype(dtype: torch.dtype, device: str) -> None:
    layer, x = ACmix(64, 64).to(device), randn(2, 64, 14, 14, dtype=torch.float32).to(device).requires_grad_()
    with torch.autocast(device, dtype):
        loss = layer(x).float().square().mean()
    loss.backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=lambda dtype: f"T02-{name_of(dtype)}")
def test_a_step_through_the_gradient_scaler_changes_every_parameter(dtype: torch.dtype, device: str) -> None:
    layer, x = ACmix(64, 64).to(device), randn(2, 64, 14, 14, dtype=torch.float32).to(device)
    before = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    with torch.autocast(device, dtype):
        loss = layer(x).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1024.0, "the gradients overflowed: the step was skipped"
    # The position's bias drops out of the softmax: it has a gradient, which is zero.
    still = {name for name, value in layer.state_dict().items() if torch.equal(value, before[name])}
    assert still <= {"position.bias"}


@pytest.mark.parametrize("dtype", LOW, ids=name_of)
def test_softmax_is_held_in_float32_under_autocast(dtype: torch.dtype) -> None:
    layer, x = scrambled(64, 64, dtype=torch.float32), 4 * randn(2, 64, 14, 14, dtype=torch.float32)
    with torch.no_grad():
        truth = layer(x)
        cast = copy.deepcopy(layer).to(dtype)(x.to(dtype)).float()
        with torch.autocast("cpu", dtype):
            ours = layer(x).float()
    error, budget = (ours - truth).abs().max(), (cast - truth).abs().max()
    assert error <= 1.5 * budget, "autocast loses more than a layer and an input of this dtype"


@pytest.mark.parametrize("dtype", LOW, ids=lambda dtype: f"T03-{name_of(dtype)}")
def test_train_under_autocast_then_copy_then_half_then_evaluate_then_float(dtype: torch.dtype) -> None:
    layer = nn.Sequential(ACmix(16, 16), nn.BatchNorm2d(16), nn.ReLU())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
    for seed in range(2):
        with torch.autocast("cpu", dtype):
            loss = layer(randn(2, 16, 12, 10, seed=seed, dtype=torch.float32)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    x = randn(2, 16, 12, 10, seed=7, dtype=torch.float32)
    expected = layer.eval()(x)
    saved = copy.deepcopy(layer).half().eval()
    halves = saved(x.half())
    assert halves.dtype == torch.float16
    torch.testing.assert_close(halves.float(), expected, rtol=0.01, atol=0.01)
    back = saved.float()(x)
    torch.testing.assert_close(back, expected, rtol=0.01, atol=0.01)
    assert torch.equal(layer(x), expected), "the copy's casts reached the original"


@pytest.mark.parametrize("dtype", [torch.float32, *LOW, torch.float64], ids=lambda dtype: f"T03-{name_of(dtype)}")
def test_state_dict_goes_through_a_file_without_unpickling(dtype: torch.dtype) -> None:
    layer, other = scrambled(16, 16, dtype=dtype), ACmix(16, 16, dtype=dtype)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = randn(1, 16, 9, 9, dtype=dtype)
    assert torch.equal(layer(x), other(x))
