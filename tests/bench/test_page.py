"""benchmarks/README.md: its second half is what the command would write, and its commands are understood."""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from acmix.bench.command import add_arguments
from acmix.bench.record import write_record
from bench.made import layers

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^acmix bench ([^#\n]+)", PAGE, re.MULTILINE)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
RECIPES = re.findall(r"^\t\$\(BENCH\) (.+)", MAKEFILE, re.MULTILINE)
VARIABLES = dict(re.findall(r"^(\w+) [?:]= (.*)$", MAKEFILE, re.MULTILINE))


def expanded(recipe: str) -> str:
    """A recipe with the Makefile's variables filled in; the checkout of the authors' code is not there."""
    while found := re.search(r"\$\((\w+)\)", recipe):
        value = "" if found[1] == "AUTHORS" else VARIABLES[found[1]]
        recipe = recipe.replace(found[0], value)
    return recipe


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The command; it is in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("make_benchmarks_page")


def test_the_page_is_what_the_command_writes(script: ModuleType) -> None:
    assert script.page(PAGE, script.RECORDS) == PAGE, "benchmarks/README.md is stale: make bench-page"


def test_a_record_becomes_a_section_with_its_picture(script: ModuleType, tmp_path: Path) -> None:
    write_record(layers({"ours": 0.5}), tmp_path / "a.json")
    (tmp_path / "a.png").touch()
    text = script.page(f"before\n{script.BEGIN}stale\n{script.END}after\n", tmp_path)
    assert re.fullmatch(
        r"before\n<!-- begin of records -->\n\n### a\n.*<!-- end of records -->\nafter\n", text, re.DOTALL
    )
    assert "stale" not in text
    assert f"![a]({tmp_path.name}/a.png)" in text


def test_a_page_without_marks_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begin of records"):
        script.page("no marks", tmp_path)


@pytest.mark.parametrize("words", [*COMMANDS, *(expanded(recipe) for recipe in RECIPES)])
def test_commands_are_understood(words: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(shlex.split(words)).topic == words.split()[0]


def test_all_topics_are_shown() -> None:
    assert len({words.split()[0] for words in COMMANDS}) == 7


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", PAGE)
    assert [target for target in targets if not (ROOT / "benchmarks" / target).exists()] == []
