"""Files of any make are read, code is never run, and what cannot be read is refused in one line."""

import argparse
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop.checkpoint import read_checkpoint, read_state_dict


def _state(value: float = 1.0) -> dict[str, Tensor]:
    return {"fc.weight": torch.full((2, 3), value), "fc.bias": torch.zeros(2)}


def _prefixed(prefix: str, value: float = 1.0) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in _state(value).items()}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_state(), id="bare"),
        pytest.param({"state_dict": _state(), "epoch": 3}, id="state_dict"),
        pytest.param({"model": _state(), "optimizer": {"lr": 0.1}}, id="model"),
        pytest.param({"model": {"state_dict": _state()}}, id="nested"),
        pytest.param({"state_dict": _prefixed("module.")}, id="data-parallel"),
        pytest.param(_prefixed("module._orig_mod."), id="compiled"),
        pytest.param({"model": _state(), "args": argparse.Namespace(lr=0.1)}, id="namespace"),
        pytest.param({"model": _state(), "best": np.float64(0.7), "folder": Path("runs")}, id="plain-values"),
        pytest.param({"state_dict": _state(0), "model_ema": _state()}, id="average"),
        pytest.param(
            {
                "pytorch-lightning_version": "2.6.6",
                "state_dict": {**_prefixed("model."), "train_metrics.loss.mean_value": torch.zeros(())},
            },
            id="lightning",
        ),
        pytest.param(
            {
                "pytorch-lightning_version": "2.6.6",
                "state_dict": {**_prefixed("model.", 0), **_prefixed("ema.module.")},
            },
            id="lightning-average",
        ),
    ],
)
def test_the_network_is_found_in_any_wrapper(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    state = read_state_dict(tmp_path / "file.pt")
    assert list(state) == ["fc.weight", "fc.bias"]
    assert torch.equal(state["fc.weight"], torch.ones(2, 3))


def test_the_configuration_that_swins_script_saves_is_read_as_a_dict(tmp_path: Path) -> None:
    # As the package's own class pickles: a dict with attributes, from a module that need not be there.
    package = types.ModuleType("yacs.config")
    package.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})  # type: ignore[attr-defined]  # made here
    sys.modules |= {"yacs": types.ModuleType("yacs"), "yacs.config": package}
    try:
        config = package.CfgNode(lr=0.1)
        config._frozen = True
        torch.save({"model": _state(), "config": config}, tmp_path / "file.pt")
    finally:
        del sys.modules["yacs"], sys.modules["yacs.config"]
    assert list(read_state_dict(tmp_path / "file.pt")) == ["fc.weight", "fc.bias"]
    assert dict(read_checkpoint(tmp_path / "file.pt")["config"]) == {"lr": 0.1}


def test_the_weights_themselves_are_there_for_the_asking(tmp_path: Path) -> None:
    torch.save({"state_dict": _state(0), "model_ema": _state()}, tmp_path / "file.pt")
    assert read_state_dict(tmp_path / "file.pt", averaged=False)["fc.weight"].sum() == 0


@pytest.mark.parametrize("name", ["file.safetensors", "file.pt"])
def test_safetensors_are_known_by_name_and_by_content(name: str, tmp_path: Path) -> None:
    save_file(_state(), tmp_path / name)
    assert torch.equal(read_state_dict(tmp_path / name)["fc.weight"], torch.ones(2, 3))


def test_the_old_format_of_torch_is_read(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "file.pt", _use_new_zipfile_serialization=False)
    assert list(read_state_dict(tmp_path / "file.pt")) == ["fc.weight", "fc.bias"]


def test_plain_values_come_along(tmp_path: Path) -> None:
    torch.save({"state_dict": _state(), "hyper_parameters": {"model": "acmix_resnet26"}}, tmp_path / "file.ckpt")
    assert read_checkpoint(tmp_path / "file.ckpt")["hyper_parameters"] == {"model": "acmix_resnet26"}


class _Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("old_format", [False, True])
def test_no_code_is_ever_run(old_format: bool, tmp_path: Path) -> None:
    content = {"state_dict": _state(), "extra": _Trap(tmp_path / "sprung")}
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UserError, match=r"is refused: reading it would run code of .*torch\.save\(model\.state_dict"):
        read_state_dict(tmp_path / "file.pt")
    assert not (tmp_path / "sprung").exists()


def _truncated(path: Path) -> None:
    torch.save(_state(), path)
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "no checkpoint at"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("<html>404</html>"), "is not a checkpoint"),
        (lambda path: path.write_bytes(bytes(range(256))), "is not a checkpoint"),
        (lambda path: path.write_text("plain text, no pickle"), "is not a checkpoint"),
        (_truncated, "is a broken checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is refused: it is a pickle"),
        (lambda path: torch.save(nn.Linear(2, 2), path), "would run code of torch.nn.modules.linear.Linear"),
        (lambda path: torch.save(torch.zeros(2), path), "holds a Tensor, expected a dictionary"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no state dict (found: epoch)"),
    ],
    ids=["missing", "folder", "empty", "html", "bytes", "text", "cut-off", "pickle", "module", "tensor", "no-tensors"],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(make: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    make(path)
    with pytest.raises(UserError) as refusal:
        read_state_dict(path)
    message = str(refusal.value)
    assert told in message
    assert str(path) in message
    assert "\n" not in message


def test_a_broken_safetensors_file(tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_state_dict(tmp_path / "file.safetensors")
