"""COCO's run lengths and polygons, checked in full and then painted.

Files may hold anything. pycocotools believes what it is given: it walks past the end of a string that was cut, leaves
pixels unwritten where runs end early, and ends the process at a polygon with a null. So run lengths are read and
painted here, and pycocotools sees only polygons whose numbers were checked.
"""

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from attrbind_exp.types import SampleError

LARGEST_RUN = 2**32 - 1  # COCO's run lengths are numbers of 32 bits
LONGEST_NUMBER = 6  # characters of one compressed number, 5 bits each; C's arithmetic on more is undefined
DIGITS = np.array([*range(16), *range(-16, 0), *range(32)])  # of a number's last character, with its sign; of others
TIMES_OUTSIDE = 10  # a coordinate may lie this many times the picture's side away
FURTHEST = 1e8  # pycocotools has five steps a pixel, and numbers of 32 bits
LONGEST_OUTLINE = 500_000  # pixels; pycocotools needs up to 160 bytes for each
MERGED_AT_ONCE = 32  # masks of one call: the time of a call grows with the square of their number


def malformed(why: str) -> SampleError:
    """The error of a segmentation that is in none of the forms; `why` holds no text from the file."""
    return SampleError("mask_malformed", f"segmentation cannot be read: {why}")


def read_size(size: Any) -> tuple[int, int] | None:
    """(height, width) of two whole positive numbers whose pixels one run can count, None if `size` is anything else."""
    if not isinstance(size, list | tuple | np.ndarray) or len(size) != 2 or not _are_numbers(size):
        return None
    height, width = size
    if not (0 < height <= LARGEST_RUN and 0 < width <= LARGEST_RUN and height == int(height) and width == int(width)):
        return None
    return (int(height), int(width)) if int(height) * int(width) <= LARGEST_RUN else None


def paint_runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of run lengths, compressed (text) or not (a list). They run down the columns.

    Raises SampleError: "mask_malformed" where they don't add up to their own size, "mask_size" where that isn't `size`.
    """
    own = read_size(segmentation.get("size"))
    if own is None:
        raise malformed(f"the size of run lengths must be two whole positive numbers, of {LARGEST_RUN} pixels at most")
    pixels = own[0] * own[1]
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        runs = _whole_runs(counts)
    elif isinstance(counts, str | bytes):
        runs = decompress(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts, pixels)
    else:
        raise malformed(f"counts must be a list or compressed text, not of type {type(counts).__name__}")
    if runs.min(initial=0) < 0 or runs.max(initial=0) > pixels:
        where = int(((runs < 0) | (runs > pixels)).argmax())
        raise malformed(f"run length {where + 1} of {len(runs)} is {runs[where]}, not within 0 and {pixels}")
    if runs.sum() != pixels:
        raise malformed(f"{len(runs)} run lengths add up to {runs.sum()}, not to the size {own[0]} x {own[1]}")
    if own != size:
        raise SampleError("mask_size", f"mask is {own} (height, width), its image {size}")
    inside = np.zeros(len(runs), bool)
    inside[1::2] = True
    return np.ascontiguousarray(np.repeat(inside, runs).reshape(size[::-1]).T)


def _whole_runs(counts: list[Any]) -> np.ndarray:
    """Run lengths (n,) int64 of a list of numbers. Raises SampleError."""
    if not _are_numbers(counts):
        raise malformed("run lengths must be numbers")
    try:
        runs = np.array(counts, np.float64)  # exact far beyond 32 bits
    except OverflowError as error:
        raise malformed("a run length is not a number of 32 bits") from error
    if not ((np.abs(runs) <= LARGEST_RUN) & (runs == np.floor(runs))).all():  # false for not-a-number, too
        raise malformed("run lengths must be whole numbers of 32 bits")
    return runs.astype(np.int64)


def decompress(text: bytes, pixels: int) -> np.ndarray:
    """Run lengths (n,) int64 of COCO's compressed text, for a mask of so many pixels. Raises SampleError.

    Each character from "0" to "o" holds 6 bits: five of a number, the lowest ones first, and whether more follow. The
    last one's highest bit is the sign. From the fourth on, a number is the difference to the last run but one.
    """
    if len(text) > LONGEST_NUMBER * (pixels + 1):
        raise malformed(f"{len(text)} characters of run lengths are too many for {pixels} pixels")
    codes = np.frombuffer(text, np.uint8) - np.uint8(ord("0"))  # what lies below "0" wraps around, to above 63
    if not len(codes) or codes[-1] > 31:
        raise malformed("compressed run lengths end in the middle of a number" if len(codes) else "no run lengths")
    if codes.max() > 63:
        raise malformed("compressed run lengths hold a character that none has")
    (ends,) = (codes < 32).nonzero()
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    if lengths.max() > LONGEST_NUMBER:
        raise malformed(f"a compressed run length has more than {LONGEST_NUMBER} characters")
    shifts = 5 * (np.arange(len(codes)) - starts.repeat(lengths))
    runs = np.add.reduceat(DIGITS[codes] << shifts, starts)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def paint_polygons(polygons: list[Any], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of what lies in any of the polygons. What lies outside the picture is cut off.

    A polygon is a list x, y, x, y, ... in pixels; one of fewer than three points encloses nothing. Raises SampleError
    "mask_malformed".
    """
    read = [_read_polygon(polygon, size) for polygon in polygons]
    drawn = [points for points in read if len(points) >= 6]
    if sum(np.abs(points[2:] - points[:-2]).sum() for points in drawn) > LONGEST_OUTLINE:
        raise malformed(f"the outline is longer than {LONGEST_OUTLINE} pixels")
    if not drawn:
        return np.zeros(size, bool)
    rles = coco_mask.frPyObjects(drawn, *size)
    while len(rles) > 1:
        rles = [coco_mask.merge(rles[i : i + MERGED_AT_ONCE]) for i in range(0, len(rles), MERGED_AT_ONCE)]
    return coco_mask.decode(rles[0]).astype(bool, order="C")


def _read_polygon(polygon: Any, size: tuple[int, int]) -> np.ndarray:
    """x, y, x, y, ... (2n,) float64, all within reach of a picture of `size`. Numbers may be written as text. Raises
    SampleError."""
    if not isinstance(polygon, list | tuple | np.ndarray) or not _are_numbers(polygon, also=(str,)):
        raise malformed("a polygon must be a list of numbers x, y, x, y, ...")
    try:
        points = np.array(polygon, np.float64)
    except (ValueError, OverflowError) as error:
        raise malformed("a polygon holds what is no number") from error
    if len(points) % 2:
        raise malformed(f"a polygon has an odd count of numbers, {len(points)}")
    reach = np.abs(points.reshape(-1, 2)).max(0, initial=0)  # not-a-number where a number is that
    height, width = size
    if not (reach[0] <= min(TIMES_OUTSIDE * width, FURTHEST) and reach[1] <= min(TIMES_OUTSIDE * height, FURTHEST)):
        raise malformed(f"a polygon reaches beyond {TIMES_OUTSIDE} times the picture, {height} x {width}")
    return points


def _are_numbers(values: Iterable[Any], also: tuple[type, ...] = ()) -> bool:
    """Whether each value is a number, or one of the types in `also`. Truth values are no numbers."""
    kinds = set(map(type, values)) - {int, float}
    return not kinds or all(kind is not bool and issubclass(kind, (Real, *also)) for kind in kinds)
