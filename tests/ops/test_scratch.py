"""Scratch memory of the native layer: whose it is, and how long it stays."""

import sys
import threading

import pytest
import torch
from torch import Tensor

from acmix.ops.impl.cpu.scratch import scratch

MODULE = sys.modules["acmix.ops.impl.cpu.scratch"]


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_kept", MODULE._Kept())


def test_a_name_has_one_memory_and_another_name_another() -> None:
    first = scratch("first", (2, 3))
    assert first.shape == (2, 3)
    assert first.dtype == torch.float32
    assert scratch("first", (3, 2)).data_ptr() == scratch("first", (2, 3)).data_ptr() == first.data_ptr()
    assert scratch("second", (2, 3)).data_ptr() != first.data_ptr()


def test_memory_that_has_grown_is_that_of_all_shapes() -> None:
    small = scratch("it", (4,))
    large = scratch("it", (40,))
    assert large.data_ptr() != small.data_ptr()
    assert scratch("it", (4,)).data_ptr() == large.data_ptr()


def test_it_remembers_some_shapes_and_keeps_one_memory_for_more() -> None:
    places = {scratch("it", (size,)).data_ptr() for size in range(2 * MODULE._MOST_VIEWS, 0, -1)}
    assert len(places) == 1
    assert len(MODULE._kept.views) <= MODULE._MOST_VIEWS


def test_a_large_buffer_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_MOST", 400)
    monkeypatch.setattr(MODULE, "_MOST_OF_A_THREAD", 0)
    scratch("it", (101,))
    assert MODULE._kept.buffers == {}
    scratch("it", (100,))
    assert [buffer.numel() for buffer in MODULE._kept.buffers.values()] == [100]


def test_what_inference_has_asked_for_first_can_be_written_in_training() -> None:
    with torch.inference_mode():
        scratch("it", (8,))
    assert not scratch("it", (8,)).is_inference()
    assert not scratch("it", (4,)).is_inference()


def test_threads_have_memory_of_their_own() -> None:
    own, others = scratch("it", (8,)), list[Tensor]()
    thread = threading.Thread(target=lambda: others.append(scratch("it", (8,))))
    thread.start()
    thread.join()
    assert others[0].data_ptr() != own.data_ptr()
