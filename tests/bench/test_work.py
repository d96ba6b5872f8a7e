"""What a call needs at least, counted; what the machine can do, measured."""

import pytest
import torch
from torch import nn

from acmix import ACmix
from acmix.bench.settings import Settings
from acmix.bench.work import MachineLimits, Work, count_work, least_seconds, measure_limits

MAP = torch.empty(2, 8, 6, 5)


def test_multiply_adds_of_the_convolution() -> None:
    work = count_work(nn.Conv2d(8, 8, 3, padding=1), [MAP], "inference")
    assert work.macs == 2 * 8 * 8 * 9 * 6 * 5


def test_training_takes_three_times_as_many() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1)
    assert count_work(layer, [MAP], "training").macs == 3 * count_work(layer, [MAP], "inference").macs


def test_bytes_are_input_output_and_parameters() -> None:
    work = count_work(nn.Conv2d(8, 4, 1, bias=False), [MAP], "inference")
    assert work.least_bytes == 4 * (2 * 8 * 30 + 2 * 4 * 30 + 8 * 4)


def test_all_backends_need_the_same_work() -> None:
    auto, portable = (count_work(ACmix(8, 8, impl=impl), [MAP], "training") for impl in ("auto", "torch"))
    assert auto == portable
    assert auto.macs > 0


def test_counting_leaves_the_module_as_it_was() -> None:
    layer = nn.Conv2d(8, 8, 3)
    count_work(layer, [MAP], "training")
    assert (layer.weight.device.type, layer.weight.grad) == ("cpu", None)


@pytest.mark.parametrize(("work", "seconds"), [(Work(100, 1), 2.0), (Work(1, 100), 10.0)], ids=["arithmetic", "memory"])
def test_the_slower_of_arithmetic_and_memory_counts(work: Work, seconds: float) -> None:
    assert least_seconds(work, MachineLimits(100, 10)) == seconds


def test_the_machine_can_do_something() -> None:
    limits = measure_limits(Settings(), side=64)
    assert limits.flops_per_s > 1e6
    assert limits.bytes_per_s > 1e6
