"""Configuration files: shipped ones by name, all of them checked before anything else is done."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml

from acmix.errors import UserError
from acmix.tasks.names import nearest

__all__ = ["resolve_configs", "shipped_configs"]

_FLAGS = ("--config", "-c")


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    folder = Path(str(files("acmix") / "configs"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Replaces the names of shipped configurations in a command line by their paths.

    Args:
        args: The command line; each `--config X` names a file or a shipped configuration.

    Raises:
        UserError: There is neither a file nor a shipped configuration of that name, or the file is no configuration.
    """
    resolved = list(args)
    for place, word in enumerate(args):
        flag, equals, value = word.partition("=")
        if flag in _FLAGS and equals:
            resolved[place] = f"{flag}={_config_file(value)}"
        elif place and args[place - 1] in _FLAGS:
            resolved[place] = str(_config_file(word))
    return resolved


def _config_file(name: str) -> Path:
    shipped = shipped_configs()
    path = Path(name) if Path(name).is_file() or name not in shipped else shipped[name]
    if not path.is_file():
        raise UserError(f"no configuration {name!r}, neither a file nor a shipped one; {nearest(name, list(shipped))}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, expected `model:`, `data:` and `trainer:` with keys")
    return path
