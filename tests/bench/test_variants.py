"""Other people's attention in our layer computes what ours does."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from acmix.bench.case import Case
from acmix.bench.contenders import make_layer
from acmix.bench.flex import FlexWindowAttention
from acmix.bench.neighbourhood import NattenAttention, why_not_natten
from acmix.bench.variants import Attention, LayerAround, UnfoldedAttention
from acmix.functional import local_attention
from layer_comparison import randn

SHAPES = [(5, 1, 6, 7), (3, 2, 6, 5), (7, 2, 9, 8), (3, 3, 7, 7)]


def fake_na2d(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, scale: float) -> Tensor:
    """Neighbourhood attention, pixel by pixel: at the borders the window moves inwards. [B, H, W, N, D]."""
    out = torch.empty_like(q)
    height, width = q.shape[1:3]
    for y in range(height):
        for x in range(width):
            top = min(max(y - kernel_size // 2, 0), height - kernel_size)
            left = min(max(x - kernel_size // 2, 0), width - kernel_size)
            window = slice(top, top + kernel_size), slice(left, left + kernel_size)
            keys, values = (part[:, window[0], window[1]].flatten(1, 2) for part in (k, v))
            weights = (scale * torch.einsum("bnd,bknd->bkn", q[:, y, x], keys)).softmax(1)
            out[:, y, x] = torch.einsum("bkn,bknd->bnd", weights, values)
    return out


@pytest.fixture(autouse=True)
def natten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name with the function that is called."""
    module = ModuleType("natten")
    module.__spec__ = ModuleSpec("natten", None)
    module.na2d = fake_na2d  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, "natten", module)


class EagerFlex(FlexWindowAttention):
    """Not compiled, which would take half a minute; the mask is the same."""

    def __init__(self, window: int, stride: int) -> None:
        super().__init__(window, stride)
        self._attend = flex_attention


KINDS = [
    UnfoldedAttention,
    NattenAttention,
    pytest.param(
        EagerFlex,
        marks=[
            pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*:UserWarning"),
            pytest.mark.filterwarnings("ignore:.*return_lse is deprecated.*:FutureWarning"),
        ],
    ),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("window", "stride", "height", "width"), SHAPES)
def test_attention_is_ours(kind: type[Attention], window: int, stride: int, height: int, width: int) -> None:
    q, k, v = randn(3, 2, 2, 16, height, width, dtype=torch.float32)
    out = kind(window, stride)(q, k, v)
    torch.testing.assert_close(out, local_attention(q, k, v, window, stride=stride), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_around_it_is_our_layer(stride: int) -> None:
    layer = make_layer(Case("a", "layer", 1, 8, 6, stride, 5))
    x = randn(2, 8, 6, 7)
    around = LayerAround(layer, UnfoldedAttention(5, stride))
    torch.testing.assert_close(around(x), layer(x), rtol=1e-10, atol=1e-10)


def test_the_layer_that_is_measured_hides_nothing_behind_its_start() -> None:
    layer = make_layer(Case("a", "layer", 1, 8, 6))
    assert layer.alpha != 0.5 != layer.beta
    assert layer.shift.weight is not None
    assert layer.shift.weight.abs().min() > 0


def test_the_layer_that_is_measured_is_always_the_same() -> None:
    case = Case("a", "layer", 1, 8, 6)
    first, second = (make_layer(case).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_natten_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acmix.bench.neighbourhood.find_spec", lambda name: None)
    assert why_not_natten("inference", "cuda") == "natten is not installed"


def test_natten_has_no_backward_pass_on_the_cpu() -> None:
    assert why_not_natten("inference", "cpu") is None
    assert why_not_natten("training", "cuda") is None
    assert "no backward pass" in (why_not_natten("training", "cpu") or "")
