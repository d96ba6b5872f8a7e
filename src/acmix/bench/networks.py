"""Two networks against each other: the second is the yardstick."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from acmix.bench.case import Case
from acmix.bench.contest import Contest
from acmix.bench.passes import Contestant
from acmix.bench.settings import Mode, Settings
from acmix.bench.work import Work, count_work
from acmix.errors import UserError

__all__ = ["NETWORK_PAIRS", "TABLE_5_PAIRS", "NetworkContest", "Pair", "parse_pair"]

NETWORK_PAIRS = ("acmix_resnet50:resnet50", "acmix_swin_tiny:swin_tiny_patch4_window7_224")

# The first is the paper's Table 5 as its figures suggest: what it calls ACmix has the accuracy of PVT-ACmix-T.
TABLE_5_PAIRS = ("acmix_pvt_tiny:pvt_small", "acmix_pvt_tiny:pvt_tiny", "acmix_pvt_small:pvt_small")


class Pair(NamedTuple):
    """Names of a network and of the one that it is compared with."""

    network: str
    yardstick: str


def parse_pair(text: str) -> Pair:
    """Reads "acmix_resnet50:resnet50".

    Raises:
        ValueError: these are not two names.
    """
    network, _, yardstick = text.partition(":")
    if not network or not yardstick or network == yardstick:
        raise ValueError(f"pair {text!r}: expected two networks, such as acmix_resnet50:resnet50")
    return Pair(network, yardstick)


class _Autocast(nn.Module):
    """A network with float32 parameters that computes in another dtype, as mixed-precision training does."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Any:
        with torch.autocast(x.device.type, self.dtype):
            return self.network(x)


class NetworkContest(Contest):
    """A network against another on the same images.

    Args:
        case: batch and side of the images; its name is the pair's.
        settings: dtype, device, memory format.
        pair: names of both.
        features: whether they are backbones that give the features of all stages (timm's `features_only`).
    """

    def __init__(self, case: Case, settings: Settings, pair: Pair, *, features: bool = False) -> None:
        super().__init__(case, settings, (pair.network,), pair.yardstick)
        self.features = features
        self._made: dict[str, nn.Module] = {name: self._create(name) for name in pair}

    def small(self) -> Case:
        """One image of full size: some networks take no other."""
        return Case(self.case.name, "network", 1, self.case.channels, self.case.size, 1, 0, 0)

    def why_not(self, name: str, mode: Mode) -> str | None:
        """Nothing speaks against it."""
        return None

    def subject(self, name: str) -> str | None:
        """Each network is its own."""
        return name

    def make(self, name: str, mode: Mode, case: Case) -> Contestant:
        """The network, in training or evaluation mode, with images."""
        network = self._made[name].train(mode == "training")
        images = case.inputs(torch.float32, self.settings.device)[0]
        settings = self.settings
        if settings.channels_last:
            network = network.to(memory_format=torch.channels_last)
        module = network if settings.dtype == torch.float32 else _Autocast(network, settings.dtype)
        return Contestant(module, (self.placed(images),))

    def checked(self, name: str, mode: Mode) -> Contestant:
        """In evaluation mode: batch norm over one image would magnify every rounding; gradients without ReLU's kink."""
        here = self.make(name, "inference", self.small())
        return here if mode == "inference" else Contestant(_without_kinks(here.module), here.inputs)

    def references(self, name: str, mode: Mode) -> tuple[Contestant, Contestant]:
        """The same network on the reference backend, in float64 and as it is measured."""
        here = self.checked(name, mode)
        eager = _on_reference(here.module)
        network = eager.network if isinstance(eager, _Autocast) else eager
        exact = copy.deepcopy(network).double()
        return Contestant(exact, tuple(x.double() for x in here.inputs)), Contestant(eager, here.inputs)

    def work(self, name: str, mode: Mode) -> Work:
        """Its own."""
        network = self._made[name].train(mode == "training")
        return count_work(network, self.case.inputs(torch.float32, "cpu"), mode)

    def is_ours(self, name: str) -> bool:
        """Whether it is one of this library's networks."""
        from acmix.models import list_models

        return name in list_models()

    def _create(self, name: str) -> nn.Module:
        from acmix.models import create_model

        kwargs: dict[str, Any] = {"features_only": True} if self.features else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                network = create_model(name, **kwargs)
            except (RuntimeError, TypeError, ValueError) as error:
                raise UserError(f"{name} cannot be made: {error}") from error
            _stir(network)
        return network.to(self.settings.device)


@torch.no_grad()
def _stir(network: nn.Module) -> None:
    """Moves what starts at zero or as a shift: a residual branch that is multiplied by zero hides every mistake."""
    for name, parameter in network.named_parameters():
        if not parameter.any() or ".shift." in name:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _without_kinks(module: nn.Module) -> nn.Module:
    """A copy with SiLU for ReLU: of millions of inputs some lie within a rounding of zero, where the gradient jumps."""
    other = copy.deepcopy(module)
    for parent in list(other.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.SiLU())
    return other


def _on_reference(module: nn.Module) -> nn.Module:
    """A copy whose layers compute as the specification does."""
    other = copy.deepcopy(module)
    for layer in other.modules():
        if isinstance(getattr(layer, "impl", None), str):
            layer.impl = "reference"  # type: ignore[assignment]  # torch types attributes of modules as tensors
    return other
