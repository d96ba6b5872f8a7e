"""Which backend runs: ask each one "why not?" and take the first that has no reason."""

import difflib
from types import ModuleType

from acmix.ops.impl import cpu, reference, triton
from acmix.ops.impl import torch as portable
from acmix.ops.problem import OpName, Problem

__all__ = ["BACKENDS", "backend_reasons", "check_impl", "choose_backend", "load_backend"]

# In order of preference. Each has `why_not(problem) -> list[str]` and a function for every op that it has, of the op's
# name. Light to import: what is heavy, a backend loads when it runs. Imported here, not on first use: that may be in a
# compiled function, which cannot import.
_MODULES: dict[str, ModuleType] = {
    "cpu": cpu,
    "triton": triton,
    "torch": portable,
    "reference": reference,
}
BACKENDS: tuple[str, ...] = tuple(_MODULES)


def load_backend(name: str) -> ModuleType:
    """The module of a backend."""
    return _MODULES[name]


def backend_reasons(problem: Problem) -> dict[str, list[str]]:
    """For each backend, in order of preference, the reasons why it cannot run `problem`; an empty list: it can."""
    return {name: list(load_backend(name).why_not(problem)) for name in BACKENDS}


def choose_backend(problem: Problem, impl: str) -> str:
    """The backend for `problem`.

    Args:
        problem: what is to be computed.
        impl: "auto" for the first backend that can, or a backend's name.

    Returns:
        A name in `BACKENDS`.

    Raises:
        ValueError: `impl` is no backend's name.
        RuntimeError: the backend that was asked for cannot run the problem (there is no silent fallback), or, with
            "auto", none can; the message lists every reason.
    """
    if impl == "auto":
        reasons = {}
        for name in BACKENDS:
            reasons[name] = load_backend(name).why_not(problem)
            if not reasons[name]:
                return name
    elif impl in BACKENDS:
        reasons = {impl: load_backend(impl).why_not(problem)}
        if not reasons[impl]:
            return impl
    else:
        raise _unknown(problem.op, impl)
    told = "; ".join(f"{name}: {', '.join(why)}" for name, why in reasons.items())
    raise RuntimeError(f"{problem.op}: impl={impl!r} cannot run {problem}: {told}. Choose another impl or 'auto'.")


def check_impl(owner: str, impl: str, ops: tuple[OpName, ...]) -> None:
    """Whether a layer that calls some ops can be made with `impl`, which then names the backend of each of them.

    What depends on device, dtype and sizes, the ops find out when they are called.

    Args:
        owner: name of the layer.
        impl: "auto", which chooses for each op by itself, or a backend's name.
        ops: what the layer calls.

    Raises:
        ValueError: `impl` is no backend's name, or the backend lacks one of the ops.
    """
    if impl == "auto":
        return
    if impl not in BACKENDS:
        raise _unknown(owner, impl)
    missing = [op for op in ops if not hasattr(load_backend(impl), op)]
    if missing:
        others = [repr(name) for name in BACKENDS if all(hasattr(load_backend(name), op) for op in ops)]
        raise ValueError(
            f"{owner}: impl={impl!r} has no {' and no '.join(missing)}, expected {' or '.join(others)}, which have, or "
            "'auto', which chooses for each op by itself."
        )


def _unknown(owner: str, impl: str) -> ValueError:
    close = difflib.get_close_matches(str(impl), ("auto", *BACKENDS), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return ValueError(f"{owner}: impl={impl!r} is no backend, expected one of {('auto', *BACKENDS)}{hint}")
