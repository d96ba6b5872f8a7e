"""Both stages of the layer as one native op: threads, strips of large maps and scratch memory change no answer."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import acmix.ops.layer
from fast_backends import INSTRUCTION_SETS, FastBackend, native, on_threads, using
from layer_answers import answers, errors, made

pytestmark = native


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of scratch memory that the native layer asks for, by name."""
    native_layer = sys.modules["acmix.ops.impl.cpu.layer"]  # the package has a function of that name
    shapes: dict[str, list[tuple[int, ...]]] = {}
    scratch = native_layer.scratch

    def watched(name: str, shape: tuple[int, ...]) -> Tensor:
        shapes.setdefault(name, []).append(shape)
        memory: Tensor = scratch(name, shape)
        return memory

    monkeypatch.setattr(native_layer, "scratch", watched)
    return shapes


@pytest.mark.parametrize("shape", [(3, 24, 21, 18), (4, 24, 70, 55), (5, 24, 70, 55)], ids=str)
def test_any_number_of_threads_gives_the_same_bits(shape: tuple[int, ...]) -> None:
    layer = made(24, {"position": False})  # whose code is torch's own convolution
    x = torch.randn(shape)
    grad = torch.randn_like(layer(x))
    first, *others = on_threads(lambda: answers(layer, x, grad))
    for other in others:
        assert {name for name, found in first.items() if not torch.equal(found, other[name])} == set()


@pytest.mark.parametrize("room", [1, 12_000, 24_000])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize(
    ("size", "batch", "options"),
    [
        ((40, 21), 1, {}),
        ((26, 40), 1, {}),
        ((37, 52), 2, {}),
        ((31, 61), 3, {"kernel_att": 5}),
        ((41, 21), 3, {"stride": 2}),
        ((50, 17), 2, {"kernel_att": 5, "dilation": 2}),
        ((43, 19), 4, {"kernel_att": 3, "kernel_conv": 5, "stride": 3}),
        ((33, 9), 1, {"kernel_att": 9, "paths": "attention"}),
        ((40, 14), 5, {"kernel_att": 1, "stride": 2, "paths": "attention"}),  # rows that no output sees
        ((43, 19), 2, {"kernel_att": 3, "stride": 5}),
        ((33, 9), 2, {"paths": "convolution", "stride": 2}),
    ],
    ids=str,
)
def test_large_maps_are_computed_in_strips_to_the_same_bits(
    size: tuple[int, int],
    batch: int,
    options: dict[str, Any],
    instructions: str,
    room: int,
    asked: dict[str, list[tuple[int, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = made(8, options)
    x = torch.randn(batch, 8, *size)
    native_layer = sys.modules["acmix.ops.impl.cpu.layer"]
    with using(FastBackend("cpu", instructions)), torch.no_grad():
        whole = layer(x)
        monkeypatch.setattr(native_layer, "_forward_plan", native_layer._forward_plan.__wrapped__)
        for name in ("_STRIP_BYTES", "_THREAD_BYTES", "_FORWARD_BYTES"):
            monkeypatch.setattr(native_layer, name, room if name == "_STRIP_BYTES" else 1)
        before = torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert torch.equal(whole, layer(x))
        finally:
            torch.set_num_threads(before)
    whole_maps, *strips = (math.prod(shape) for shape in asked["projected"])
    assert whole_maps > max(strips)


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ((16, 16), 18),  # 16 channels a head: a piece's rows take 1 KiB
        ((16, 32), 17),  # 2 KiB, of which two are a page
        ((15, 16), 15),
    ],
    ids=str,
)
def test_pieces_whole_pages_apart_are_kept_from_it(
    size: tuple[int, int], rows: int, asked: dict[str, list[tuple[int, ...]]]
) -> None:
    layer = made(64, {})
    x = torch.randn(3, 64, *size)
    with torch.no_grad():
        found, many = layer(x[:1]), layer(x)
    assert asked["projected"][0] == (1, 3, 4, 16, rows, size[1])
    torch.testing.assert_close(many[:1], found, rtol=0, atol=0)
    layer.impl = "torch"
    with torch.no_grad():
        torch.testing.assert_close(many, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_x_is_turned_in_pieces_where_there_is_little_room(
    instructions: str, asked: dict[str, list[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x, grad = made(8, {}), torch.randn(2, 8, 33, 21), torch.randn(2, 8, 33, 21)
    native_layer = sys.modules["acmix.ops.impl.cpu.layer"]
    monkeypatch.setattr(acmix.ops.layer, "_KEPT_DEPTH", 0)
    monkeypatch.setattr(native_layer, "_backward_plan", native_layer._backward_plan.__wrapped__)
    with using(FastBackend("cpu", instructions)):
        whole = answers(layer, x, grad)
        monkeypatch.setattr(native_layer, "_TURNED_BYTES", 1)
        monkeypatch.setattr(native_layer, "_TURNED_PIXELS", 120)
        pieces = answers(layer, x, grad)
    (many,), (few,) = asked["turned"]
    assert few == 120 * many // (33 * 21)
    summed = [name for name in whole if name.startswith(("query", "key", "value"))]
    assert {name for name in whole if not torch.equal(whole[name], pieces[name])} <= set(summed)
    truth = answers(layer.double(), x.double(), grad.double())
    errors_of_whole, errors_of_pieces = errors(whole, truth), errors(pieces, truth)
    assert {
        name: errors_of_pieces[name] for name in summed if errors_of_pieces[name] > 2 * errors_of_whole[name] + 1
    } == {}
