"""Ground-truth masks: COCO's polygons and run lengths (compressed or not), and PNG pictures."""

import struct
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, TypedDict

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from attrbind_exp.data.segmentations import malformed, paint_polygons, paint_runs, read_size
from attrbind_exp.types import SampleError

LARGEST_IMAGE = 2**28  # pixels; PIL refuses smaller pictures already
# What PIL raises for a damaged PNG. The second line: where a chunk is missing or shorter than it must be.
UNREADABLE = (
    *(UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError),
    *(LookupError, TypeError, EOFError, OverflowError, struct.error, zlib.error),
)


class RunLengths(TypedDict):
    """COCO's compressed run lengths: `size` is [height, width]."""

    size: list[int]
    counts: str


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of one object, in an image of `size` (height, width).

    `segmentation` is one of: a list of polygons, run lengths (compressed or not), {"union": [segmentation, ...]} for
    several objects together, {"png": path} for a picture (see `read_png`). It may come from any file: all of it is
    checked first.

    Raises SampleError: "mask_missing", "mask_malformed", "mask_size" (its size is not the image's), "empty_mask".
    """
    shape = read_size(size)
    if shape is None or shape[0] * shape[1] > LARGEST_IMAGE:
        raise SampleError(
            "mask_size", f"the image's height and width must be whole, and at most {LARGEST_IMAGE} pixels"
        )
    mask: np.ndarray | None = None
    for part in _parts(segmentation):
        found = _decode_part(part, shape)
        mask = found if mask is None else np.logical_or(mask, found, out=mask)
    if mask is None:
        raise SampleError("empty_mask", "the ground truth is a union of nothing")
    return mask


def _parts(segmentation: Any) -> Iterator[Any]:
    """The segmentations that are united, or the only one."""
    waiting = [segmentation]
    while waiting:
        part = waiting.pop()
        if not (isinstance(part, dict) and "union" in part):
            yield part
        elif isinstance(part["union"], list):
            waiting.extend(reversed(part["union"]))
        else:
            raise malformed("a union must be a list of segmentations")


def _decode_part(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of a segmentation that is no union. Raises SampleError."""
    if isinstance(segmentation, dict) and "png" in segmentation:
        return read_png(segmentation["png"], size)
    if isinstance(segmentation, list):
        mask = paint_polygons(segmentation, size)
    elif isinstance(segmentation, dict):
        mask = paint_runs(segmentation, size)
    else:
        raise malformed(f"it is of type {type(segmentation).__name__}, not polygons or run lengths")
    if not mask.any():
        raise SampleError("empty_mask", "the ground-truth mask has no pixel")
    return mask


def read_png(name: str | PathLike[str], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool drawn in a PNG of any mode: every pixel that is neither black nor transparent.

    Raises SampleError: "mask_missing", "mask_malformed" (a JPEG, too: its blacks are not quite black), "mask_size",
    "empty_mask".
    """
    if not isinstance(name, str | PathLike):
        raise malformed(f"the name of a PNG is of type {type(name).__name__}, not text")
    path = Path(name)
    try:
        if not S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise SampleError("mask_malformed", f"mask '{path}' is no file")
        with path.open("rb") as file:
            _check_png(file, path, size)
            mask = _drawn(file)
    except FileNotFoundError as error:
        raise SampleError("mask_missing", f"mask '{path}' does not exist") from error
    except UNREADABLE as error:
        raise SampleError("mask_malformed", f"mask '{path}' cannot be read as PNG: {error}") from error
    if not mask.any():
        raise SampleError("empty_mask", f"mask '{path}' is black all over")
    return mask


def _check_png(file: BinaryIO, path: Path, size: tuple[int, int]) -> None:
    """Compare the header with `size` and all checksums, which reading pixels does not. Raises SampleError and what PIL
    raises."""
    with Image.open(file, formats=["PNG"]) as opened:
        if (found := (opened.height, opened.width)) != size:
            raise SampleError("mask_size", f"mask '{path}' is {found} (height, width), its image {size}")
        opened.verify()


def _drawn(file: BinaryIO) -> np.ndarray:
    """The pixels (H, W) bool of a PNG that are neither black nor transparent."""
    file.seek(0)
    with Image.open(file, formats=["PNG"]) as opened:
        if opened.mode in ("1", "L", "I", "F") or opened.mode.startswith("I;16"):
            return np.asarray(opened) != 0
        pixels = np.asarray(opened.convert("RGBA"))
        return pixels[..., :3].any(-1) & (pixels[..., 3] > 0)


def encode_mask(mask: np.ndarray) -> RunLengths:
    """The compressed run lengths of a mask (H, W) bool, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}
