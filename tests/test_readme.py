"""What README and pages promise: examples that run, links that lead somewhere, one screen."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from acmix.cli import COMMANDS
from acmix.ops.dispatch import BACKENDS, load_backend
from acmix.ops.problem import OpName

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = code_blocks(ROOT / "README.md", "python")
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["torch.Size([2, 64, 15, 9]) 0.5 0.5", "torch.Size([1, 10])"]


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"^acmix (\w+)", "\n".join(code_blocks(page, "sh")), re.MULTILINE))
    assert shown <= set(COMMANDS)
    configs = {path.stem for path in (ROOT / "src/acmix/configs").glob("*.yaml")}
    named = {name for name in re.findall(r"--config ([\w./]+)", text) if "/" not in name and "." not in name}
    assert named <= configs
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", "\n".join(code_blocks(page, "sh")), re.MULTILINE):
        assert f"\n{target}:" in make, target


def pages_linked_from(page: Path) -> set[Path]:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    return {path for target in targets if (path := (page.parent / target).resolve()).suffix == ".md"}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set(), {ROOT / "README.md"}
    while left:
        page = left.pop()
        reached.add(page)
        left |= pages_linked_from(page) - reached
    assert [page.name for page in PAGES if page not in reached] == []


def test_torch_is_installed_before_the_kernels_are_built() -> None:
    """A build finds the headers of an installed torch; `pip install .` alone would build before it installs torch."""
    lines = re.findall(r"^pip install (\S+)", "\n".join(code_blocks(ROOT / "README.md", "sh")), re.MULTILINE)
    assert lines == ["torch", "'.[training,detection,segmentation]'"]
    make = re.findall(r"\$\(PIP\) (?:--editable )?(\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert make == ["torch", "'.[dev]'"]


def test_what_the_readme_installs_are_parts_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\.\[(\w+)\]", text)) <= set(project["optional-dependencies"])


OPERATOR = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_every_backend_is_on_the_operators_page(backend: str) -> None:
    assert f'| `"{backend}"` |' in OPERATOR


def test_the_table_of_ops_says_which_backend_has_which() -> None:
    (head,) = re.findall(r"^\| op \| layers \| (.*) \|$", OPERATOR, re.MULTILINE)
    assert head.split(" | ") == [f"`{name}`" for name in BACKENDS]
    ops = "|".join(get_args(OpName))
    said = {}
    for names, answers in re.findall(rf"^\| ((?:`(?:{ops})`(?:, )?)+) \| [^|]+ \| (.*) \|$", OPERATOR, re.MULTILINE):
        for op in re.findall(r"`(\w+)`", names):
            said[op] = [answer.startswith("yes") for answer in answers.split(" | ")]
    assert said == {op: [hasattr(load_backend(name), op) for name in BACKENDS] for op in get_args(OpName)}
