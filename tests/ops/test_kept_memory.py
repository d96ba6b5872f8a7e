"""Memory for what the native layer keeps for its backward pass: used again, and never too early."""

import gc
import os
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import acmix
from acmix.ops.impl import cpu
from acmix.ops.impl.cpu.scratch import idle_bytes, kept_memory, release_memory
from fast_backends import native

pytestmark = native

SHAPE = (2, 3, 4, 8, 6, 7)
BYTES = 4 * 2 * 3 * 4 * 8 * 6 * 7
MEBIBYTE = (1, 3, 1, 1, 1, 2**18)  # three of them
X = torch.zeros(1)


@pytest.fixture(autouse=True)
def _nothing_lies_ready() -> Iterator[None]:
    gc.collect()
    release_memory()
    yield
    release_memory()


def taken(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return kept_memory(X, shape)


def test_a_block_comes_back_when_its_storage_dies_and_is_taken_again() -> None:
    first = taken()
    assert first.shape == SHAPE
    assert first.is_contiguous()
    assert first.dtype == torch.float32
    place = first.data_ptr()
    assert idle_bytes() == 0
    del first
    assert idle_bytes() == BYTES
    second = taken()
    assert idle_bytes() == 0
    assert second.data_ptr() == place


def test_views_hold_it_and_so_do_detached_tensors_and_arrays() -> None:
    first = taken().fill_(3)
    holders = [first[0, 1], first.detach(), first.numpy(), first.untyped_storage()]
    del first
    while holders:
        assert idle_bytes() == 0
        taken().fill_(7)
        release_memory()  # the other block
        rest = holders.pop(0)
        if isinstance(rest, Tensor):
            assert (rest == 3).all()
        del rest
    assert idle_bytes() == BYTES


def test_a_block_that_is_much_larger_is_left_for_others() -> None:
    del_later = taken(MEBIBYTE)
    place = del_later.data_ptr()
    del del_later
    small = taken((1, 3, 1, 1, 1, 2**17))
    assert small.data_ptr() != place
    assert idle_bytes() == 3 * 2**20
    nearly = taken((1, 3, 1, 1, 1, 2**18 - 2**14))
    assert nearly.data_ptr() == place
    # What is seen, saved and measured is what was asked for.
    assert nearly.untyped_storage().nbytes() == 12 * (2**18 - 2**14)


def test_the_smallest_block_that_fits_is_taken() -> None:
    large, small = taken((1, 3, 1, 1, 1, 1040)), taken((1, 3, 1, 1, 1, 1010))
    place = small.data_ptr()
    del large, small
    assert taken((1, 3, 1, 1, 1, 1000)).data_ptr() == place


def test_no_more_than_so_much_lies_ready() -> None:
    blocks = [taken((1, 3, 1, 1, 1, 2**24)) for _ in range(3)]  # 192 MiB each, never written to
    places = [block.data_ptr() for block in blocks]
    for _ in range(3):
        del blocks[0]
    assert idle_bytes() == 2 * 192 * 2**20
    assert taken((1, 3, 1, 1, 1, 2**24)).data_ptr() in places[1:]  # the two that came back last
    block = taken((1, 3, 1, 1, 3, 2**24))  # 576 MiB
    del block
    assert idle_bytes() == 2 * 192 * 2**20


def test_release_gives_all_back() -> None:
    del_later = taken()
    del del_later
    cpu.release_memory()
    assert idle_bytes() == 0


def test_threads_share_what_lies_ready() -> None:
    errors: list[str] = []

    def work(number: int) -> None:
        for step in range(200):
            block = taken().fill_(1000 * number + step)
            if not bool((block == 1000 * number + step).all()):
                errors.append(f"{number} {step}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert BYTES <= idle_bytes() <= 2 * 4 * BYTES  # each takes another before it lets go


def test_a_forked_process_can_go_on() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            taken()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(50):
            child = os.fork()
            if child == 0:
                taken()
                release_memory()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def made() -> tuple[acmix.ACmix, Tensor]:
    torch.manual_seed(0)
    return acmix.ACmix(128, 16, kernel_att=3), torch.randn(2, 128, 6, 7, requires_grad=True)


def test_a_training_step_gives_its_block_back() -> None:
    layer, x = made()
    out = layer(x)
    assert idle_bytes() == 0
    out.sum().backward()
    kept = 4 * 2 * 3 * 16 * 6 * 7
    assert idle_bytes() == kept
    layer(x).sum().backward()
    assert idle_bytes() == kept


def test_a_graph_that_stays_keeps_its_values() -> None:
    layer, x = made()
    out = layer(x)
    (first,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    layer(torch.randn_like(x)).sum().backward()
    layer(torch.randn_like(x)).sum().backward()
    (second,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_what_a_hook_takes_away_stays_as_it_was() -> None:
    layer, x = made()
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x).sum().backward()
    copies = [tensor.clone() for tensor in saved]
    assert any(tensor.dim() == 6 for tensor in saved)
    layer(torch.randn_like(x)).sum().backward()
    for tensor, copy in zip(saved, copies, strict=True):
        torch.testing.assert_close(tensor, copy, rtol=0, atol=0)


def test_checkpoints_and_second_derivatives_give_it_back() -> None:
    layer, x = made()
    out = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    first.square().sum().backward()
    del out, first
    gc.collect()
    assert idle_bytes() > 0
    held = idle_bytes()
    layer(x).sum().backward()
    assert idle_bytes() == held
