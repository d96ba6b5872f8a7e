"""Write docs/models.md: the text of docs/models.template.md with what is counted here in the place of its {{marks}}.

    python scripts/make_models_page.py

takes half a minute. Networks are made and run on the meta device, where nothing is computed.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from published_figures import PUBLISHED, Published
from torch import nn

from acmix import ACmix, create_model, list_models
from acmix.analysis.complexity import Complexity, count_complexity, count_units
from acmix.nn import SpatialReductionACmix, TwoPaths

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, TEMPLATE = DOCS / "models.md", DOCS / "models.template.md"
MARK = re.compile(r"\{\{(\w+)\}\}")

INPUT_SIZE = (3, 224, 224)
FAMILIES = ("resnet", "san", "pvt", "swin")
# Swin's baselines are timm's own.
CONTROLS = ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224")
SWIN = "acmix_swin_tiny"

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """A row of the paper's Table 6 or 7: its words, the options that make it, and FLOPs, top-1 (parameters first)."""

    words: str
    options: Options
    paper: tuple[str, str, str] = ("", "", "")


TABLE_6 = (
    Variant("attention only: Swin-T", {"acmix": {"paths": "attention", "rates": "1,1"}}, ("29M", "4.5G", "81.3")),
    Variant("Conv-Swin-T: a 3x3 convolution for attention", {"mixer": "conv"}, ("39M", "4.5G", "80.5")),
    Variant("rates 1 and 1", {"acmix": {"rates": "1,1"}}, ("30M", "4.6G", "81.5")),
    Variant("alpha and 1", {"acmix": {"rates": "alpha,1"}}, ("30M", "4.6G", "81.6")),
    Variant("alpha and 1 - alpha", {"acmix": {"rates": "alpha,1-alpha"}}, ("30M", "4.6G", "81.5")),
    Variant("alpha and beta", {}, ("30M", "4.6G", "81.9")),
    Variant("convolution path alone", {"acmix": {"paths": "convolution"}}),
)
TABLE_7 = (
    Variant("tensor shifts", {"acmix": {"shift": "tensor"}}, ("", "4.6G", "81.4")),
    Variant("fixed kernels", {"acmix": {"shift": "fixed"}}, ("", "4.7G", "81.4")),
    Variant(
        "learnable kernels, random at the start",
        {"acmix": {"shift": "learnable", "shift_init": "random"}},
        ("", "4.7G", "81.5"),
    ),
    Variant("learnable kernels, shifts at the start", {"acmix": {"shift": "learnable"}}),
    Variant("full group convolution, shifts at the start", {}, ("", "4.7G", "81.9")),
    Variant("full group convolution, random at the start", {"acmix": {"shift_init": "random"}}),
)


def made(name: str, options: Options | None = None) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **(options or {}))


def code(options: Options) -> str:
    """As they are written in Python."""
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in options.items())


@functools.cache
def _counted(name: str, options: str) -> Complexity:
    return count_complexity(made(name, json.loads(options)), INPUT_SIZE)


def counted(name: str, options: Options | None = None) -> Complexity:
    return _counted(name, json.dumps(dict(options or {})))


def giga(macs: int) -> str:
    return f"{macs / 1e9:.3f} G"


def mega(parameters: int) -> str:
    return f"{parameters / 1e6:.3f} M"


def table(head: str, rows: Iterable[Iterable[str]], text_columns: int = 1) -> str:
    columns = head.split(", ")
    rule = ["---"] * text_columns + ["---:"] * (len(columns) - text_columns)
    lines = [columns, rule, *([cell or "-" for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def family_of(name: str) -> str:
    found = [family for family in FAMILIES if re.match(rf"(\w+_)?{family}(\d|_)", name)]
    if len(found) != 1:
        raise ValueError(f"{name} belongs in one table of {FAMILIES}, found {found}; add its family here")
    return found[0]


def order(name: str) -> tuple[int, int, str]:
    """Small networks first, those with ACmix behind their controls."""
    rank = 2 if name.startswith("acmix") else int(name.startswith("attn"))
    number = re.search(r"\d+", re.sub(r"patch.*", "", name))
    size = int(number[0]) if number else ("tiny", "small").index(name.split("_patch")[0].split("_")[-1])
    return size, rank, name


def names() -> list[str]:
    return sorted([*list_models(), *CONTROLS], key=order)


def family_table(family: str) -> str:
    rows = []
    for name in (name for name in names() if family_of(name) == family):
        size, published = counted(name), PUBLISHED.get(name, Published())
        rows.append([f"`{name}`", f"{size.parameters:,}", giga(size.macs), *published.paper, *published.code])
    head = "network, parameters, MACs, paper: parameters, FLOPs, top-1, authors' code: parameters, MACs"
    return table(head, rows)


def printed() -> list[str]:
    """ACmix networks that the paper has, family by family."""
    found = [name for name in names() if name.startswith("acmix") and name in PUBLISHED]
    return sorted(found, key=lambda name: FAMILIES.index(family_of(name)))


def layers(model: nn.Module) -> list[TwoPaths]:
    return [module for module in model.modules() if isinstance(module, TwoPaths)]


def twice_table() -> str:
    rows = []
    for name in printed():
        kernels = sum(layer.shift.weight.numel() for layer in layers(made(name)) if layer.shift.weight is not None)
        once = counted(name).parameters
        rows.append([f"`{name}`", mega(once), mega(once + kernels), PUBLISHED[name].paper[0]])
    return table("network, parameters, group kernels twice, paper", rows)


def more_macs(name: str) -> int:
    """ResNet: attention counted at the input's size. PVT: k and v projected at full size as well."""
    model, more = made(name), 0
    for unit in count_units(model, INPUT_SIZE):
        layer = model.get_submodule(unit.name)
        if isinstance(layer, ACmix):
            before, after = (shape[2] * shape[3] for shape in (unit.input_shape, unit.output_shape))
            more += 2 * layer.kernel_att**2 * layer.out_channels * (before - after)
        elif isinstance(layer, SpatialReductionACmix) and layer.reduction > 1:
            more += 2 * layer.channels**2 * (unit.input_shape[1] - layer.num_prefix_tokens)
    return more


def macs_table() -> str:
    rows = []
    for name in printed():
        macs = counted(name).macs
        at_input = giga(macs + more_macs(name)) if family_of(name) == "resnet" else ""
        rows.append([f"`{name}`", giga(macs), at_input, f"{PUBLISHED[name].plot} G"])
    return table("network, MACs, attention at the input's size, paper's plot", rows)


def variant_table(variants: Iterable[Variant]) -> str:
    rows = []
    for variant in variants:
        size = counted(SWIN, variant.options)
        options = f"`{code(variant.options)}`" if variant.options else "the default"
        rows.append([variant.words, options, f"{size.parameters:,}", giga(size.macs), *variant.paper])
    return table("row, options, parameters, MACs, paper: parameters, FLOPs, top-1", rows, text_columns=2)


def parts() -> dict[str, str]:
    """What stands in the place of each mark."""
    pvt = {size: f"acmix_pvt_{size}" for size in ("tiny", "small")}
    found = {family: family_table(family) for family in FAMILIES}
    found |= {"twice": twice_table(), "macs": macs_table()}
    found |= {"table6": variant_table(TABLE_6), "table7": variant_table(TABLE_7)}
    found |= {f"pvt_{size}": giga(counted(name).macs) for size, name in pvt.items()}
    found |= {f"pvt_{size}_full": giga(counted(name).macs + more_macs(name)) for size, name in pvt.items()}
    return found | {"conv_swin": giga(counted(SWIN, {"mixer": "conv"}).macs)}


def fill(template: Path, filled: Mapping[str, str]) -> str:
    """A template with each of its {{marks}} replaced."""
    text = template.read_text(encoding="utf-8")
    marks = set(MARK.findall(text))
    if marks != filled.keys():
        raise ValueError(f"{template.name}: these marks and parts have no counterpart: {sorted(marks ^ filled.keys())}")
    return MARK.sub(lambda mark: filled[mark[1]], text)


def page() -> str:
    return fill(TEMPLATE, parts())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Written: {PAGE}")
