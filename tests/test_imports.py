"""What `import acmix` loads: torch, and nothing that torch does not load itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"timm", "torchvision", "lightning", "triton", "matplotlib", "sklearn", "torchmetrics", "safetensors", "PIL"}

# Modules that a person reaches without the extras.
CORE = ["acmix", "acmix.errors", "acmix.functional", "acmix.nn", "acmix.nn.acmix", "acmix.ops", "acmix.ops.library"]
CORE += [
    "acmix.ops.dispatch",
    "acmix.ops.impl.torch",
    "acmix.ops.impl.triton",
    "acmix.ops.impl.reference",
    "acmix.ops.geometry",
    "acmix.interop",
]


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_acmix_loads_nothing_heavy() -> None:
    program = """
import json, sys
import torch
before = set(sys.modules)
import acmix
acmix.ACmix(8, 8)
dir(acmix), acmix.functional, acmix.__version__
print(json.dumps([sorted(set(sys.modules) - before), sorted(sys.modules)]))
"""
    added, loaded = json.loads(run(program))
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    packages = {name.split(".")[0].lstrip("_") for name in added} - {
        name.lstrip("_") for name in sys.stdlib_module_names
    }
    assert packages <= {"acmix", "torch", "numpy"}, "acmix loads what torch does not"


def test_each_core_module_can_be_the_first_one_imported() -> None:
    # Forked after torch is there: each child starts without any module of ours, and none pays for torch again.
    program = f"""
import importlib, os, sys
import torch
failed = []
for name in {CORE!r}:
    child = os.fork()
    if child == 0:
        importlib.import_module(name)
        os._exit(int(bool({HEAVY!r} & set(sys.modules))))
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(failed)
"""
    assert run(program).split("\n")[0] == "[]"


BLOCKED = f"""
import sys
for name in {sorted(HEAVY)!r}:
    sys.modules[name] = None
import torch, acmix
"""


def test_the_layer_works_where_torch_is_all_there_is() -> None:
    out = run(BLOCKED + "print(tuple(acmix.ACmix(8, 8, stride=2)(torch.zeros(1, 8, 5, 5)).shape))")
    assert out.strip() == "(1, 8, 3, 3)"


@pytest.mark.parametrize("name", ["create_model", "list_models"])
def test_a_missing_extra_is_named(name: str) -> None:
    program = f"""
try:
    acmix.{name}
except ImportError as error:
    print(error)
"""
    assert (
        run(BLOCKED + program).strip() == f"acmix.{name} needs timm, which is not installed: pip install 'acmix[zoo]'"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    import acmix

    assert not hasattr(acmix, "ACMIX")
    with pytest.raises(AttributeError, match="no attribute 'ACMIX'"):
        acmix.ACMIX  # noqa: B018  # the access is what is tested


def test_dir_names_what_is_public() -> None:
    import acmix

    assert set(dir(acmix)) == set(acmix.__all__)
    assert all(hasattr(acmix, name) for name in acmix.__all__)


def test_the_version_is_the_packages() -> None:
    import tomllib

    import acmix

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert acmix.__version__ == project["version"]
