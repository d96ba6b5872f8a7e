"""Clocks."""

import time

import pytest
import torch
from torch import nn

from acmix.bench.passes import Contestant, make_call
from acmix.bench.timing import make_clock

needs_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, none here"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def test_the_wall_clock_tells_the_mean_of_its_calls() -> None:
    assert 0.01 <= make_clock("cpu").seconds(lambda: time.sleep(0.01), 3) < 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_passes_are_timed(device: str, mode: str) -> None:
    x = torch.randn(1, 4, 8, 8, device=device, requires_grad=mode == "training")
    call = make_call(Contestant(nn.Conv2d(4, 4, 3).to(device), (x,)), "training" if mode == "training" else "inference")
    clock = make_clock(device)
    prepared, captured = clock.prepare(call)
    assert captured == (device == "cuda")
    assert clock.seconds(prepared, 2) > 0


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_cuda)])
def test_what_cannot_be_captured_is_timed_as_it_is(device: str) -> None:
    x = torch.ones(3, device=device)
    prepared, captured = make_clock(device).prepare(lambda: x.sum().item())
    assert not captured
    assert prepared() == 3
