"""How a stored state dict and a network's own differ, in words and as lists."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop.official_names import COMPUTED, authors_layers, layer_names

__all__ = ["MisfitError", "Misfits", "brief", "compare", "find_misfits", "whole_parts"]

# A counter that torch versions before 0.4.1 did not write and that no output depends on.
_COUNTER = ".num_batches_tracked"
# The convolution path's bias; see `acmix.nn.authors_keys` for why a layer, or the authors' file, may lack it.
_OPTIONAL_BIAS = "shift.bias"
_LISTED = 8


@dataclass(frozen=True)
class Misfits:
    """What of a stored state dict does not fit a network; false where all fits.

    Attributes:
        missing: names that the network has and the store lacks.
        foreign: names that the store has and the network lacks.
        reshaped: what both have: name, the stored shape, the network's shape.
        whole: parts such as `layer4` of which every tensor is missing or foreign.
    """

    missing: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    whole: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.missing or self.foreign or self.reshaped)

    def told(self, limit: int | None = _LISTED) -> str:
        """All of it in one line, or so many entries of each kind; long lists name whole parts, as `layer4.*`."""
        shapes = [f"{name} {stored}, expected {expected}" for name, stored, expected in self.reshaped]
        kinds = (
            ("missing", len(self.missing), brief(self.missing, self.whole)),
            ("foreign", len(self.foreign), brief(self.foreign, self.whole)),
            ("of another shape", len(shapes), shapes),
        )
        return "; ".join(f"{count} {kind}: {_listed(entries, limit)}" for kind, count, entries in kinds if count)


class MisfitError(UserError):
    """A checkpoint that does not fit a network.

    Attributes:
        misfits: all that does not fit; the message may name the first of each kind alone.
    """

    def __init__(self, message: str, misfits: Misfits) -> None:
        super().__init__(message)
        self.misfits = misfits


def compare(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Misfits:
    """The differences of two state dicts, names as they stand.

    Args:
        stored: what a file holds.
        expected: the network's own.
    """
    missing = tuple(name for name in expected if name not in stored)
    foreign = tuple(name for name in stored if name not in expected)
    reshaped = tuple(
        (name, tuple(stored[name].shape), tuple(tensor.shape))
        for name, tensor in expected.items()
        if name in stored and stored[name].shape != tensor.shape
    )
    return Misfits(missing, foreign, reshaped, whole_parts(missing, expected) | whole_parts(foreign, stored))


def find_misfits(model: nn.Module, stored: Mapping[str, Tensor]) -> Misfits:
    """What of a state dict would not load into a network whose layers translate the authors' names.

    Args:
        model: the network.
        stored: the state dict; within ACmix layers under the authors' names or this library's.
    """
    expected, names = model.state_dict(), layer_names(model, stored)
    state = {names.get(name, name): tensor for name, tensor in stored.items()}
    for dot, layer in authors_layers(model, stored):
        bias = dot + _OPTIONAL_BIAS
        if layer.paths != "attention" and (bias in expected) != (bias in state):
            # The layer itself takes zero for one that the file lacks, and makes one that it lacks.
            like = layer.fc.weight.new_empty(layer.shift.channels, device="meta")
            (state if bias in expected else expected)[bias] = like
    return compare(
        {name: tensor for name, tensor in state.items() if name in expected or not name.endswith(COMPUTED)},
        {name: tensor for name, tensor in expected.items() if name in state or not name.endswith(_COUNTER)},
    )


def whole_parts(names: Iterable[str], everything: Iterable[str]) -> frozenset[str]:
    """Parts such as `layer4` of which each name of `everything` is among `names`."""
    named = set(names)
    partly = {part for name in everything if name not in named for part in _parts(name)}
    return frozenset(part for name in named for part in _parts(name) if part not in partly)


def brief(names: Collection[str], whole: Collection[str]) -> list[str]:
    """The names, or where there are many of them their largest whole parts, as `layer4.*`."""
    if len(names) <= _LISTED:
        return list(names)
    parts = (next((f"{part}.*" for part in _parts(name) if part in whole), name) for name in names)
    return list(dict.fromkeys(parts))


def _parts(name: str) -> list[str]:
    """What a tensor belongs to, the largest first: `layer1.0.bn1.weight` -> `layer1`, `layer1.0`, `layer1.0.bn1`."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words))]


def _listed(entries: list[str], limit: int | None) -> str:
    more = 0 if limit is None else len(entries) - limit
    return ", ".join(entries[:limit]) + (f" and {more} more" if more > 0 else "")
