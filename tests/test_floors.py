"""The house has floors, and its stairs go down only.

The first tests read the imports of every module, those inside functions included; the others build a small house with
every fault in it and show that the same reading finds them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "acmix"

# From the roof down. A room imports from below and from itself; rooms of one floor do not see each other.
# What the backends and their doors share (sizes, layouts, the question that a backend is asked) lies below both.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("acmix.__main__",),
    ("acmix.cli",),
    ("acmix",),
    ("acmix.studies",),
    ("acmix.tasks",),
    ("acmix.bench", "acmix.analysis"),
    ("acmix.models",),
    ("acmix.interop",),
    ("acmix.nn",),
    ("acmix.functional",),
    ("acmix.ops",),
    ("acmix.ops.impl",),
    ("acmix.ops.geometry", "acmix.ops.layout", "acmix.ops.problem", "acmix.ops.checks"),
    ("acmix.tables", "acmix.packages"),
    ("acmix.errors",),
)

# These may see each other: small modules of one ground floor.
GROUND = frozenset({"acmix.ops.geometry", "acmix.ops.layout", "acmix.ops.problem", "acmix.ops.checks"})


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted names of all modules of a package folder, with their files."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(node: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, list[str]]]:
    """(module, names taken from it) for one statement or call."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, []
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            here = module.split(".")
            above = here[: len(here) - node.level + (1 if is_package else 0)]
            base = ".".join([*above, base] if base else above)
        yield base, [alias.name for alias in node.names]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        for argument in node.args[:1]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value, []


def imports_of(modules: dict[str, Path]) -> dict[str, set[str]]:
    """For each module the modules of the same package that it imports anywhere in its file."""
    package = next(iter(modules)).split(".")[0]
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for base, names in _imported(node, module, path.name == "__init__.py"):
                if base != package and not base.startswith(f"{package}."):
                    continue
                submodules = {f"{base}.{name}" for name in names if f"{base}.{name}" in modules}
                targets |= submodules
                if len(submodules) < len(names) or not names:
                    targets.add(base)
        graph[module] = targets - {module}
    return graph


def room_of(module: str) -> str | None:
    """The entry of `FLOORS` with the longest name that the module lies under."""
    rooms = [room for floor in FLOORS for room in floor if module == room or module.startswith(f"{room}.")]
    # The package itself is a room for its own `__init__` only: everything else must have a floor of its own.
    rooms = [room for room in rooms if room != "acmix" or module == "acmix"]
    return max(rooms, key=len) if rooms else None


def floor_of(room: str) -> int:
    """Height above the ground."""
    return next(height for height, floor in enumerate(reversed(FLOORS)) if room in floor)


def wrong_stairs(graph: dict[str, set[str]]) -> list[str]:
    """One line for each module without a floor and for each import that does not go down."""
    faults = [f"{module} has no floor" for module in graph if room_of(module) is None]
    for module, targets in graph.items():
        for target in sorted(targets):
            here, there = room_of(module), room_of(target)
            if here is None or there is None or here == there or {here, there} <= GROUND:
                continue
            if floor_of(there) >= floor_of(here):
                faults.append(f"{module} imports {target}, which is not below it")
    return faults


def cycle_of(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle, or none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if found := walk(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def test_imports_go_down_only() -> None:
    assert wrong_stairs(imports_of(modules_of(PACKAGE))) == []


def test_no_import_cycles() -> None:
    assert cycle_of(imports_of(modules_of(PACKAGE))) == []


def test_the_reading_sees_the_house() -> None:
    graph = imports_of(modules_of(PACKAGE))
    assert "acmix.functional" in graph["acmix.nn.acmix"]
    assert "acmix.nn" in graph["acmix.models.resnet"]
    assert len(graph) > 40


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A faultless small house, to which a test adds a fault."""
    for name, text in {
        "__init__": "from acmix.nn import layer\n",
        "errors": "",
        "functional": "from acmix.ops.attention import f\n",
        "ops/__init__": "",
        "ops/attention": "import acmix.ops.geometry\nf = 1\n",
        "ops/geometry": "",
        "ops/impl/__init__": "",
        "ops/impl/torch": "from acmix.ops import geometry\n",
        "nn/__init__": "",
        "nn/layer": "import torch\nfrom acmix import functional\nfrom . import shift\n",
        "nn/shift": "",
        "models/__init__": "from acmix.nn.layer import f\n",
        "bench/__init__": "",
        "analysis/__init__": "",
        "cli": "import acmix\n",
    }.items():
        path = tmp_path / "acmix" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "acmix"


def _with(house: Path, module: str, line: str) -> dict[str, set[str]]:
    path = house / f"{module}.py"
    path.write_text((path.read_text() if path.exists() else "") + line + "\n")
    return imports_of(modules_of(house))


def test_a_faultless_house_passes(house: Path) -> None:
    graph = imports_of(modules_of(house))
    assert (wrong_stairs(graph), cycle_of(graph)) == ([], [])
    assert graph["acmix.nn.layer"] == {"acmix.functional", "acmix.nn.shift"}


@pytest.mark.parametrize(
    ("module", "line", "target"),
    [
        ("ops/attention", "from acmix.nn.layer import f", "acmix.nn.layer"),
        ("ops/attention", "import acmix.models", "acmix.models"),
        ("ops/attention", "from acmix import functional", "acmix.functional"),
        ("ops/impl/torch", "from acmix.ops import attention", "acmix.ops.attention"),
        ("ops/geometry", "from .impl import torch", "acmix.ops.impl.torch"),
        ("nn/layer", "def f():\n    from acmix.models import g", "acmix.models"),
        ("nn/layer", "if True:\n    import acmix.bench as b", "acmix.bench"),
        ("nn/layer", "from ..models import g", "acmix.models"),
        ("nn/layer", "import importlib\nimportlib.import_module('acmix.cli')", "acmix.cli"),
        ("nn/layer", "from acmix import ACmix", "acmix"),
        ("bench/__init__", "import acmix.analysis", "acmix.analysis"),
        ("analysis/__init__", "import acmix.bench", "acmix.bench"),
        ("models/__init__", "from acmix import cli", "acmix.cli"),
        ("errors", "from acmix.ops import geometry", "acmix.ops.geometry"),
    ],
)
def test_the_guard_finds_stairs_that_go_up(house: Path, module: str, line: str, target: str) -> None:
    name = "acmix." + module.removesuffix("/__init__").replace("/", ".")
    assert wrong_stairs(_with(house, module, line)) == [f"{name} imports {target}, which is not below it"]


@pytest.mark.parametrize("module", ["utils", "helpers/__init__", "cli2"])
def test_the_guard_finds_a_module_without_a_floor(house: Path, module: str) -> None:
    (house / module).parent.mkdir(exist_ok=True)
    name = "acmix." + module.removesuffix("/__init__")
    assert wrong_stairs(_with(house, module, "")) == [f"{name} has no floor"]


def test_the_guard_finds_a_cycle(house: Path) -> None:
    graph = _with(house, "nn/shift", "def f():\n    from acmix.nn.layer import f")
    assert wrong_stairs(graph) == []
    assert cycle_of(graph) == ["acmix.nn.layer", "acmix.nn.shift", "acmix.nn.layer"]
