"""Both stages of the layer as one native op, against the parts in float64."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import acmix.nn.acmix
import acmix.ops.layer
from acmix import ACmix
from acmix.nn.position import coordinate_grid
from acmix.ops.impl.cpu.layer import _shares_backward
from fast_backends import INSTRUCTION_SETS, FastBackend, native, using
from layer_answers import answers, errors, made

pytestmark = native

# Channels, height, width, options: vectors with and without remainders, maps within the window, products of several
# blocks of depth, tiles over the border of images.
CASES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "16 x 24": (16, 16, 24, {}),
    "odd": (12, 13, 9, {}),
    "one row": (8, 1, 30, {"kernel_att": 3}),
    "smaller than the window": (8, 4, 5, {}),
    "deep": (288, 5, 4, {}),
    "stride 2": (16, 16, 16, {"stride": 2}),
    "stride 2, odd": (12, 17, 19, {"stride": 2, "kernel_att": 5}),
    "stride 3": (12, 10, 11, {"stride": 3}),
    "dilation": (8, 12, 20, {"dilation": 2, "kernel_att": 5}),
    "strided dilation": (8, 12, 20, {"dilation": 2, "stride": 2}),
    "wide window": (8, 12, 12, {"kernel_att": 9}),
    "five taps": (8, 9, 12, {"kernel_conv": 5, "num_heads": 2}),
    "large": (32, 56, 52, {"kernel_att": 3}),
    "large, stride 2": (32, 57, 52, {"kernel_att": 3, "stride": 2}),
    "no biases": (8, 9, 12, {"bias": False, "position": False}),
    "one rate": (8, 9, 12, {"rates": "alpha,1-alpha", "conv_bias": True}),
    "no rates": (8, 9, 12, {"rates": "1,1"}),
    "attention": (8, 9, 12, {"paths": "attention"}),
    "convolution": (8, 9, 12, {"paths": "convolution", "stride": 2}),
}


RATES = ("alpha", "beta")


def terms_over_sum(layer: ACmix, x: Tensor, grad: Tensor, truth: dict[str, Tensor]) -> dict[str, float]:
    """How far the terms of the rates' gradients cancel: the sum of their sizes over the size of their sum."""
    cancelled = {}
    for name in RATES:
        rate = getattr(layer, name)
        if rate is None:
            continue
        with torch.no_grad():
            before = layer(x)
            rate.add_(1)
            terms = (layer(x) - before) * grad
            rate.sub_(1)
        cancelled[name] = float(terms.abs().sum() / truth[name].abs())
    return cancelled


def position_terms_over_sum(layer: ACmix, x: Tensor, grad: Tensor, truth: dict[str, Tensor]) -> float:
    """The same of the position's gradient: of the keys' gradients times their coordinates, and of what they sum to."""
    projected = layer._project(x.detach())
    keys = projected.k.detach().requires_grad_()
    attended = layer._attend(projected._replace(k=keys))
    assert attended is not None
    (grad_keys,) = torch.autograd.grad(layer.attended(attended), keys, grad)
    grid = coordinate_grid(*x.shape[2:], layer.position_step, x)
    terms = torch.einsum("bndhw,chw->dc", grad_keys.abs(), grid.abs())
    return float(terms.max() / truth["position.weight"].abs().max())


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "computed again"])
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
def test_it_is_as_exact_as_its_parts(case: str, instructions: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    channels, height, width, options = CASES[case]
    layer = made(channels, options)
    x = torch.randn(5, channels, height, width)
    grad = torch.randn_like(layer(x))
    monkeypatch.setattr(acmix.ops.layer, "_KEPT_DEPTH", 0 if kept else 2**40)
    native_layer = sys.modules["acmix.ops.impl.cpu.layer"]  # the package has a function of that name
    monkeypatch.setattr(native_layer, "_BACKWARD_BYTES", 3 * 4 * x[:2].numel())  # two images at a time
    monkeypatch.setattr(native_layer, "_FORWARD_BYTES", 3 * 4 * x[:2].numel())
    for plan in ("_forward_plan", "_backward_plan"):  # asked anew
        monkeypatch.setattr(native_layer, plan, getattr(native_layer, plan).__wrapped__)
    assert layer._inputs_at_once(x) is not None
    with using(FastBackend("cpu", instructions)):
        found = answers(layer, x, grad)
    monkeypatch.setattr(acmix.nn.acmix, "runs_at_once", lambda *_: False)
    in_parts = answers(layer, x, grad)
    truth = answers(layer.double(), x.double(), grad.double())
    # A sum's terms may cancel to a small part of them, and so does not the rounding of each: an eighth of a unit each.
    least = dict.fromkeys(truth, 8.0)
    for name, terms in terms_over_sum(layer, x.double(), grad.double(), truth).items():
        least[name] += terms / 8
    if "position.weight" in truth:
        terms = position_terms_over_sum(layer, x.double(), grad.double(), truth)
        least["position.weight"] = min(64.0, least["position.weight"] + terms / 8)
    allowed = {name: max(2 * error, least[name]) for name, error in errors(in_parts, truth).items()}
    worse = {name: (error, allowed[name]) for name, error in errors(found, truth).items() if error > allowed[name]}
    assert worse == {}


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"bias": False}, {"paths": "attention"}, {"paths": "convolution"}], ids=str
)
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_a_large_image_alone_has_the_gradients_that_it_has_among_others(
    options: dict[str, Any], instructions: str
) -> None:
    """Sums over the images of a batch: of others that give nothing, and of none."""
    layer, x = made(32, options), torch.randn(1, 32, 57, 52)
    grad = torch.randn_like(layer(x))
    assert _shares_backward(x.shape, 4 * 3 * x.numel(), threads=1)[0]
    with using(FastBackend("cpu", instructions)):
        alone = answers(layer, x, grad)
        among = answers(layer, torch.cat([x, x]), torch.cat([grad, torch.zeros_like(grad)]))
    assert len(alone) > 2
    for name, found in alone.items():
        assert torch.equal(found, among[name][:1] if name in ("out", "x") else among[name]), name


@pytest.mark.parametrize("size", [(9, 12), (57, 52)], ids=str)
@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_gradients_have_the_same_bits_whether_projections_are_kept_or_computed_again(
    instructions: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x, grad = made(64, {}), torch.randn(2, 64, *size), torch.randn(2, 64, *size)
    with using(FastBackend("cpu", instructions)):
        monkeypatch.setattr(acmix.ops.layer, "_KEPT_DEPTH", 0)
        kept = answers(layer, x, grad)
        monkeypatch.setattr(acmix.ops.layer, "_KEPT_DEPTH", 2**40)
        again = answers(layer, x, grad)
    assert kept.keys() == again.keys()
    assert [name for name in kept if not torch.equal(kept[name], again[name])] == []


@pytest.mark.parametrize("name", ["x", *(name for name, _ in ACmix(8, 8).named_parameters())])
def test_each_gradient_alone(name: str) -> None:
    layer = made(8, {"kernel_att": 3})
    x = torch.randn(2, 8, 6, 7)
    grad = torch.randn(2, 8, 6, 7)
    every = answers(layer, x, grad)
    for other, parameter in layer.named_parameters():
        parameter.requires_grad_(other == name)
    wanted = x.requires_grad_() if name == "x" else dict(layer.named_parameters())[name]
    (alone,) = torch.autograd.grad(layer(x), wanted, grad)
    torch.testing.assert_close(alone, every[name])


@pytest.mark.parametrize("paths", ["both", "attention"])
def test_it_runs_in_parts_where_a_bias_has_been_taken_away(paths: Any) -> None:
    x = torch.randn(1, 8, 7, 7)
    layer = made(8, {"paths": paths})
    assert layer._inputs_at_once(x) is not None
    assert layer.position is not None
    expected = layer(x).detach()
    layer.position.bias = None  # which moves all logits of a query alike
    assert layer._inputs_at_once(x) is None
    found = layer(x)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-5)
    for name in ("query", "key", "value"):
        layer = made(8, {"paths": paths})
        getattr(layer, name).bias = None
        assert layer._inputs_at_once(x) is None


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_parameters_that_do_not_fit_are_refused(instructions: str) -> None:
    x = torch.randn(1, 8, 7, 7)
    layers = [made(8, {}) for _ in range(2)]
    layers[0].fc = torch.nn.Conv2d(3, 9, 1, bias=False)
    layers[1].shift.weight = torch.nn.Parameter(torch.randn(6, 9, 3, 3))
    with using(FastBackend("cpu", instructions)):
        for layer in layers:
            with pytest.raises(
                RuntimeError, match=r"the convolution path has .* pieces and .* channels, expected 12 and 8"
            ):
                layer(x)


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
def test_long_sums_of_one_sign_stay_exact(instructions: str) -> None:
    """The projections' gradients where all terms are alike: rounding errors would pile up in one long sum."""
    layer = made(2, {"num_heads": 1, "paths": "convolution", "rates": "1,1"})
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.abs_()
    x = torch.full((24, 2, 56, 56), 0.3)
    grad = torch.ones(24, 2, 56, 56)
    with using(FastBackend("cpu", instructions)):
        found = answers(layer, x, grad)
    truth = answers(layer.double(), x.double(), grad.double())
    for name in ("query.weight", "key.weight", "value.weight", "query.bias"):
        torch.testing.assert_close(found[name].double(), truth[name], rtol=2e-6, atol=0)


def test_second_derivatives_are_those_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(8, {"kernel_att": 3, "stride": 2})
    x = torch.randn(2, 8, 6, 7, requires_grad=True)

    def seconds() -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        names, parameters = zip(*layer.named_parameters(), strict=True)
        grads = torch.autograd.grad(first.square().sum(), (x, *parameters))
        return tuple(grad for name, grad in zip(("x", *names), grads, strict=True) if name != "position.bias")

    found = seconds()
    monkeypatch.setattr(acmix.nn.acmix, "runs_at_once", lambda *_: False)
    for one, other in zip(found, seconds(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    layer = made(8, {})
    x = torch.randn(2, 8, 6, 7, requires_grad=True)
    (plain,) = torch.autograd.grad(layer(x).square().sum(), x)
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, plain)


@pytest.mark.parametrize("name", ["alpha", "beta", "shift.weight", "fc.weight"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_of_another_dtype_are_cast_as_by_the_parts(name: str, dtype: torch.dtype) -> None:
    layer, plain = made(8, {}), made(8, {"impl": "torch"})
    for one in (layer, plain):
        parameter = one.get_parameter(name)
        parameter.data = parameter.data.to(dtype)
    x = torch.randn(2, 8, 6, 7)
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("shape", [(1, 8, 0, 5), (1, 8, 5, 0), (0, 8, 5, 5)], ids=str)
def test_an_empty_map_does_not_end_a_compiled_process(shape: tuple[int, ...]) -> None:
    assert ACmix(8, 8)._inputs_at_once(torch.zeros(shape)) is None
    q = (torch.zeros(1, 2, 4, *shape[2:]) if shape[0] else torch.zeros(0, 2, 4, 5, 5)).requires_grad_()
    out = torch.ops.acmix.local_attention(q, q, q, None, 3, 1, 1, 1.0, "cpu")[0]
    assert out.shape == q.shape
    (grad,) = torch.autograd.grad(out, q, torch.ones(q.shape))
    assert grad.shape == q.shape


def test_where_it_does_not_run_the_parts_do() -> None:
    layer = ACmix(8, 8)
    x = torch.randn(2, 8, 6, 7)
    assert layer._inputs_at_once(x) is not None
    assert layer._inputs_at_once(x.to(memory_format=torch.channels_last)) is None
    assert layer._inputs_at_once(x[:0]) is None
    assert ACmix(8, 8, shift="fixed")._inputs_at_once(x) is None
    assert ACmix(8, 8, impl="torch")._inputs_at_once(x) is None
    assert layer.double()._inputs_at_once(x.double()) is None
    with torch.autocast("cpu"):
        assert layer.float()._inputs_at_once(x) is None


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [32, 61])
def test_logits_of_any_size_give_weights(instructions: str, width: int) -> None:
    layer = made(64, {"paths": "attention"})
    x = 1e5 * torch.randn(1, 64, 9, width)
    with torch.no_grad():
        with using(FastBackend("cpu", instructions)):
            found = layer(x)
        truth = ACmix(64, 64, paths="attention", impl="reference").double()
        truth.load_state_dict(layer.state_dict())
        expected = truth(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("width", [32, 61])
def test_a_position_bias_that_is_no_number_is_seen(width: int) -> None:
    layer = made(8, {})
    assert layer.position is not None
    assert layer.position.bias is not None
    with torch.no_grad():
        layer.position.bias[0] = torch.nan
    x = torch.randn(1, 8, 9, width)
    found = answers(layer, x, torch.randn(1, 8, 9, width))
    assert all(found[name].isnan().any() for name in ("out", "x", "query.weight", "key.weight"))


@pytest.mark.parametrize("width", [32, 61])
def test_a_grid_that_is_no_product_of_axes_is_taken_as_a_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(8, {})
    x, grad = torch.randn(2, 8, 9, width), torch.randn(2, 8, 9, width)
    bent = torch.randn(2, 9, width)
    monkeypatch.setattr(acmix.nn.acmix, "coordinate_grid", lambda *_: bent.to(layer.alpha))
    found = answers(layer, x, grad)
    layer.impl = "torch"
    truth = answers(layer.double(), x.double(), grad.double())
    assert {name: error for name, error in errors(found, truth).items() if error > 10} == {}


class Halved(nn.Module):
    """A parametrization that counts how often it is asked."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return x / 2


@pytest.mark.parametrize("path", ["query", "position", "fc", "shift"])
def test_a_parametrized_weight_is_computed_once(path: str) -> None:
    layer, halved, x = made(8, {}), Halved(), torch.randn(2, 8, 9, 13)
    child = layer.get_submodule(path)
    with torch.no_grad():
        expected = layer(x)
        child.weight *= 2
    parametrize.register_parametrization(child, "weight", halved)
    halved.asked = 0
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    assert halved.asked == 1
