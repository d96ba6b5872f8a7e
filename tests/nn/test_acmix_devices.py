"""Devices beyond the first CPU, and bit-equal repetition."""

from collections.abc import Iterator

import pytest
import torch

from acmix import ACmix
from layer_comparison import randn, results, scrambled, twin, worst_difference

needs_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, none here"),
]
needs_two = [
    pytest.mark.cuda,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, not here"),
]
needs_mps = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs Apple's MPS, not here")
needs_xpu = pytest.mark.skipif(not torch.xpu.is_available(), reason="needs an Intel XPU, none here")


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cuda:0", id="T12-cuda", marks=needs_cuda),
        pytest.param("cuda:1", id="T12-second-cuda", marks=needs_two),
        pytest.param("mps", id="T12-mps", marks=needs_mps),
        pytest.param("xpu", id="T12-xpu", marks=needs_xpu),
    ],
)
def test_a_layer_runs_where_its_parameters_are(device: str) -> None:
    # The current CUDA device stays the first: nothing may be placed by it.
    layer, x = scrambled(16, 16, dtype=torch.float32), randn(2, 16, 9, 7, dtype=torch.float32)
    ours = {name: value.cpu() for name, value in results(twin(layer, "torch").to(device), x.to(device)).items()}
    difference, name = worst_difference(ours, results(layer, x))
    assert difference <= 1e-4, name


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", id="T13-cpu"), pytest.param("cuda", id="T13-cuda", marks=needs_cuda)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_two_runs_agree_to_the_bit(device: str, stride: int) -> None:
    layer = scrambled(16, 16, stride=stride, dtype=torch.float32).to(device)
    x = randn(4, 16, 28, 28, dtype=torch.float32).to(device)
    first, second = results(layer, x), results(layer, x)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_T13_the_number_of_threads_does_not_change_the_gradients_of_the_keys() -> None:
    layer, x = scrambled(16, 16), randn(2, 16, 28, 28)
    threads = torch.get_num_threads()
    runs = []
    for count in (1, 2):
        torch.set_num_threads(count)
        runs.append(results(layer, x))
    torch.set_num_threads(threads)
    difference, name = worst_difference(*runs)
    assert difference <= 1e-13, name


@pytest.mark.parametrize("device", [pytest.param("cuda", id="T14-cuda", marks=needs_cuda)])
def test_peak_memory_of_a_training_step_stays_far_from_an_unfolded_window(device: str) -> None:
    layer, x = ACmix(256, 256).to(device), torch.randn(16, 256, 80, 80, device=device, requires_grad=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    layer(x).sum().backward()
    torch.cuda.synchronize()
    # 49 copies of the keys alone are 4.9 GiB here; a map is 0.1 GiB.
    assert torch.cuda.max_memory_allocated() - before < 2.5 * 2**30
