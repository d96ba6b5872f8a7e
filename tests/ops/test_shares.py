"""How the native layer cuts a batch for its threads: into blocks that come out even."""

import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from acmix import ACmix
from acmix.ops.impl.cpu.layer import _shares, _shares_backward
from fast_backends import native


@pytest.mark.parametrize(
    ("batch", "threads", "fitting", "expected"),
    [(8, 2, 3, 2), (8, 2, 4, 4), (8, 2, 9, 4), (16, 4, 3, 2), (16, 2, 5, 4), (17, 2, 3, 3), (8, 2, 0, 1)],
)
def test_no_thread_waits_for_a_block_that_is_left_over(
    batch: int, threads: int, fitting: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_layer = sys.modules["acmix.ops.impl.cpu.layer"]  # the package has a function of that name
    monkeypatch.setattr(native_layer, "_THREAD_BYTES", 100 * fitting)
    assert _shares(batch, 100, threads) == (threads, expected)


@pytest.mark.parametrize(("batch", "image", "expected"), [(1, 100, (2, 1)), (3, 100, (2, 2)), (3, 2**23, (1, 1))])
def test_threads_without_images_help_with_all_but_large_ones(batch: int, image: int, expected: tuple[int, int]) -> None:
    assert _shares(batch, image, 2) == expected


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((8, 64, 56, 56), 2**21, (True, 2)),
        ((1, 64, 56, 56), 2**21, (True, 1)),
        ((8, 64, 448, 448), 2**27, (True, 1)),
        ((8, 128, 56, 56), 2**22, (True, 2)),
        ((8, 512, 14, 14), 2**21, (False, 2)),
        ((8, 64, 14, 14), 2**18, (False, 8)),
    ],
)
def test_images_that_are_large_beside_their_sums_are_taken_by_threads(
    shape: tuple[int, ...], image: int, expected: tuple[bool, int]
) -> None:
    assert _shares_backward(shape, image, threads=2) == expected


def on_threads(numbers: Sequence[int], run: Callable[[], list[Tensor]]) -> Iterator[list[Tensor]]:
    """What comes out on each number of threads."""
    before = torch.get_num_threads()
    try:
        for threads in numbers:
            torch.set_num_threads(threads)
            yield run()
    finally:
        torch.set_num_threads(before)


def assert_same_bits_on_any_number_of_threads(layer: ACmix, x: Tensor) -> None:
    first, *others = on_threads((1, 2, 3, 5), lambda: answers(layer, x))
    for other in others:
        assert all(torch.equal(one, same) for one, same in zip(first, other, strict=True))


def answers(layer: ACmix, x: Tensor) -> list[Tensor]:
    """What comes out without and with a graph, and all gradients."""
    with torch.no_grad():
        plain = layer(x)
    leaf = x.clone().requires_grad_()
    out = layer(leaf)
    return [plain, out, *torch.autograd.grad(out.sin().sum(), (leaf, *layer.parameters()))]


@native
@pytest.mark.parametrize("batch", range(1, 8))
@pytest.mark.parametrize("channels", [8, 64])
def test_a_batch_of_any_size_has_the_same_bits_on_any_number_of_threads(batch: int, channels: int) -> None:
    layer, x = ACmix(channels, channels), torch.randn(batch, channels, 20, 20)
    assert_same_bits_on_any_number_of_threads(layer, x)


@native
@pytest.mark.parametrize(
    ("channels", "out_channels", "side"),
    [(128, 128, 28), (64, 64, 48), (128, 32, 80), (64, 16, 80), (128, 128, 60)],
    ids=["kept", "computed again", "kept, x turned in pieces", "computed again, x turned apart", "shared"],
)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_threads_with_images_of_their_own_give_the_same_gradients_in_any_number(
    channels: int, out_channels: int, side: int, batch: int
) -> None:
    layer, x = ACmix(channels, out_channels), torch.randn(batch, channels, side, side)
    assert _shares_backward(x.shape, 4 * 3 * out_channels * side**2, threads=2)[0]
    assert_same_bits_on_any_number_of_threads(layer, x)


@native
def test_sums_over_more_images_than_are_there_at_a_time_lack_none() -> None:
    torch.manual_seed(0)
    layer, x = ACmix(32, 32), torch.randn(66, 32, 54, 54)

    def gradients(of: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(layer(of).sin().sum(), layer.parameters()))

    wholes = on_threads((1, 3), lambda: gradients(x))
    first, second = gradients(x[:33]), gradients(x[33:])
    for whole in wholes:
        for found, one, other in zip(whole, first, second, strict=True):
            assert (found - one - other).abs().max() <= 1e-6 * found.abs().max()
