"""Write the measured part of docs/idea.md from docs/records/shifts.json: no figure of it is typed by hand.

    python scripts/shift_tables.py

`scripts/measure_shifts.py` makes the record, and calls this.
"""

import json
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "records" / "shifts.json"
PAGE = ROOT / "docs" / "idea.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

SUM = {
    "shifts": "tensor shifts: pad, then add",
    "in_place": "tensor shifts, added in place",
    "one_set": "group convolution, one set",
    "all_sets": "group convolution, N sets",
}
PATH = {
    "shifts": "tensor shifts",
    "fixed": "fixed kernels, one set",
    "learnable": "learnable kernels, one set",
    "all_sets": "learnable kernels, N sets",
    "composed": "N sets, composed with the mix",
    "kernels": "the same, this library's kernels",
}

Row: TypeAlias = dict[str, Any]


class Record:
    """Look-ups in a record: the rows of one variant, one a stage."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.stages = record["stages"]

    def rows(self, part: str, variant: str, mode: str = "forward") -> list[Row]:
        key = (part, variant, mode)
        return [row for s in self.stages for row in s["results"] if (row["part"], row["variant"], row["mode"]) == key]

    def ratios(self, part: str, above: str, below: str, mode: str = "forward") -> list[float]:
        pairs = zip(self.rows(part, above, mode), self.rows(part, below, mode), strict=True)
        return [a["median_ms"] / b["median_ms"] for a, b in pairs]

    def rate(self, part: str, variant: str, field: str) -> float:
        """1e9 units a second at the first stage."""
        row = self.rows(part, variant)[0]
        return float(row[field] / row["median_ms"] / 1e6)


def span(ratios: list[float]) -> str:
    low, high = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    return low if low == high else f"{low} to {high}"


def table(record: Record, head: str, lines: list[tuple[str, list[Row], list[str]]]) -> str:
    sizes = (f"C {s['channels']}, {s['size']}x{s['size']}<br>{s['map_bytes'] / 1e6:.2f} MB" for s in record.stages)
    rows = [f"| {head} | passes | {' | '.join(sizes)} |", "|---|---:|" + "---:|" * len(record.stages)]
    rows += [f"| {label} | {rows[0]['passes']} | {' | '.join(cells)} |" for label, rows, cells in lines]
    return "\n".join(rows)


def sum_table(record: Record) -> str:
    lines = []
    for variant, label in SUM.items():
        rows, ratios = record.rows("sum", variant), record.ratios("sum", variant, "shifts")
        cells = [f"{row['median_ms']:.2f} ({ratio:.2f})" for row, ratio in zip(rows, ratios, strict=True)]
        lines.append((label, rows, cells))
    return table(record, "shift and sum alone", lines)


def path_table(record: Record) -> str:
    lines = []
    for part, variant, label in [
        *(("path", *way) for way in PATH.items()),
        ("scale", "dense", "*dense 3x3 convolution*"),
    ]:
        rows, steps = record.rows(part, variant), record.rows(part, variant, "training")
        if not rows:  # measured where the kernels were not built
            continue
        cells = [f"{row['median_ms']:.1f} / {step['median_ms']:.1f}" for row, step in zip(rows, steps, strict=True)]
        lines.append((label, rows, cells))
    return table(record, "the whole path", lines)


def verdict(group_to_shifts: list[float]) -> str:
    if min(group_to_shifts) > 1:
        return "**On this processor torch's group convolution is not the cure: the paper's order is turned round.**"
    if max(group_to_shifts) < 1:
        return "**Torch's group convolution is the cure, as in the paper.**"
    return "**Torch's group convolution is the cure at some of the stages only.**"


def reading(record: Record, onednn: str) -> str:
    first = record.rows("sum", "shifts")[0]
    in_place, group = record.ratios("sum", "in_place", "shifts"), record.ratios("sum", "one_set", "shifts")
    learning = record.ratios("path", "learnable", "fixed", "training")
    composed = record.ratios("path", "composed", "all_sets")
    composed_step = record.ratios("path", "composed", "all_sets", "training")
    how = " (patches unfolded, then a small matrix product for each group)" if "gemm" in onednn else ""
    sets, sets_step = (record.ratios("path", "all_sets", "learnable", mode) for mode in ("forward", "training"))
    moved, took = first["moved_bytes"] / 1e6, first["median_ms"]
    speed, copying = record.rate("sum", "shifts", "moved_bytes"), record.rate("scale", "copy", "moved_bytes")
    narrow, dense = record.rate("sum", "one_set", "macs"), record.rate("scale", "dense", "macs")
    passes = (
        f"* **The passes are real.** At the first stage the shifts move {moved:.0f} MB by this count in {took:.1f} ms: "
        f"{speed:.0f} GB/s. A plain copy of the nine maps reaches {copying:.0f} GB/s. Shifts compute next to nothing; "
        f"they wait for memory. Added in place, in about half of the passes, they take {span(in_place)} times as long."
    )
    groups = (
        f"* {verdict(group)} In a fifth of the passes it takes {span(group)} times as long as the shifts. For groups "
        f"as narrow as these oneDNN takes `{onednn}`{how}: {narrow:.1f} GMAC/s at the first stage, where the dense 3x3 "
        f"convolution reaches {dense:.0f}. The paper measured a GPU: 313 images a second with tensor shifts, 419 with "
        "group convolution (Table 7, Swin-ACmix-T, RTX 2080 Ti)."
    )
    kernels = (
        f"* **What learning costs.** A training step takes {span(learning)} times as long with learnable kernels as "
        f"with fixed ones. N sets instead of one take {span(sets)} times as long forward, {span(sets_step)} times in a "
        "training step."
    )
    composing = (
        "* **What composing changes.** One group convolution that reads q, k and v, the mix folded into its weights, "
        f"takes {span(composed)} times as long as the two steps, {span(composed_step)} times in a training step."
    )
    return "\n".join((passes, groups, kernels, composing, *native(record)))


def native(record: Record) -> list[str]:
    """What the library's own kernels change, where they were measured."""
    if not record.rows("path", "kernels"):
        return []
    forward, step = (record.ratios("path", "kernels", "composed", mode) for mode in ("forward", "training"))
    shifts = record.ratios("path", "kernels", "shifts")
    return [
        "* **What kernels for narrow groups change.** This library's take "
        f"{span(forward)} times as long as torch's composed convolution, {span(step)} times in a training step, and "
        f"{span(shifts)} times as long as tensor shifts."
    ]


def machine_state(load: float, threads: int) -> str:
    """How quiet the machine was before the measurement."""
    if load <= threads:
        return f"load average {load} before"
    return f"load average {load} before: other programs ran beside, turns in which they took the core were repeated"


def pedigree(record: dict[str, Any]) -> str:
    device, versions, settings = record["device"], record["versions"], record["settings"]
    return (
        f"Milliseconds, medians of {settings['rounds']} turns; {device['name']} ({record['instruction_set']}), "
        f"{device['threads']} thread, PyTorch {versions['torch']}, batch {settings['batch']}, {settings['dtype']}, "
        f"{machine_state(record['load_average_before'], device['threads'])}; commit `{record['commit'][:10]}`. "
        "In brackets: times the first row. With a slash: forward / training step. "
        "All figures: [records/shifts.json](records/shifts.json)."
    )


def measured(record: dict[str, Any]) -> str:
    """The part of the page between the two markers."""
    look = Record(record)
    parts = (sum_table(look), path_table(look), pedigree(record), reading(look, record["onednn_group_convolution"]))
    return "\n\n".join(parts)


def write_tables(record: dict[str, Any]) -> None:
    head, _, rest = PAGE.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{measured(record)}\n{END}{tail}")


if __name__ == "__main__":
    write_tables(json.loads(RECORD.read_text()))
