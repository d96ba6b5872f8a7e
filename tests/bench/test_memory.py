"""Memory, on modules whose needs are known."""

import pytest
import torch
from torch import Tensor, nn

from acmix.bench.memory import available_bytes, held_bytes, peak_bytes, saved_bytes
from acmix.bench.passes import Contestant, make_call

KIB = 1024


class Chain(nn.Module):
    """Three maps one after the other: two are alive at once, and autograd keeps the first two."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp().exp().sin()


@pytest.fixture
def x() -> Tensor:
    return torch.zeros(256 * KIB // 4)


def test_peak_counts_what_is_alive_at_once(x: Tensor) -> None:
    contestant = Contestant(Chain(), (x,))
    peak = peak_bytes(make_call(contestant, "inference"), "cpu", *contestant.held())
    # The input, and two of the three maps.
    assert 3 * 256 * KIB <= peak < 3.1 * 256 * KIB


def test_training_keeps_maps_until_their_gradients_are_there(x: Tensor) -> None:
    contestant = Contestant(Chain(), (x.requires_grad_(),))
    call = make_call(contestant, "training")
    call()
    assert peak_bytes(call, "cpu", *contestant.held()) >= 5 * 256 * KIB


def test_saved_are_the_distinct_storages_that_autograd_keeps(x: Tensor) -> None:
    # exp keeps its output, sin its input, which is the second exp's output.
    assert saved_bytes(Chain(), (x.requires_grad_(),)) == 2 * 256 * KIB


def test_views_are_held_once(x: Tensor) -> None:
    assert held_bytes(x, x[10:], x.view(2, -1)) == 256 * KIB


def test_free_memory_is_told_where_the_system_knows_it() -> None:
    free = available_bytes("cpu")
    assert free is None or free > 2**20
