"""How metrics are called and written where people read them."""

import math

__all__ = ["SHOWN", "describe", "is_percent", "label", "shown_values"]

# In percent, as papers print them. The order is that of the lines.
_LABELS = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "map": "box AP",
    "map_50": "box AP50",
    "map_75": "box AP75",
    "segm_map": "mask AP",
    "segm_map_50": "mask AP50",
    "segm_map_75": "mask AP75",
}
# What an epoch's line and the curves show beside the loss.
SHOWN = ("top1", "miou", "map_50", "map", "segm_map_50", "segm_map")


def label(metric: str) -> str:
    """A metric's name for people, without its stage."""
    return _LABELS.get(metric, metric)


def is_percent(metric: str) -> bool:
    """Whether a metric is a share that is written in percent."""
    return metric in _LABELS or metric.removeprefix("segm_").startswith(("map", "mar_"))


def describe(metric: str, value: float) -> str:
    """A metric with its value; COCO's -1, and no number, say that there was nothing to measure."""
    if not is_percent(metric):
        return f"{label(metric)} {value:.4f}"
    return f"{label(metric)} -" if value < 0 or math.isnan(value) else f"{label(metric)} {100 * value:.2f} %"


def shown_values(row: dict[str, float], stage: str) -> list[str]:
    """The loss and the most telling metrics of a stage, in the order of the lines."""
    loss = [f"loss {row[f'{stage}/loss']:.3f}"] if f"{stage}/loss" in row else []
    return loss + [describe(name, row[f"{stage}/{name}"]) for name in SHOWN if f"{stage}/{name}" in row]
