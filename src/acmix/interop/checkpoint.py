"""Reading checkpoint files of any common make without ever running code from them."""

import argparse
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from acmix.errors import UserError

__all__ = ["read_checkpoint", "read_state_dict", "tensors_of"]

_AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SAFE_WAY = (
    "let its owner load it and save the tensors alone: torch.save(model.state_dict(), 'weights.pt'), or as safetensors"
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a whole checkpoint file: tensors and plain values, whatever its wrapper.

    Safetensors files and files of `torch.save` are told apart by their content. Nothing is ever unpickled but tensors,
    containers, numbers, strings and plain value classes.

    Args:
        path: The file. A Lightning checkpoint, a bare state dict, a wrapped one, or safetensors.

    Returns:
        The file's dictionary. A Lightning checkpoint of this library has the network's settings under
        `"hyper_parameters"` (`model`, `model_args`, `num_classes`, `in_chans`) and the data's `"class_names"`.

    Raises:
        UserError: The file is missing, empty, broken, not a checkpoint, or needs foreign classes to be unpickled.
    """
    path = _existing_file(path)
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    if isinstance(content, Mapping):
        return dict(content)
    raise UserError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors; save a state_dict()")


def read_state_dict(path: str | Path, *, averaged: bool = True) -> dict[str, Tensor]:
    """Reads a network's state dict from a checkpoint file.

    Looks through the usual wrappers (`state_dict`, `model`, `model_ema`, ...) and strips the prefixes that
    `DataParallel`, `torch.compile` and Lightning modules add.

    Args:
        path: The file, see `read_checkpoint`.
        averaged: Whether the moving average of the weights is taken where the file holds one beside the weights.

    Returns:
        Parameter and buffer names with their tensors, on the CPU.

    Raises:
        UserError: As `read_checkpoint`, and where the file holds no tensors.
    """
    return tensors_of(read_checkpoint(path), str(path), averaged=averaged)


def tensors_of(checkpoint: Mapping[str, Any], source: str, *, averaged: bool = True) -> dict[str, Tensor]:
    """The network's tensors out of a checkpoint that is in memory: wrappers looked through, prefixes stripped.

    Args:
        checkpoint: What a checkpoint file holds, see `read_checkpoint`, or a state dict.
        source: How messages name it.
        averaged: As in `read_state_dict`.

    Returns:
        Parameter and buffer names with their tensors.

    Raises:
        UserError: There are no tensors in it.
    """
    state = _unwrapped(checkpoint, averaged)
    if "pytorch-lightning_version" in checkpoint:
        state = _network_part(state, averaged)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        held = ", ".join(map(str, list(checkpoint)[:6])) or "nothing"
        raise UserError(f"{source} holds no state dict (found: {held}); expected the tensors of a network")
    return _without_prefixes(tensors)


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"no checkpoint at {path}; check the path")
    if not path.is_file():
        raise UserError(f"{path} is a folder, expected a checkpoint file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); copy or download it again")
    return path


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or head[8:] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); copy or download it again") from error


def _read_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(_plain_classes()), warnings.catch_warnings():
            # Says that the file is a plain pickle, which the refusal below says better.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if foreign := _foreign_class(error):
            raise UserError(f"{path} is refused: reading it would run code of {foreign}; {_SAFE_WAY}") from error
        if _is_pickle(path):
            raise UserError(f"{path} is refused: it is a pickle, which can run any code; {_SAFE_WAY}") from error
        raise UserError(f"{path} is not a checkpoint; expected a file of torch.save or safetensors") from error
    except (RuntimeError, OSError) as error:
        # A file that is cut off is either, depending on where; one that may not be read says so itself.
        if isinstance(error, PermissionError):
            raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        if "TorchScript" in str(error):
            raise UserError(f"{path} is a TorchScript archive, which holds code; {_SAFE_WAY}") from error
        raise UserError(f"{path} is a broken checkpoint (cut off or changed); copy or download it again") from error
    except (EOFError, KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        # What torch's reader raises on bytes that are no pickle depends on the bytes.
        raise UserError(f"{path} is not a checkpoint; expected a file of torch.save or safetensors") from error


def _plain_classes() -> list[Any]:
    """Value classes that training scripts save beside the weights; building one runs no code of the file."""
    plain: list[Any] = [argparse.Namespace, PosixPath, PurePosixPath]
    # What Swin's training script keeps its configuration in, a dict: read as one, the package itself stays away.
    plain.append((OrderedDict, "yacs.config.CfgNode"))
    if find_spec("numpy") is None:
        return plain
    import numpy as np

    dtypes = [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)]
    # The function that rebuilds a NumPy scalar has moved between NumPy's versions; a scalar itself knows the present
    # one, and files of NumPy 1 the former name.
    scalar = np.float64(0).__reduce__()[0]
    return [*plain, np.dtype, *dtypes, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _foreign_class(error: Exception) -> str | None:
    message = str(error)
    for mark in ("Unsupported global: GLOBAL ", "Unsupported class "):
        if mark in message:
            return message.split(mark, 1)[1].split()[0]
    return None


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] in {b"\x02", b"\x03", b"\x04", b"\x05"}


def _unwrapped(checkpoint: Mapping[str, Any], averaged: bool) -> Mapping[str, Any]:
    for name in (*(_AVERAGED if averaged else ()), *_WRAPPERS):
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping) and inner:
            # A wrapper in a wrapper: {"model_ema": {"state_dict": ...}}.
            return inner if any(isinstance(v, Tensor) for v in inner.values()) else _unwrapped(inner, averaged)
    return checkpoint


def _network_part(state: Mapping[str, Any], averaged: bool) -> Mapping[str, Any]:
    """The network's entries of a Lightning module's state dict, which holds metrics and averages besides."""
    for prefix in (*(("ema.module.",) if averaged else ()), "model."):
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if part:
            return part
    return state


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors
