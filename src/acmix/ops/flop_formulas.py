"""FLOP formulas of the ops, handed to torch's counter when somebody imports that.

`torch.utils.flop_counter` loads Triton where it is installed, so importing it here would make `import acmix` heavy.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["Formula", "register_flop_formula"]

_COUNTER = "torch.utils.flop_counter"

# From the shapes of an op's arguments, and its other arguments as they are, to floating-point operations.
Formula = Callable[..., int]


class _Late(Loader):
    """Loads the counter as ever and adds a formula to it."""

    def __init__(self, loader: Loader, op: Any, formula: Formula) -> None:
        self.loader, self.op, self.formula = loader, op, formula

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        module.register_flop_formula(self.op)(self.formula)


class _Finder(MetaPathFinder):
    """Waits for the import of the counter."""

    def __init__(self, op: Any, formula: Formula) -> None:
        self.op, self.formula = op, formula

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Late(spec.loader, self.op, self.formula)
        return spec


def register_flop_formula(op: Any, formula: Formula) -> None:
    """As the function of this name in `torch.utils.flop_counter`, without importing that."""
    if _COUNTER in sys.modules:
        sys.modules[_COUNTER].register_flop_formula(op)(formula)
    else:
        sys.meta_path.insert(0, _Finder(op, formula))
