"""Questions to every layer alike: which backends its ops run on, what it refuses, forward-mode derivatives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from acmix import ACmix
from acmix.nn import (
    PairwiseAttention,
    PatchwiseACmix,
    PatchwiseAttention,
    ShiftedWindowACmix,
    SpatialReductionACmix,
)
from fast_backends import native
from layer_comparison import randn
from network_suite import awake


class OnMap(SpatialReductionACmix):
    """PVT's layer with the size of its one map at hand."""

    def forward(self, x: Tensor, size: tuple[int, int] = (5, 4)) -> Tensor:
        return super().forward(x, size)


LAYERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "ACmix": (lambda **options: ACmix(8, 8, 3, 2, **options), (2, 8, 5, 4)),
    "ShiftedWindowACmix": (lambda **options: ShiftedWindowACmix(8, 2, 4, 2, **options), (2, 5, 4, 8)),
    "OnMap": (lambda **options: OnMap(8, 2, 2, **options), (2, 20, 8)),
    "PatchwiseACmix": (lambda **options: PatchwiseACmix(8, 8, 3, share=2, **options), (2, 8, 5, 4)),
    "PatchwiseAttention": (lambda **options: PatchwiseAttention(8, 8, 3, **options), (2, 8, 5, 4)),
    "PairwiseAttention": (lambda **options: PairwiseAttention(8, 8, 3, **options), (2, 8, 5, 4)),
}

# The ops that the native kernels do not have.
WITHOUT_KERNELS = {
    "ShiftedWindowACmix": "window_attention",
    "OnMap": "token_attention",
    "PatchwiseACmix": "neighbourhood_aggregate and no neighbourhood_project",
    "PatchwiseAttention": "neighbourhood_aggregate and no neighbourhood_project",
    "PairwiseAttention": "neighbourhood_aggregate and no neighbourhood_project",
}

# Torch loads its forward-mode rules through what it deprecates.
FORWARD_MODE = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script` is deprecated:FutureWarning")


def made(name: str, **options: Any) -> tuple[nn.Module, Tensor]:
    layer, shape = LAYERS[name]
    return awake(layer(dtype=torch.float64, **options)).eval(), randn(*shape)


class Calls(TorchDispatchMode):
    """Writes down which ops run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def fast_ops(layer: nn.Module, *inputs: Any) -> set[str]:
    """Ops of this library, and torch's own attention, which the layer calls."""
    with Calls() as calls:
        layer(*inputs)
    return {name for name in calls.names if name.startswith("acmix::") or "scaled_dot_product" in name}


@pytest.mark.parametrize("name", LAYERS)
def test_the_reference_is_the_reference_of_every_op(name: str) -> None:
    layer, x = made(name, impl="reference")
    fast, _ = made(name)
    norm = (awake(nn.BatchNorm2d(8, dtype=torch.float64)).eval(),) if name.startswith(("Patch", "Pair")) else ()
    assert fast_ops(layer, x, *norm) == set()
    assert fast_ops(fast, x, *norm) != set()
    torch.testing.assert_close(layer(x, *norm), fast(x, *norm), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", WITHOUT_KERNELS)
def test_a_backend_that_lacks_an_op_is_refused_when_the_layer_is_made(name: str) -> None:
    expected = f"{name}: impl='cpu' has no {WITHOUT_KERNELS[name]}, expected 'torch' or 'reference'"
    with pytest.raises(ValueError, match=expected):
        LAYERS[name][0](impl="cpu")


@pytest.mark.parametrize("name", LAYERS)
def test_an_unknown_backend_is_named_when_the_layer_is_made(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: impl='tourch' is no backend.*did you mean 'torch'"):
        LAYERS[name][0](impl="tourch")


@native
@pytest.mark.parametrize("name", ["ACmix", "ShiftedWindowACmix", "OnMap"])
def test_a_layer_of_the_convolution_path_alone_takes_the_native_kernels(name: str) -> None:
    layer, x = made(name, impl="cpu", paths="convolution")
    other, _ = made(name, impl="reference", paths="convolution")
    torch.testing.assert_close(layer(x), other(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "ACmix"])
@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (lambda x: None, "is a NoneType, expected a tensor"),
        (lambda x: x.tolist(), "is a list, expected a tensor"),
        (lambda x: x.int(), "is torch.int32, expected a floating-point dtype"),
        (
            lambda x: x.to(torch.float8_e4m3fn),
            "is torch.float8_e4m3fn, expected a floating-point dtype of 16, 32",
        ),
    ],
    ids=["None", "list", "int", "float8"],
)
def test_what_is_no_map_is_named(name: str, bad: Callable[[Tensor], Any], told: str) -> None:
    layer, x = made(name)
    with pytest.raises(TypeError, match=f"{name}: the input {told}"):
        layer(bad(x))


@FORWARD_MODE
@pytest.mark.parametrize("how", ["torch.func.jvp", "forward_ad"])
@pytest.mark.parametrize("name", LAYERS)
def test_forward_mode_agrees_with_backward_mode(name: str, how: str) -> None:
    layer, x = made(name)
    leaf, direction = x.clone().requires_grad_(), randn(*x.shape, seed=1)
    (grad,) = torch.autograd.grad(layer(leaf).sin().sum(), leaf)
    if how == "forward_ad":
        with forward_ad.dual_level():
            loss = layer(forward_ad.make_dual(x, direction)).sin().sum()
            along = forward_ad.unpack_dual(loss).tangent
    else:
        along = torch.func.jvp(lambda x: layer(x).sin().sum(), (x,), (direction,))[1]
    torch.testing.assert_close(along, (grad * direction).sum(), rtol=1e-10, atol=1e-12)


@native
def test_forward_mode_on_the_native_kernels_is_refused() -> None:
    layer, x = made("ACmix", impl="cpu")
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"impl='cpu' cannot run inside .*forward-mode"):
        layer(forward_ad.make_dual(x, x))
