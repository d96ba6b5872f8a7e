"""What README and pages promise: examples that run, links that lead somewhere, one screen."""

import re
from pathlib import Path

import pytest

from acmix.cli import COMMANDS

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
