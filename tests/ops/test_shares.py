"""How the native layer cuts a batch for its threads: into blocks that come out even."""

import sys

import pytest

from acmix.ops.impl.cpu.layer import _shares


@pytest.mark.parametrize(
    ("batch", "threads", "fitting", "expected"),
    [(8, 2, 3, 2), (8, 2, 4, 4), (8, 2, 9, 4), (16, 4, 3, 2), (16, 2, 5, 4), (17, 2, 3, 3), (8, 2, 0, 1)],
)
def test_no_thread_waits_for_a_block_that_is_left_over(
    batch: int, threads: int, fitting: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    native_layer = sys.modules["acmix.ops.impl.cpu.layer"]  # the package has a function of that name
    monkeypatch.setattr(native_layer, "_THREAD_BYTES", 100 * fitting)
    assert _shares(batch, 100) == (threads, expected)


def test_an_odd_image_goes_to_all_threads_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert _shares(1, 100) == (1, 1)
