"""Where a record comes from: machine, versions, commit, command."""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from acmix.bench.authors import find_authors_file
from acmix.bench.record import Origin
from acmix.bench.settings import Settings
from acmix.ops.impl import cpu
from acmix.ops.impl.cpu.native import ENVIRONMENT, MISSING

__all__ = ["describe_origin", "spoken_command"]

_PACKAGES = ("acmix", "torch", "timm", "natten", "triton")
_CPU_INFO = Path("/proc/cpuinfo")


def describe_origin(settings: Settings, words: Sequence[str]) -> Origin:
    """Asks the machine, the packages and git.

    Args:
        settings: of the run.
        words: the command line after `acmix`.
    """
    commit, dirty = _commit()
    return Origin(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=spoken_command(words),
        commit=commit,
        dirty=dirty,
        official_commit=_official_commit(settings.official),
        versions={"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        system=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name() if settings.device == "cuda" else _cpu_name(),
        cpu=_cpu_name(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        kernels=_kernels(),
        processors=os.cpu_count() or 1,
        memory_bytes=_memory(),
    )


def spoken_command(words: Sequence[str]) -> str:
    """The command line as one could type it elsewhere: of paths that lead out of this folder the last part is left."""
    return shlex.join(["acmix", *(_without_folders(word) for word in words)])


def _without_folders(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    return f"{option}{equals}{path.name}" if path.is_absolute() or ".." in path.parts else word


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this file is a part of, and whether files differ from it."""
    here = Path(__file__)
    # Installed packages may lie in somebody else's checkout.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None, None
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return _git(here.parent, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _official_commit(path: Path | None) -> str | None:
    return None if path is None else _git(find_authors_file(path).parent, "rev-parse", "HEAD")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str:
    if not _CPU_INFO.exists():
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in _CPU_INFO.read_text(encoding="utf-8").splitlines())
    found: dict[str, str] = {}
    for name, _, value in lines:
        found.setdefault(name.strip(), value.strip())
    # Virtual machines hide the rest of the name.
    numbers = [f"{part} {found[key]}" for part, key in (("family", "cpu family"), ("model", "model")) if key in found]
    return f"{found.get('model name', platform.machine())}" + (f" ({', '.join(numbers)})" if numbers else "")


def _kernels() -> str | None:
    if MISSING is not None:
        return None
    asked = os.environ.get(ENVIRONMENT, "auto")
    return cpu.instruction_sets()[0] if asked == "auto" else asked


def _memory() -> int | None:
    names = os.sysconf_names
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
