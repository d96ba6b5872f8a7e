"""COCO's annotations, checked once and packed: arrays, which worker processes share instead of copying."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acmix.errors import UserError
from acmix.tasks.data.coco_faults import BadRecordError, Faults, OnBadRecord, finite_numbers, shown, whole_number
from acmix.tasks.data.coco_json import read_annotation_file, read_categories
from acmix.tasks.data.coco_segmentations import segmentation_counts
from acmix.tasks.data.detection_masks import decode_masks
from acmix.tasks.data.notes import inform

__all__ = ["CocoRecords", "Objects", "read_records"]

_LARGEST_SIDE = 65_535
_LEAST_EXTENT = 1e-3


class Objects(NamedTuple):
    """The objects of an image.

    Attributes:
        boxes: Float32 [N, 4]: left, top, right, bottom in pixels, as the file has them.
        labels: Int64 [N], from 1 in the order of the category ids.
        crowd: Bool [N].
        areas: Float32 [N], as the file has them.
        masks: Uint8 [N, H, W], None where masks were not read.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]
    masks: NDArray[np.uint8] | None


@dataclass(frozen=True)
class CocoRecords:
    """The content of an annotation file.

    Attributes:
        path: The file.
        categories: Names by category id, in ascending order of the ids.
        file_names: Names of the image files, in the file's order.
        image_ids: Int64 [N].
        sizes: Height and width of the images, int64 [N, 2].
        starts: Where each image's objects begin, and where the last one's end, int64 [N + 1].
        objects: Float32 [A, 7]: left, top, right, bottom, label, crowd, area; grouped by image.
        counts: Compressed run lengths of all masks, one after the other; empty without masks.
        count_starts: Where each mask's run lengths begin, and where the last one's end, int64 [A + 1]; None without.
    """

    path: Path
    categories: dict[int, str]
    file_names: list[str]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    objects: NDArray[np.float32]
    counts: NDArray[np.uint8]
    count_starts: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.image_ids)

    def with_objects(self) -> NDArray[np.int64]:
        """Returns the numbers of the images that have an object that is no crowd."""
        single = np.concatenate([[0], np.cumsum(self.objects[:, 5] == 0)])
        return np.flatnonzero(single[self.starts[1:]] > single[self.starts[:-1]])

    def of(self, row: int) -> Objects:
        """The objects of an image.

        Args:
            row: Number of the image.

        Returns:
            Its objects, in the file's order.
        """
        start, end = self.starts[row : row + 2].tolist()
        table = self.objects[start:end]
        masks = None
        if self.count_starts is not None:
            cuts = self.count_starts[start : end + 1].tolist()
            counts = [self.counts[first:last].tobytes() for first, last in pairwise(cuts)]
            masks = decode_masks(counts, *self.sizes[row].tolist())
        return Objects(table[:, :4], table[:, 4].astype(np.int64), table[:, 5] > 0, table[:, 6], masks)


def read_records(path: Path, *, masks: bool, on_bad_record: OnBadRecord) -> CocoRecords:
    """Reads and checks an annotation file.

    Boxes of no width or height, of which COCO's own training annotations have two, are left out with a note.

    Args:
        path: The JSON file.
        masks: Reads the masks too; then every annotation must have a `segmentation`.
        on_bad_record: What to do with a record that is at fault.

    Returns:
        What it says.

    Raises:
        UserError: The file cannot be read, or a record is at fault and is not to be skipped.
    """
    inform(f"reading {path}")
    content = read_annotation_file(path)
    categories = read_categories(path, content["categories"])
    reader = _Reader(categories, Faults(path, on_bad_record), masks)
    reader.read_images(content["images"])
    reader.read_annotations(content["annotations"])
    reader.faults.report()
    if reader.flat:
        inform(f"{path}: left out {len(reader.flat):,} boxes without extent, the first is annotation {reader.flat[0]}")
    if not reader.images:
        raise UserError(f"{path} has no usable images: expected at least one under 'images'")
    return reader.packed(path)


class _Image(NamedTuple):
    file_name: str
    height: int
    width: int


class _Reader:
    """Goes through the records of a file."""

    def __init__(self, categories: dict[int, str], faults: Faults, masks: bool) -> None:
        self.categories = categories
        self.labels = {number: label for label, number in enumerate(categories, start=1)}
        self.faults = faults
        self.masks = masks
        self.images: dict[int, _Image] = {}
        self.left_out: set[Any] = set()
        self.rows: dict[int, list[tuple[float, ...]]] = {}
        self.counts: dict[int, list[bytes]] = {}
        self.seen: set[int] = set()
        self.flat: list[int] = []

    def read_images(self, records: list[Any]) -> None:
        for place, record in enumerate(records):
            number = record.get("id") if isinstance(record, dict) else None
            try:
                self._read_image(record)
            except BadRecordError as fault:
                name = f"image number {place + 1} in the list" if number is None else f"image {shown(number)}"
                self.faults.add(name, str(fault))
                if isinstance(number, int) and number not in self.images:
                    self.left_out.add(number)

    def read_annotations(self, records: list[Any]) -> None:
        for place, record in enumerate(records):
            try:
                self._read_annotation(record)
            except BadRecordError as fault:
                number, image = (record.get("id"), record.get("image_id")) if isinstance(record, dict) else (None, None)
                name = f"annotation number {place + 1} in the list" if number is None else f"annotation {shown(number)}"
                self.faults.add(name if image is None else f"{name} of image {shown(image)}", str(fault))

    def packed(self, path: Path) -> CocoRecords:
        lengths = [len(self.rows[number]) for number in self.images]
        rows = [row for number in self.images for row in self.rows[number]]
        counts = [one for number in self.images for one in self.counts[number]]
        count_starts = np.concatenate([[0], np.cumsum([len(one) for one in counts], dtype=np.int64)])
        return CocoRecords(
            path,
            self.categories,
            [image.file_name for image in self.images.values()],
            np.array(list(self.images), dtype=np.int64),
            np.array([(image.height, image.width) for image in self.images.values()], dtype=np.int64),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            np.array(rows, dtype=np.float32).reshape(-1, 7),
            np.frombuffer(b"".join(counts), dtype=np.uint8),
            count_starts if self.masks else None,
        )

    def _read_image(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise BadRecordError(f"is {shown(record)}: expected an object with id, file_name, width and height")
        number = whole_number(record, "id")
        if number in self.images:
            raise BadRecordError(f"the id stands there twice, also for '{self.images[number].file_name}'")
        width, height = (whole_number(record, key, 1, _LARGEST_SIDE) for key in ("width", "height"))
        name = record.get("file_name")
        if not isinstance(name, str) or not name.strip("/.") or "\0" in name:
            raise BadRecordError(f"'file_name' is {shown(name)}: expected the name of an image file")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadRecordError(f"'file_name' is {shown(name)}: expected a file in the folder of images")
        self.images[number] = _Image(name, height, width)
        self.rows[number] = []
        self.counts[number] = []

    def _read_annotation(self, record: Any) -> None:
        if not isinstance(record, dict):
            raise BadRecordError(f"is {shown(record)}: expected an object with id, image_id, category_id and bbox")
        number, image_id = whole_number(record, "id"), whole_number(record, "image_id")
        if image_id in self.left_out:
            return
        if image_id not in self.images:
            raise BadRecordError("there is no image with this id")
        if number in self.seen:
            raise BadRecordError("the id stands there twice")
        category = whole_number(record, "category_id")
        if category not in self.labels:
            raise BadRecordError(f"there is no category {category}, only {shown(list(self.categories))}")
        image = self.images[image_id]
        box = _box(record, image)
        crowd = whole_number(record, "iscrowd", 0, 1) if "iscrowd" in record else 0
        area = record.get("area", box[2] * box[3])
        if not finite_numbers([area]) or not 0 <= area <= _LARGEST_SIDE**2:
            raise BadRecordError(f"'area' is {shown(area)}: expected a number of pixels of at least 0")
        if self.masks:
            if "segmentation" not in record:
                raise BadRecordError("has no 'segmentation'; set masks to false to do without")
            counts = segmentation_counts(record["segmentation"], image.height, image.width)
        self.seen.add(number)
        if min(box[2:]) < _LEAST_EXTENT:
            self.flat.append(number)
            return
        left, top, width, height = box
        self.rows[image_id].append((left, top, left + width, top + height, self.labels[category], crowd, area))
        if self.masks:
            self.counts[image_id].append(counts)


def _box(record: dict[str, Any], image: _Image) -> list[float]:
    """Left, top, width and height; the part of them within the image may be less."""
    if "bbox" not in record:
        raise BadRecordError("has no 'bbox'")
    box = record["bbox"]
    if not finite_numbers(box) or len(box) != 4:
        raise BadRecordError(f"'bbox' is {shown(box)}: expected four finite numbers, left, top, width and height")
    left, top, width, height = map(float, box)
    if width < 0 or height < 0:
        raise BadRecordError(f"'bbox' is {shown(box)}: width or height is negative")
    outside = left >= image.width or top >= image.height or left + width <= 0 or top + height <= 0
    if outside and min(width, height) > 0:
        raise BadRecordError(f"'bbox' is {shown(box)}: it lies outside of the image of {image.width}x{image.height}")
    # A little outside is common; far away, what is meant is not what stands there.
    for start, length, extent in ((left, width, image.width), (top, height, image.height)):
        if start < -extent or start + length > 2 * extent:
            raise BadRecordError(
                f"'bbox' is {shown(box)}: it reaches far outside of the image of {image.width}x{image.height}"
            )
    return [left, top, width, height]
