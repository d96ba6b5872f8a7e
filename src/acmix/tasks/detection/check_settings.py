"""Settings of a detector that contradict each other, refused in one line."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import get_args

from acmix.errors import UserError
from acmix.tasks.detection.settings import CascadeSettings, DetectorKind, DetectorSettings, HeadSettings

__all__ = ["check_settings"]

# Of the R-CNNs' heads alone.
_REGIONS = ("box_head", "fc_channels", "class_agnostic", "samples", "positive_fraction")


def check_settings(settings: DetectorSettings, num_classes: int, in_chans: int) -> None:
    """Refuses what cannot be built, and what would have no effect.

    Args:
        settings: The detector's.
        num_classes: Without background.
        in_chans: Image channels.

    Raises:
        UserError: Names the setting, what came and what is possible.
    """
    for told in (*_unknown(settings), *_wrong_numbers(settings, num_classes), *_misfits(settings, in_chans)):
        raise UserError(told)


def _unknown(settings: DetectorSettings) -> Iterator[str]:
    words = {
        "kind": (settings.kind, get_args(DetectorKind)),
        "pyramid.norm": (settings.pyramid.norm, ("none", "batch", "group")),
        "heads.norm": (settings.heads.norm, ("none", "batch", "group")),
        "heads.box_head": (settings.heads.box_head, ("2fc", "4conv1fc")),
        "heads.box_loss": (settings.heads.box_loss, ("smooth_l1", "giou")),
    }
    for name, (value, known) in words.items():
        if value not in known:
            yield f"{name} is {value!r}: choose one of {', '.join(known)}"


def _wrong_numbers(settings: DetectorSettings, num_classes: int) -> Iterator[str]:
    images, anchors = settings.images, settings.anchors
    if num_classes < 1:
        yield f"a detector needs one class at least besides background, not {num_classes}"
    if settings.pyramid.channels < 1:
        yield f"pyramid.channels is {settings.pyramid.channels}: give one at least"
    sizes = [*images.min_size, *([] if images.test_min_size is None else [images.test_min_size])]
    if not images.min_size or min(sizes) < 1:
        yield f"images.min_size is {images.min_size}, images.test_min_size {images.test_min_size}: give pixels"
    if sizes and images.max_size < max(sizes):
        yield f"images.max_size is {images.max_size}, but the short side is to be {max(sizes)}: give no less"
    for name, values in (("anchors.scales", anchors.scales), ("anchors.aspect_ratios", anchors.aspect_ratios)):
        if values is not None and (not values or min(values) <= 0):
            yield f"{name} is {values}: give one number at least, all of them above zero"
    counts = {"heads.fc_channels": settings.heads.fc_channels, "heads.samples": settings.heads.samples}
    counts |= {"proposals." + name: value for name, value in asdict(settings.proposals).items() if name.endswith("nms")}
    for name, count in counts.items():
        if count < 1:
            yield f"{name} is {count}: give one at least"


def _misfits(settings: DetectorSettings, in_chans: int) -> Iterator[str]:
    kind, heads, cascade = settings.kind, settings.heads, settings.cascade
    mean, std = settings.images.mean, settings.images.std
    if len(mean) != in_chans or len(std) != in_chans or min(std) <= 0:
        yield f"images.mean is {mean} and images.std {std}: give {in_chans}, one a channel, deviations above zero"
    lengths = {len(cascade.ious), len(cascade.box_weights), len(cascade.loss_weights)}
    if len(lengths) > 1 or not cascade.ious:
        yield f"cascade.ious, box_weights and loss_weights need one entry for each stage, not {sorted(lengths)}"
    if not settings.has_cascade:
        if cascade != CascadeSettings():
            yield f"cascade is set, but a {kind} has no stages: choose kind cascade_rcnn or cascade_mask_rcnn"
        if heads.box_loss != "smooth_l1":
            yield f"heads.box_loss is {heads.box_loss}: of a {kind} it is fixed, choose a cascade or leave it"
    if kind == "retinanet":
        changed = [name for name in _REGIONS if getattr(heads, name) != getattr(HeadSettings(), name)]
        if changed:
            yield f"heads.{changed[0]} is {getattr(heads, changed[0])}, but a retinanet has no such head: leave it"
    elif heads.norm != "none" and heads.box_head == "2fc":
        yield f"heads.norm is {heads.norm}, but the box head 2fc has no convolutions: choose heads.box_head 4conv1fc"
