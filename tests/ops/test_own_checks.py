"""Torch's own checks (`torch.library.opcheck`) of every registered op, on every backend that can run it here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from acmix.ops.dispatch import BACKENDS, backend_reasons
from acmix.ops.impl.layer_inputs import LayerInputs
from acmix.ops.problem import OpName, Problem

OPS = torch.ops.acmix

# What opcheck itself does to the inputs.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def attention(stride: int) -> tuple[Any, ...]:
    q, k, v = (randn(2, 2, 3, 5, 4, seed=seed) for seed in range(3))
    return q, k, v, randn(3, 5, 4, seed=3), 3, stride, 1, 0.5


def convolution(form: str, bias: bool) -> tuple[Any, ...]:
    pieces, fc, shift = randn(2, 3, 6, 5, 4), randn(9, 6, seed=1), randn(6, 9, 3, 3, seed=2)
    return pieces, fc, shift, randn(9, seed=3) if bias else None, 2, 1, form


def windows(shift: tuple[int, int], outside: bool) -> tuple[Any, ...]:
    return randn(2, 5, 4, 3, 6), randn(2, 6, 6, seed=1), randn(3, 6, seed=2) if outside else None, 2, 3, *shift


def whole_windows() -> tuple[Any, ...]:
    """None stands out over the map, and what would be there lies in memory as a layer's bias does."""
    outside = randn(6, 3, seed=2).detach().T.requires_grad_()
    return randn(2, 4, 6, 3, 6), randn(2, 6, 6, seed=1), outside, 2, 3, 1, 1


def the_map(*shape: int, channels_last: bool) -> Tensor:
    x = randn(*shape).detach()
    return (x.to(memory_format=torch.channels_last) if channels_last else x).requires_grad_()


def aggregate(channels_last: bool) -> tuple[Any, ...]:
    return randn(2, 2, 9, 5, 6, seed=1).contiguous(), the_map(2, 4, 5, 6, channels_last=channels_last), 3


def project(channels_last: bool) -> tuple[Any, ...]:
    scale, shift, weight = randn(4, 9, seed=1), randn(4, 9, seed=2), randn(3, 4, 9, seed=3)
    return the_map(2, 4, 5, 6, channels_last=channels_last), scale, shift, weight, 3


def layer(paths: str, stride: int) -> tuple[Any, ...]:
    """In float32, which alone the op knows."""
    shapes: dict[str, tuple[int, ...]] = {
        "x": (2, 3, 5, 4),
        **dict.fromkeys(("query", "key", "value"), (4, 3, 1, 1)),
        **dict.fromkeys(("query_bias", "key_bias", "value_bias"), (4,)),
        "position_weight": (2, 2, 1, 1),
        "position_bias": (2,),
        "grid": (2, 5, 4),
        "fc_weight": (9, 6, 1, 1),
        "fc_rate": (1,),
        "shift_weight": (4, 9, 3, 3),
        "rate": (1,),
    }
    missing = {
        "both": (),
        "attention": ("fc_weight", "fc_rate", "shift_weight"),
        "convolution": ("query_bias", "key_bias", "value_bias", "position_weight", "position_bias", "grid", "rate"),
    }[paths]
    tensors = {name: randn(*shape, seed=seed).detach().float() for seed, (name, shape) in enumerate(shapes.items())}
    inputs = (None if name in missing else x.requires_grad_(name != "grid") for name, x in tensors.items())
    return *inputs, 2, 0 if paths == "convolution" else 3, stride, 1


CASES: dict[OpName, dict[str, Callable[[], tuple[Any, ...]]]] = {
    "local_attention": {"stride 1": lambda: attention(1), "stride 2": lambda: attention(2)},
    "convolution_path": {
        "composed": lambda: convolution("composed", False),
        "composed with bias": lambda: convolution("composed", True),
        "two-step with bias": lambda: convolution("two_step", True),
    },
    "window_attention": {
        "windows": lambda: windows((0, 0), False),
        "shifted windows": lambda: windows((1, 1), True),
        "whole windows": whole_windows,
    },
    "neighbourhood_aggregate": {"contiguous": lambda: aggregate(False), "channels_last": lambda: aggregate(True)},
    "neighbourhood_project": {"contiguous": lambda: project(False), "channels_last": lambda: project(True)},
    "layer": {
        "both": lambda: layer("both", 1),
        "stride 2": lambda: layer("both", 2),
        "attention": lambda: layer("attention", 1),
        "convolution": lambda: layer("convolution", 1),
    },
}

# Without dynamic sizes: torch 2.15 has no second derivative of a convolution there, nor for its own layers.
STATIC = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")


def backends(op: OpName) -> list[str]:
    """Those that run inside of the registered op; the reference runs in its place."""
    reasons = backend_reasons(Problem(op, "cpu", torch.float32 if op == "layer" else torch.float64, 3, 3))
    return [name for name in BACKENDS if name != "reference" and not reasons[name]]


EVERY = pytest.mark.parametrize(
    ("op", "impl", "case"), [(op, impl, case) for op, cases in CASES.items() for impl in backends(op) for case in cases]
)


def test_every_registered_op_is_here() -> None:
    schemas = {schema.name for schema in torch._C._jit_get_all_schemas()}
    registered = {name.removeprefix("acmix::") for name in schemas if name.startswith("acmix::")}
    assert registered == {name for op in CASES for name in (op, f"{op}_backward")}


@EVERY
def test_op(op: OpName, impl: str, case: str) -> None:
    last = True if op == "layer" else impl  # the layer has one backend; it keeps what its backward pass reads
    torch.library.opcheck(getattr(OPS, op).default, (*CASES[op][case](), last))


def backward_arguments(op: OpName, impl: str, case: str) -> tuple[Any, ...]:
    arguments = [x.detach() if isinstance(x, Tensor) else x for x in CASES[op][case]()]
    last: bool | str = impl
    if op == "layer":
        out, projected = getattr(OPS, op)(*arguments, last := True)
        arguments[len(LayerInputs._fields) : len(LayerInputs._fields)] = [projected]
    else:
        out = getattr(OPS, op)(*arguments, impl)
    if op == "local_attention":  # its backward pass may read the output
        arguments[4:4], out = out, out[0]
    grad = randn(*out.shape, seed=5).to(out.dtype)
    return grad, *arguments, last


@EVERY
def test_gradients_lie_in_memory_as_the_fake_ones_do(op: OpName, impl: str, case: str) -> None:
    backward, arguments = getattr(OPS, f"{op}_backward").default, backward_arguments(op, impl, case)
    with FakeTensorMode() as mode:
        fake = backward(*(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in arguments))
    assert [x.stride() for x in backward(*arguments)] == [x.stride() for x in fake]


@pytest.mark.slow
@EVERY
def test_backward_op(op: OpName, impl: str, case: str) -> None:
    arguments = backward_arguments(op, impl, case)
    torch.library.opcheck(getattr(OPS, f"{op}_backward").default, arguments, test_utils=STATIC)
