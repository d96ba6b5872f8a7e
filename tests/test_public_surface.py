"""The public names and signatures are an inventory in a file: who changes one edits the other in the same change.

`python tests/test_public_surface.py` writes the inventory again.
"""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import acmix
from acmix import functional

INVENTORY = Path(__file__).with_name("public_surface.json")


def signature(call: Callable[..., Any]) -> str:
    """Names, kinds and defaults of the arguments; annotations may become more exact without a word here."""
    parameters = inspect.signature(call).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(bare))


def surface() -> dict[str, Any]:
    """What the package offers now."""
    calls = {
        f"acmix.{name}": getattr(acmix, name) for name in ("ACmix", "create_model", "list_models", "load_official")
    }
    calls |= {f"acmix.functional.{name}": getattr(functional, name) for name in functional.__all__}
    methods = {name: value for name, value in vars(acmix.ACmix).items() if inspect.isfunction(value) and name[0] != "_"}
    calls |= {f"acmix.ACmix.{name}": value for name, value in methods.items()}
    return {
        "acmix": sorted(acmix.__all__),
        "acmix.functional": sorted(functional.__all__),
        "signatures": {name: signature(call) for name, call in sorted(calls.items())},
    }


def test_the_surface_is_the_inventorys() -> None:
    inventory = json.loads(INVENTORY.read_text(encoding="utf-8"))
    assert surface() == inventory, (
        "edit tests/public_surface.json (or run this file) and CHANGELOG.md in the same change"
    )


def test_every_listed_name_is_there() -> None:
    assert [name for name in acmix.__all__ if not hasattr(acmix, name)] == []
    assert [name for name in functional.__all__ if not hasattr(functional, name)] == []


def test_a_removed_name_and_a_changed_default_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = json.loads(INVENTORY.read_text(encoding="utf-8"))
    monkeypatch.setattr(functional, "__all__", [name for name in functional.__all__ if name != "local_attention"])
    assert surface() != inventory
    monkeypatch.undo()
    monkeypatch.setattr(functional, "local_attention", lambda q, k, v, kernel_size, *, stride=2: None)
    assert surface() != inventory


# What callers outside this repository are promised: they may find more, never less.
PROMISED = {
    "acmix.ACmix": "(in_channels, out_channels, kernel_att=7, num_heads=4, kernel_conv=3, stride=1, dilation=1, *)",
    "acmix.functional.local_attention": "(q, k, v, kernel_size, *, position=None, stride=1, dilation=1, scale=None, "
    "impl='auto')",
    "acmix.functional.attention_two_stage": "(x, w_q, w_k, w_v, num_heads)",
    "acmix.functional.conv2d_two_stage": "(x, weight, bias=None, *, stride=1, padding=0, dilation=1)",
    "acmix.create_model": "(name, **kwargs)",
    "acmix.list_models": "()",
    "acmix.load_official": "(model, path_or_state_dict)",
}


def _split(text: str) -> tuple[list[str], set[str]]:
    """Arguments that may be given by position, in order, and the others."""
    arguments = [argument for argument in text.strip("()").split(", ") if argument]
    star = arguments.index("*") if "*" in arguments else len(arguments)
    return arguments[:star], set(arguments[star + 1 :])


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_promised_can_be_called(name: str) -> None:
    positional, keywords = _split(PROMISED[name])
    ours, ours_keywords = _split(surface()["signatures"][name])
    assert ours == positional
    assert ours_keywords >= keywords


def test_the_layers_rates_are_parameters_of_one_entry() -> None:
    layer = acmix.ACmix(8, 8)
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    assert (shapes["alpha"], shapes["beta"]) == ((1,), (1,))


def test_the_zoos_promised_names_are_registered() -> None:
    promised = {f"{family}_resnet{depth}" for family in ("acmix", "conv", "attn") for depth in (26, 38, 50)}
    assert promised <= set(acmix.list_models())


if __name__ == "__main__":
    INVENTORY.write_text(json.dumps(surface(), indent=2) + "\n", encoding="utf-8")
