"""COCO's three ways to write a mask, made into one."""

from typing import Any

from acmix.tasks.data.coco_faults import BadRecordError, finite_numbers, shown

__all__ = ["segmentation_counts"]

_LEAST_POINTS = 3
_BITS = 5
_LONGEST = 7


def segmentation_counts(segmentation: Any, height: int, width: int) -> bytes:
    """Reads a mask.

    Args:
        segmentation: Polygons `[[x0, y0, x1, y1, ...], ...]`, or run lengths `{"size": [h, w], "counts": ...}` with
            counts as a list of numbers or as COCO's compressed text.
        height: Of the image.
        width: Of the image.

    Returns:
        COCO's compressed run lengths.

    Raises:
        BadRecordError: The mask is none of these, or of another size than the image.
    """
    from faster_coco_eval.core import mask as coco_masks

    if isinstance(segmentation, list):
        _check_polygons(segmentation, height, width)
        parts = coco_masks.frPyObjects([list(map(float, one)) for one in segmentation], height, width)
        whole = parts[0] if len(parts) == 1 else coco_masks.merge(parts)
    elif isinstance(segmentation, dict):
        counts = _checked_counts(segmentation, height, width)
        whole = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    else:
        raise BadRecordError(f"'segmentation' is {shown(segmentation)}: expected polygons or run lengths")
    return bytes(whole["counts"])


def _check_polygons(polygons: list[Any], height: int, width: int) -> None:
    if not polygons:
        raise BadRecordError("'segmentation' holds no polygon")
    for polygon in polygons:
        if not finite_numbers(polygon) or len(polygon) % 2 or len(polygon) < 2 * _LEAST_POINTS:
            raise BadRecordError(
                f"'segmentation' has the polygon {shown(polygon)}: expected at least {_LEAST_POINTS} points "
                "as finite numbers x, y, x, y, ..."
            )
        # A point a little outside is common; one far away is an error, and costs memory without limit.
        for values, extent in ((polygon[::2], width), (polygon[1::2], height)):
            if min(values) < -extent or max(values) > 2 * extent:
                raise BadRecordError(
                    f"'segmentation' has a polygon that reaches from {min(values)} to {max(values)}, far outside the "
                    f"image of {width}x{height}"
                )


def _checked_counts(segmentation: dict[str, Any], height: int, width: int) -> list[int]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise BadRecordError(
            f"'segmentation' has the size {shown(size)}: expected that of the image, [{height}, {width}]"
        )
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise BadRecordError(f"'segmentation' has counts {shown(counts)}: expected whole numbers of at least 0")
    if sum(counts) != height * width:
        raise BadRecordError(
            f"'segmentation' has counts that add up to {sum(counts)}: expected height times width, {height * width}"
        )
    return counts


def _uncompressed(text: str) -> list[int]:
    """Reads COCO's compressed counts, with the checks that the C code of the COCO tools does without.

    A number takes characters of six bits, counted from "0", lowest bits first: five of the number, one that says
    whether more follow. From the fourth count on, what is written is the difference to the last but one.
    """
    counts: list[int] = []
    number, length = 0, 0
    for character in text:
        code = ord(character) - ord("0")
        if not 0 <= code < 2 ** (_BITS + 1) or length == _LONGEST:
            raise BadRecordError(f"'segmentation' has counts {shown(text)}: they are no compressed run lengths")
        number |= (code % 2**_BITS) << (_BITS * length)
        length += 1
        if code < 2**_BITS:
            if code & 2 ** (_BITS - 1):
                number -= 1 << (_BITS * length)
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number, length = 0, 0
    if length:
        raise BadRecordError(f"'segmentation' has counts {shown(text)}: they are cut off")
    return counts
