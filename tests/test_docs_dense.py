"""docs/detection_segmentation.md: its text, counts and results are what the command would write, its example runs."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from acmix.tasks.configs import shipped_configs

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "detection_segmentation.md").read_text(encoding="utf-8")
STALE = "docs/detection_segmentation.md is stale: make dense-page"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The command; it is in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("make_dense_page")


def test_text_is_the_template_s(script: ModuleType) -> None:
    pieces = re.split(r"\{\{\w+\}\}", script.TEMPLATE.read_text(encoding="utf-8"))
    assert len(pieces) > 5
    for piece in pieces:
        assert piece in PAGE, STALE


def test_every_row_of_the_paper_s_tables_has_a_configuration(script: ModuleType) -> None:
    rows = [*script.TABLE_2, *script.TABLE_3, *script.TABLE_4]
    assert len(rows) == 21
    assert {row.config for row in rows} <= set(shipped_configs())
    for row in rows:
        assert re.search(rf"^\| {re.escape(row.words)} \| `{row.config}` \|", PAGE, re.MULTILINE), STALE


@pytest.mark.parametrize("words", ["RetinaNet 1x, PVT-ACmix-T", "Semantic FPN, PVT-ACmix-T"])
def test_counts_are_the_networks(words: str, script: ModuleType) -> None:
    row = next(row for row in (*script.TABLE_2, *script.TABLE_4) if row.words == words)
    size = script.counted(row)
    shown = f"| {words} | `{row.config}` | {script.mega(size.parameters)} | {script.giga(size.macs)} | {row.flops} |"
    assert shown in PAGE, STALE


@pytest.mark.slow
def test_page_is_what_the_command_writes(script: ModuleType) -> None:
    assert script.page() == PAGE, STALE


def test_results_are_the_record_s(script: ModuleType) -> None:
    for task in ("val/map_50", "val/miou"):
        assert script.run_table(task) in PAGE, STALE
    assert script.machines() in PAGE, STALE


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/detection_segmentation.md", "exec"), {})
    assert capsys.readouterr().out.startswith("tensor(")
