"""A case with all who take part in it: what is common to operators and networks, and the operators' own."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acmix.bench.case import Case
from acmix.bench.contenders import CONTENDERS, YARDSTICK, Contender, attention_problem, make_layer
from acmix.bench.passes import Contestant
from acmix.bench.settings import Mode, Settings
from acmix.bench.work import Work, count_work
from acmix.ops.dispatch import choose_backend

__all__ = ["Contest", "OperatorContest"]


class Contest(ABC):
    """One case, the contenders and the yardstick.

    Args:
        case: what is computed.
        settings: dtype, device, memory format.
        names: the contenders, without the yardstick.
        yardstick: the one that all are compared with.
    """

    def __init__(self, case: Case, settings: Settings, names: Sequence[str], yardstick: str) -> None:
        self.case, self.settings, self.yardstick = case, settings, yardstick
        self.names = tuple(names)

    @abstractmethod
    def small(self) -> Case:
        """The case on which answers are compared."""

    @abstractmethod
    def why_not(self, name: str, mode: Mode) -> str | None:
        """Why a contender cannot be measured, or None."""

    @abstractmethod
    def make(self, name: str, mode: Mode, case: Case) -> Contestant:
        """A contender or the yardstick, for the case or its small one, with inputs."""

    @abstractmethod
    def subject(self, name: str) -> str | None:
        """What a contender computes; those of one subject have the same references. None: its answers are its own."""

    def checked(self, name: str, mode: Mode) -> Contestant:
        """A contender as its answers are compared, on the small case."""
        return self.make(name, mode, self.small())

    @abstractmethod
    def references(self, name: str, mode: Mode) -> tuple[Contestant, Contestant]:
        """What a contender's answers are compared with on the small case: plain operators in float64, in the dtype."""

    @abstractmethod
    def work(self, name: str, mode: Mode) -> Work:
        """What computing it takes at least."""

    def is_ours(self, name: str) -> bool:
        """Whether it is this library's own fault where it fails."""
        return name != self.yardstick

    def backend(self, name: str) -> str | None:
        """The backend that a contender's attention gets, where this library chooses one."""
        return None

    def placed(self, x: Tensor) -> Tensor:
        """In the run's memory format."""
        last = self.settings.channels_last and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if last else x


class OperatorContest(Contest):
    """The layer or its attention alone, against the 3x3 convolution of the same channels and stride.

    Args:
        case: what is computed.
        settings: dtype, device, memory format.
        names: contenders, of `CONTENDERS`.
    """

    def __init__(self, case: Case, settings: Settings, names: Sequence[str]) -> None:
        super().__init__(case, settings, names, YARDSTICK)

    def small(self) -> Case:
        """Two images at most, and a small map."""
        return self.case.small()

    def why_not(self, name: str, mode: Mode) -> str | None:
        """Why a contender cannot be measured, or None."""
        if name == YARDSTICK:
            return None
        contender = CONTENDERS[name]
        if self.case.kind == "attention" and contender.attention is None:
            return "it has no attention by itself"
        return contender.why_not(self.case, mode, self.settings)

    def subject(self, name: str) -> str | None:
        """The operator, for all but the convolution."""
        return None if name == YARDSTICK else self.case.kind

    def make(self, name: str, mode: Mode, case: Case) -> Contestant:
        """A contender or the yardstick, for the case or its small one, with inputs."""
        settings = self.settings
        inputs = case.inputs(settings.dtype, settings.device)
        if name == YARDSTICK:
            convolution = nn.Conv2d(case.channels, case.channels, 3, padding=1, stride=case.stride)
            module: nn.Module = convolution.to(settings.device, settings.dtype)
            inputs = (torch.randn(case.shape).to(settings.device, settings.dtype),)
        else:
            module = self._module(CONTENDERS[name], case)
        if settings.channels_last:
            module = module.to(memory_format=torch.channels_last)
        module = module.train(mode == "training")
        inputs = tuple(self.placed(x).requires_grad_(mode == "training") for x in inputs)
        return Contestant(module, inputs)

    def references(self, name: str, mode: Mode) -> tuple[Contestant, Contestant]:
        """The reference on the very numbers that the contenders get, in float64 and in the run's dtype."""
        eager = self.make("reference", mode, self.small())
        exact = copy.deepcopy(eager.module).double()
        return Contestant(exact, tuple(x.detach().double() for x in eager.inputs)), eager

    def work(self, name: str, mode: Mode) -> Work:
        """The same for all contenders: what our own op needs."""
        contestant = self.make(name if name == YARDSTICK else "ours", mode, self.case)
        return count_work(contestant.module, contestant.inputs, mode)

    def is_ours(self, name: str) -> bool:
        """Whether it is this library's own fault where it fails."""
        return name != YARDSTICK and CONTENDERS[name].ours

    def backend(self, name: str) -> str | None:
        """The backend that a contender's attention gets, where this library chooses one."""
        if name != "ours":
            return None
        return choose_backend(attention_problem(self.case, self.settings), "auto")

    def _module(self, contender: Contender, case: Case) -> nn.Module:
        settings = self.settings
        if case.kind == "layer":
            return contender.layer(make_layer(case).to(settings.device, settings.dtype), settings)
        if contender.attention is None:
            raise RuntimeError(f"{contender.words}: there is no attention by itself; ask why_not first")
        return contender.attention(case)
