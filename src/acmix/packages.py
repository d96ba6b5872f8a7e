"""Says which optional package is missing, before work begins."""

from importlib.util import find_spec

from acmix.errors import UserError

__all__ = ["how_to_install", "missing", "require"]

_EXTRAS = {
    "timm": "zoo",
    "matplotlib": "training",
    "sklearn": "training",
    "faster_coco_eval": "detection",
    "segmentation_models_pytorch": "segmentation",
}
# Each extra with those that it brings along.
_CONTAINED = {"training": {"zoo"}, "detection": {"training", "zoo"}, "segmentation": {"training", "zoo"}}


def missing(*packages: str) -> list[str]:
    """Those of the packages that are not installed.

    Args:
        packages: names as they are imported.
    """
    return [package for package in packages if find_spec(package) is None]


def how_to_install(*packages: str) -> str:
    """One line that names the packages and the command that brings them.

    Args:
        packages: names as they are imported.
    """
    extras = {_EXTRAS[package] for package in packages}
    needed = extras.difference(*(_CONTAINED.get(extra, set()) for extra in extras))
    return f"{', '.join(packages)} not installed; pip install 'acmix[{','.join(sorted(needed))}]'"


def require(*packages: str) -> None:
    """Refuses to go on without the packages.

    Args:
        packages: names as they are imported.

    Raises:
        UserError: one or more are not installed.
    """
    if absent := missing(*packages):
        raise UserError(how_to_install(*absent))
