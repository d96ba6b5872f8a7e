"""COCO's mean average precision and recall, of boxes and of masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from acmix.errors import UserError
from acmix.tables import format_table
from acmix.tasks.data.detection_masks import encode_masks, mask_areas, run_lengths

__all__ = ["COCO_NUMBERS", "ClassResult", "CocoMeanAveragePrecision"]

COCO_NUMBERS = (
    "map",
    "map_50",
    "map_75",
    "map_small",
    "map_medium",
    "map_large",
    "mar_1",
    "mar_10",
    "mar_100",
    "mar_small",
    "mar_medium",
    "mar_large",
)
"""The twelve numbers in COCO's order, by torchmetrics' names."""

_Kind = Literal["bbox", "segm"]


@dataclass(frozen=True)
class ClassResult:
    """What a class reached; -1 where there is no object of it.

    Attributes:
        objects: Number of objects that are no crowd.
        map: Average precision, the mean over IoU 0.50 to 0.95.
        map_50: Average precision at IoU 0.50.
        map_75: Average precision at IoU 0.75.
        mar_100: Average recall with 100 detections per image.
    """

    objects: int
    map: float
    map_50: float
    map_75: float
    mar_100: float


class CocoMeanAveragePrecision(Metric):
    """The twelve numbers of COCO's evaluation, computed by faster-coco-eval.

    Detections and objects are kept as numbers, masks as run lengths, until `compute`. An image that comes more than
    once, as in the last step of a run of several processes, counts once.

    Where COCO has nothing to average, such as `map_large` without large objects, a number is -1, as in COCO's own
    evaluation. The sizes are COCO's: small below 32 x 32 pixels, large above 96 x 96, by the targets' `area`.

    Args:
        masks: Evaluates masks too, under `segm_map`, `segm_map_50`, ...; predictions and targets then need `masks`.
        **kwargs: Options of `torchmetrics.Metric`.

    Attributes:
        classes: Of the last `compute`, the results per label: `bbox` and, with masks, `segm`.

    Example:
        >>> metric = CocoMeanAveragePrecision()
        >>> box, label = torch.tensor([[1.0, 1.0, 9.0, 9.0]]), torch.tensor([1])
        >>> found = {"boxes": box, "labels": label, "scores": torch.tensor([0.9])}
        >>> metric.update([found], [{"boxes": box, "labels": label, "image_id": torch.tensor(7)}])
        >>> round(float(metric.compute()["map"]), 6)
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    images: list[Tensor]
    detections: list[Tensor]
    objects: list[Tensor]
    detection_masks: list[Tensor]
    detection_mask_lengths: list[Tensor]
    object_masks: list[Tensor]
    object_mask_lengths: list[Tensor]

    def __init__(self, masks: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.masks = masks
        self.classes: dict[_Kind, dict[int, ClassResult]] = {}
        names = ["images", "detections", "objects"]
        if masks:
            names += [f"{kind}_{what}" for kind in ("detection", "object") for what in ("masks", "mask_lengths")]
        for name in names:
            # One tensor per state when processes meet: they may hold different numbers of images.
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds the images of a batch.

        Args:
            predictions: Per image `boxes` [D, 4] (left, top, right, bottom in pixels), `labels` [D], `scores` [D] and
                with masks `masks` [D, 1, H, W].
            targets: Per image `boxes` [G, 4], `labels` [G], `image_id`, with masks `masks` [G, H, W], and, where they
                are known, `iscrowd` [G] and `area` [G] (else the mask's or the box's).

        Raises:
            UserError: Masks are to be evaluated, and there are none.
        """
        for found, target in zip(predictions, targets, strict=True):
            for holder, word in ((found, "predictions"), (target, "targets")):
                if self.masks and "masks" not in holder:
                    raise UserError(f"masks are to be evaluated, but the {word} have none: {_MASKS_FROM[word]}")
            height, width = target["masks"].shape[-2:] if self.masks else (0, 0)
            sizes = (int(target["image_id"]), len(found["boxes"]), len(target["boxes"]), height, width)
            self.images.append(torch.tensor([sizes], device=self.device))
            self.detections.append(self._table(found["boxes"], found["labels"], found["scores"]))
            crowd = target.get("iscrowd", torch.zeros(len(target["boxes"])))
            if self.masks:
                self._keep_masks("detection", found["masks"])
                counts = self._keep_masks("object", target["masks"])
                area = target.get("area", torch.from_numpy(mask_areas(counts, height, width)))
            else:
                area = target.get("area", (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(dim=1))
            self.objects.append(self._table(target["boxes"], target["labels"], crowd, area))

    def compute(self) -> dict[str, Tensor]:
        """Evaluates all images.

        Returns:
            Scalars by name: `COCO_NUMBERS`, and with masks the same with the prefix `segm_`; in [0, 1], or -1.
        """
        evaluation = _Evaluation(self._images())
        results: dict[str, Tensor] = {}
        self.classes = {}
        kinds: tuple[tuple[_Kind, str], ...] = (("bbox", ""), ("segm", "segm_")) if self.masks else (("bbox", ""),)
        for kind, prefix in kinds:
            numbers, self.classes[kind] = evaluation.run(kind)
            for name, number in zip(COCO_NUMBERS, numbers, strict=True):
                results[prefix + name] = torch.tensor(number, device=self.device)
        return results

    def per_class_table(self, class_names: Sequence[str]) -> str:
        """Lists what each class reached in the last `compute`, in percent; it may have been reset since.

        Args:
            class_names: The classes; label n is the n-th.

        Returns:
            A table as text.
        """
        kinds: list[_Kind] = ["bbox", "segm"] if self.masks else ["bbox"]
        header = ["class", "objects"]
        for word in ("box", "mask")[: len(kinds)]:
            header += [f"{word} {name}" for name in ("AP", "AP50", "AP75", "AR100")]
        rows = []
        for label, name in enumerate(class_names, start=1):
            results = [self.classes.get(kind, {}).get(label, _NOTHING) for kind in kinds]
            numbers = [value for one in results for value in (one.map, one.map_50, one.map_75, one.mar_100)]
            shown = ["-" if value < 0 else f"{100 * value:.1f}" for value in numbers]
            rows.append([name, str(results[0].objects), *shown])
        return format_table(header, rows)

    def _table(self, boxes: Tensor, *columns: Tensor) -> Tensor:
        """Joins boxes [N, 4] and columns [N] to float32 [N, 4 + columns]; whole numbers below 2^24 stay exact."""
        parts = [boxes.reshape(-1, 4), *(column.reshape(-1, 1) for column in columns)]
        return torch.cat([part.to(self.device, torch.float32) for part in parts], dim=1)

    def _keep_masks(self, kind: str, masks: Tensor) -> list[bytes]:
        counts = encode_masks(masks)
        lengths = torch.tensor([len(one) for one in counts], dtype=torch.int64, device=self.device)
        text = torch.from_numpy(np.frombuffer(b"".join(counts), dtype=np.uint8).copy()).to(self.device)
        getattr(self, f"{kind}_masks").append(text)
        getattr(self, f"{kind}_mask_lengths").append(lengths)
        return counts

    def _images(self) -> list["_Image"]:
        """The images, each once, in the order of their ids, which is COCO's."""
        if len(self.images) == 0:
            return []
        sizes = _numbers(self.images)
        parts: list[list[Any]] = []
        for column, name in ((1, "detection"), (2, "object")):
            cuts = np.cumsum(sizes[:, column])[:-1]
            parts.append(np.split(_numbers(getattr(self, f"{name}s")).astype(np.float64), cuts))
            if self.masks:
                text = _numbers(getattr(self, f"{name}_masks")).tobytes()
                ends = np.cumsum(_numbers(getattr(self, f"{name}_mask_lengths"))).tolist()
                counts = [text[start:end] for start, end in pairwise([0, *ends])]
                bounds = [0, *cuts.tolist(), len(counts)]
                parts.append([counts[a:b] for a, b in pairwise(bounds)])
            else:
                parts.append([None] * len(sizes))
        images: dict[int, _Image] = {}
        for row, found, found_masks, held, held_masks in zip(sizes.tolist(), *parts, strict=True):
            images.setdefault(row[0], _Image(row[0], row[3], row[4], found, found_masks, held, held_masks))
        return [images[image_id] for image_id in sorted(images)]


@dataclass(frozen=True)
class _Image:
    """An image's detections [D, 6]: box, label, score; its objects [G, 7]: box, label, crowd, area; their masks."""

    image_id: int
    height: int
    width: int
    detections: NDArray[np.float64]
    detection_masks: list[bytes] | None
    objects: NDArray[np.float64]
    object_masks: list[bytes] | None

    def annotations(self, kind: _Kind, *, truth: bool) -> list[dict[str, Any]]:
        """Detections or objects in COCO's form, without their own ids."""
        rows, masks = (self.objects, self.object_masks) if truth else (self.detections, self.detection_masks)
        areas = rows[:, 6] if truth else (rows[:, 2:4] - rows[:, :2]).prod(axis=1)
        if kind == "segm" and not truth:
            areas = mask_areas(masks or [], self.height, self.width)
        result = []
        for number, (row, area) in enumerate(zip(rows.tolist(), areas.tolist(), strict=True)):
            left, top, right, bottom, label, value = row[:6]
            one = {"image_id": self.image_id, "category_id": int(label), "area": area}
            one["bbox"] = [left, top, right - left, bottom - top]
            one |= {"iscrowd": int(value)} if truth else {"score": value}
            if kind == "segm" and masks is not None:
                one["segmentation"] = run_lengths(masks[number], self.height, self.width)
            result.append(one)
        return result


class _Evaluation:
    """Runs COCO's evaluation over images."""

    def __init__(self, images: list[_Image]) -> None:
        self.images = images
        self.labels = sorted({int(label) for image in images for label in image.objects[:, 4]})

    def run(self, kind: _Kind) -> tuple[list[float], dict[int, ClassResult]]:
        """The twelve numbers, and results per label."""
        from faster_coco_eval import COCOeval_faster

        if not self.labels:
            return [-1.0] * len(COCO_NUMBERS), {}
        evaluation = COCOeval_faster(self._coco(kind, truth=True), self._coco(kind, truth=False), kind)
        evaluation.run()
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
        classes = {}
        for place, label in enumerate(self.labels):
            # All sizes and 100 detections per image: the first area range, the last limit.
            curve, reached = precision[:, :, place, 0, -1], recall[:, place, 0, -1]
            held = sum(
                int(((image.objects[:, 4] == label) & (image.objects[:, 5] == 0)).sum()) for image in self.images
            )
            classes[label] = ClassResult(held, _mean(curve), _mean(curve[:1]), _mean(curve[5:6]), _mean(reached))
        return [float(number) for number in evaluation.stats[: len(COCO_NUMBERS)]], classes

    def _coco(self, kind: _Kind, *, truth: bool) -> Any:
        from faster_coco_eval import COCO

        coco = COCO()
        annotations = [one for image in self.images for one in image.annotations(kind, truth=truth)]
        coco.dataset = {
            "images": [{"id": image.image_id, "height": image.height, "width": image.width} for image in self.images],
            "categories": [{"id": label, "name": str(label)} for label in self.labels],
            # From 1: the evaluation takes 0 for "not matched".
            "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
        }
        coco.createIndex()
        return coco


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _numbers(state: Any) -> NDArray[Any]:
    numbers: NDArray[Any] = dim_zero_cat(state).cpu().numpy()
    return numbers


_MASKS_FROM = {"predictions": "take a detector of masks", "targets": "set the data's option masks, or take other data"}
_NOTHING = ClassResult(0, -1.0, -1.0, -1.0, -1.0)
