"""Who takes part: ways to compute the layer or its attention, and the convolution that all are compared with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from acmix.bench.authors import AuthorsLayer, find_authors_file, load_authors_class
from acmix.bench.case import Case
from acmix.bench.flex import FlexWindowAttention, why_not_flex
from acmix.bench.neighbourhood import NattenAttention, why_not_natten
from acmix.bench.settings import Mode, Settings
from acmix.bench.variants import Attention, LayerAround, OpAttention, UnfoldedAttention
from acmix.nn import ACmix
from acmix.ops.dispatch import backend_reasons
from acmix.ops.problem import Problem

__all__ = ["CONTENDERS", "YARDSTICK", "Contender", "attention_problem", "make_layer"]

YARDSTICK = "conv3x3"

_WhyNot = Callable[[Case, Mode, Settings], str | None]


@dataclass(frozen=True)
class Contender:
    """One way to compute the operator.

    Attributes:
        words: what it is, in a few words.
        attention: makes its attention for a case; None where it has only a whole layer.
        layer: makes its layer from ours, which is in the run's dtype and on its device.
        why_not: why it cannot be measured, or None.
        ours: whether it is this library's own fault where it fails.
    """

    words: str
    attention: Callable[[Case], nn.Module] | None
    layer: Callable[[ACmix, Settings], nn.Module]
    why_not: _WhyNot
    ours: bool = False


def attention_problem(case: Case, settings: Settings) -> Problem:
    """The question that the backends are asked for a case's attention."""
    width = case.channels // case.heads
    return Problem("local_attention", settings.device, settings.dtype, case.window, width, case.stride)


def make_layer(case: Case) -> ACmix:
    """Our layer in float64 for a case, the same every time, with kernels and rates away from where they start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = ACmix(case.channels, case.channels, case.window, case.heads, stride=case.stride, dtype=torch.float64)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if name.startswith("shift") or name in ("alpha", "beta"):
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return layer


def _with_impl(layer: ACmix, impl: str) -> ACmix:
    layer.impl = impl
    return layer


def _backend(impl: str) -> _WhyNot:
    def why_not(case: Case, mode: Mode, settings: Settings) -> str | None:
        reasons = backend_reasons(attention_problem(case, settings))[impl]
        return "; ".join(reasons) or None

    return why_not


def _compiled(module: nn.Module) -> nn.Module:
    # For each size by itself: what is shared by all sizes would be slower.
    module.compile(dynamic=False)
    return module


def _around(kind: type[Attention]) -> Callable[[ACmix, Settings], nn.Module]:
    return lambda layer, settings: LayerAround(layer, kind(layer.kernel_att, layer.stride))


def _alone(kind: type[Attention]) -> Callable[[Case], nn.Module]:
    return lambda case: kind(case.window, case.stride)


def _reflects_once(case: Case) -> str | None:
    if case.window // 2 >= case.size:
        return f"its padding cannot reflect {case.window // 2} pixels on a map of {case.size}"
    return None


def _authors_layer(layer: ACmix, settings: Settings) -> nn.Module:
    if settings.official is None:
        raise RuntimeError("no checkout of the authors' code was named")
    return AuthorsLayer(load_authors_class(find_authors_file(settings.official)), layer)


def _why_not_authors(case: Case, mode: Mode, settings: Settings) -> str | None:
    if settings.official is None:
        return "--official names no checkout of the authors' code"
    if case.size % case.stride:
        return f"the authors' code cannot halve a map of {case.size}"
    return _reflects_once(case)


def _ours(words: str, impl: str) -> Contender:
    return Contender(
        words,
        attention=lambda case: OpAttention(case.window, case.stride, impl),
        layer=lambda layer, settings: _with_impl(layer, impl),
        why_not=(lambda case, mode, settings: None) if impl == "auto" else _backend(impl),
        ours=True,
    )


CONTENDERS: dict[str, Contender] = {
    "ours": _ours('impl="auto"', "auto"),
    "torch": _ours('impl="torch"', "torch"),
    "reference": _ours('impl="reference", the paper\'s order', "reference"),
    "reference-compiled": Contender(
        "the same under torch.compile",
        attention=lambda case: _compiled(OpAttention(case.window, case.stride, "reference")),
        layer=lambda layer, settings: _compiled(_with_impl(layer, "reference")),
        why_not=_backend("reference"),
    ),
    "flex": Contender(
        "FlexAttention over the reflected map",
        attention=_alone(FlexWindowAttention),
        layer=_around(FlexWindowAttention),
        why_not=lambda case, mode, settings: why_not_flex(mode, settings.device) or _reflects_once(case),
    ),
    "sdpa": Contender(
        "scaled_dot_product_attention over unfolded windows",
        attention=_alone(UnfoldedAttention),
        layer=_around(UnfoldedAttention),
        why_not=lambda case, mode, settings: _reflects_once(case),
    ),
    "natten": Contender(
        "NATTEN over the reflected map",
        attention=_alone(NattenAttention),
        layer=_around(NattenAttention),
        why_not=lambda case, mode, settings: why_not_natten(mode, settings.device) or _reflects_once(case),
    ),
    "official": Contender(
        "the authors' code",
        attention=None,
        layer=_authors_layer,
        why_not=_why_not_authors,
    ),
    # Last: the order gives the others their colours.
    "triton": _ours('impl="triton"', "triton"),
}
"""All ways to compute the operator, by name, in the order of tables and pictures."""
