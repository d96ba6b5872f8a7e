"""Inside the machinery of training: DDP, freezing, averages of weights, functional calls, vmap."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from acmix import ACmix
from layer_comparison import randn, results, scrambled, worst_difference


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("batch", [2, 0], ids=lambda batch: f"T17-b{batch}")
def test_ddp_finds_no_unused_parameter(batch: int) -> None:
    layer = DistributedDataParallel(ACmix(8, 8, conv_bias=True), find_unused_parameters=False)
    for _ in range(2):  # the second step raises where the first left a parameter without its gradient
        layer.zero_grad()
        layer(torch.ones(batch, 8, 9, 7)).sum().backward()
        assert [name for name, parameter in layer.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("paths", ["both", "attention", "convolution"], ids=lambda paths: f"T17-{paths}")
@pytest.mark.parametrize("size", [(9, 7), (1, 1)], ids=str)
def test_every_parameter_gets_a_gradient(paths: str, size: tuple[int, int]) -> None:
    layer = ACmix(8, 8, conv_bias=paths != "attention", paths=paths)  # type: ignore[arg-type]  # one of the three words
    if paths == "attention":
        assert "shift.weight" not in dict(layer.named_parameters())
    layer(randn(2, 8, *size, dtype=torch.float32)).sum().backward()
    # A path alone does not read all projections: convolution reads all three, attention too.
    assert [name for name, parameter in layer.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "frozen",
    [("shift.weight",), ("alpha", "beta"), ("query", "key", "value"), ("position", "fc")],
    ids=lambda names: "T17-" + "-".join(names),
)
def test_frozen_parameters_stay_and_the_others_learn_as_before(frozen: tuple[str, ...]) -> None:
    layer, x = scrambled(8, 8), randn(2, 8, 9, 7)
    free = results(layer, x)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    x = x.requires_grad_()
    out = layer(x)
    out.backward(randn(*out.shape, seed=99))
    for name, parameter in layer.named_parameters():
        if name.startswith(frozen):
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, free[f"d.{name}"], rtol=1e-11, atol=1e-11)


def test_T17_average_of_weights() -> None:
    layer = nn.Sequential(ACmix(8, 8), nn.BatchNorm2d(8))
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    start = layer[0].shift.weight.detach().clone()
    average.update_parameters(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0)
    average.update_parameters(layer)
    torch.testing.assert_close(average.module[0].shift.weight, start + 0.1)
    assert average(randn(2, 8, 9, 7, dtype=torch.float32)).shape == (2, 8, 9, 7)


def test_T17_functional_call_uses_the_parameters_it_is_given() -> None:
    layer, other, x = scrambled(8, 8), scrambled(8, 8, seed=1), randn(2, 8, 9, 7)
    assert torch.equal(functional_call(layer, dict(other.named_parameters()), (x,)), other(x))


@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T17-s{stride}")
def test_an_ensemble_in_one_call(stride: int) -> None:
    layers = [scrambled(8, 8, stride=stride, seed=seed) for seed in range(3)]
    parameters, buffers = stack_module_state(layers)
    template = copy.deepcopy(layers[0]).to("meta")
    x = randn(2, 8, 9, 7)

    def one(parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(template, (parameters, buffers), (x,))

    together = vmap(one)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("in_dims", [0, 1, -1], ids=lambda dim: f"T17-dim{dim}")
def test_vmap_over_the_input(in_dims: int) -> None:
    layer, x = scrambled(8, 8), randn(3, 2, 8, 9, 7)
    together = vmap(layer, in_dims=in_dims)(x.movedim(0, in_dims))
    torch.testing.assert_close(together, torch.stack([layer(part) for part in x]), rtol=1e-12, atol=1e-12)


def test_T17_gradients_of_each_sample() -> None:
    layer, x = scrambled(8, 8), randn(3, 8, 6, 5)

    def loss(parameters: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, parameters, (sample,)).square().sum()

    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    together = vmap(grad(loss), (None, 0))(parameters, x)
    for index, sample in enumerate(x):
        layer.zero_grad()
        layer(sample).square().sum().backward()
        alone = {name: parameter.grad for name, parameter in layer.named_parameters()}
        difference, name = worst_difference({name: value[index] for name, value in together.items()}, alone)
        assert difference <= 1e-11, name


def test_T17_jacobian() -> None:
    layer, x = scrambled(4, 4, kernel_att=3, num_heads=2), randn(4, 3, 2)
    expected = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(jacrev(layer)(x), expected, rtol=1e-11, atol=1e-11)


def test_T17_checkpointed_layer_has_the_same_gradients() -> None:
    layer, x = scrambled(8, 8), randn(2, 8, 9, 7)
    plain = results(layer, x)
    wrapped = copy.deepcopy(layer)
    wrapped.forward = lambda x: torch.utils.checkpoint.checkpoint(
        layer.__class__.forward, wrapped, x, use_reentrant=False
    )
    difference, name = worst_difference(results(wrapped, x), plain)
    assert difference == 0, name


def test_T17_training_brings_the_loss_down() -> None:
    torch.manual_seed(0)
    layer, target = ACmix(8, 8), nn.Conv2d(8, 8, 3, padding=1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for seed in range(40):
        x = randn(4, 8, 8, 8, seed=seed, dtype=torch.float32)
        loss = (layer(x) - target(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
