"""What the library runs on: versions, threads, devices."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from acmix.analysis.backends import available_devices

__all__ = ["describe_environment", "installed_versions"]

_PACKAGES = ("acmix", "torch", "timm", "torchvision", "lightning", "torchmetrics", "safetensors", "triton")


def installed_versions() -> dict[str, str | None]:
    """The versions of the library and of what it builds on; None for a package that is not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def describe_environment() -> str:
    """Lines of text: versions, processor and threads, accelerators."""
    versions = [f"{name} {found}" for name, found in installed_versions().items() if found]
    absent = [name for name, found in installed_versions().items() if not found]
    lines = [
        f"versions  Python {platform.python_version()}, {', '.join(versions)}",
        f"cpu       {torch.get_num_threads()} threads of {os.cpu_count()} processors, "
        f"{torch.backends.cpu.get_cpu_capability()} instructions",
    ]
    if absent:
        lines.insert(1, f"          not installed: {', '.join(absent)}")
    lines += [f"{device:<8}  {_device_name(device)}" for device in available_devices() if device != "cpu"]
    if len(available_devices()) == 1:
        lines.append("devices   cpu only: torch finds no accelerator here")
    return "\n".join(lines)


def _device_name(device: str) -> str:
    if device == "cuda":
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return ", ".join(names)
    return "present"
