"""docs/models.md: every network is on it, its figures and text are what the command would write, its examples run."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import acmix
from acmix.analysis import count_complexity

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
SIZES = PAGE[PAGE.index("## Size") : PAGE.index("## Where the figures differ")]
ROWS = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) G \|", SIZES, flags=re.MULTILINE)
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
STALE = "docs/models.md is stale: make models-page"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The command; it is in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("make_models_page")


def test_every_network_is_on_the_page_once(script: ModuleType) -> None:
    assert sorted(name for name, _, _ in ROWS) == sorted([*acmix.list_models(), *script.CONTROLS]), STALE


@pytest.mark.parametrize(("name", "parameters"), [row[:2] for row in ROWS], ids=[row[0] for row in ROWS])
def test_parameters_are_the_networks(name: str, parameters: str) -> None:
    with torch.device("meta"):
        network = acmix.create_model(name)
    assert f"{sum(parameter.numel() for parameter in network.parameters()):,}" == parameters, STALE


@pytest.mark.parametrize("name", ["acmix_resnet26", "acmix_san10", "acmix_pvt_tiny", "acmix_swin_tiny"])
def test_multiply_adds_are_the_networks(name: str) -> None:
    with torch.device("meta"):
        network = acmix.create_model(name)
    counted = count_complexity(network, (3, 224, 224)).macs
    assert f"{counted / 1e9:.3f}" == {row[0]: row[2] for row in ROWS}[name], STALE


def test_parameters_of_the_variants_are_the_network_s(script: ModuleType) -> None:
    counts = {}
    for variant in (*script.TABLE_6, *script.TABLE_7):
        network = script.made(script.SWIN, variant.options)
        counts[variant.words] = f"{sum(parameter.numel() for parameter in network.parameters()):,}"
    shown = re.findall(r"^\| ([^`|]+) \| [^|]+ \| ([\d,]+) \|", PAGE, flags=re.MULTILINE)
    assert dict(shown) == counts, STALE


def test_text_is_the_template_s(script: ModuleType) -> None:
    pieces = re.split(r"\{\{\w+\}\}", script.TEMPLATE.read_text(encoding="utf-8"))
    pattern = r"[^\n]*(?:\n\|[^\n]*)*".join(re.escape(piece) for piece in pieces)
    assert re.fullmatch(pattern, PAGE), STALE


def test_published_figures_are_on_the_page(script: ModuleType) -> None:
    lines = dict(re.findall(r"^\| `(\w+)` \|(.*)$", SIZES, flags=re.MULTILINE))
    for name, published in script.PUBLISHED.items():
        cells = [cell or "-" for cell in (*published.paper, *published.code)]
        assert lines[name].strip(" |").split(" | ")[2:] == cells, STALE


def test_a_mark_without_a_part_is_refused(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "template.md"
    template.write_text("{{resnet}} {{unet}}", encoding="utf-8")
    monkeypatch.setattr(script, "TEMPLATE", template)
    monkeypatch.setattr(script, "parts", lambda: {"resnet": "", "san": ""})
    with pytest.raises(ValueError, match=r"\['san', 'unet'\]"):
        script.page()


def test_a_network_of_no_family_is_refused(script: ModuleType) -> None:
    with pytest.raises(ValueError, match="acmix_unet14 belongs in one table"):
        script.family_of("acmix_unet14")


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example: str) -> None:
    with torch.device("meta"):
        exec(compile(example, "docs/models.md", "exec"), {})


@pytest.mark.slow
def test_page_is_what_the_command_writes(script: ModuleType) -> None:
    assert script.page() == PAGE, STALE
