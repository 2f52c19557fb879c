"""Ground-truth masks: COCO's polygons and run lengths (compressed or not), and PNG pictures."""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from attrbind_exp.types import SampleError


class RunLengths(TypedDict):
    """COCO's compressed run lengths: `size` is [height, width]."""

    size: list[int]
    counts: str


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of one object, in an image of `size` (height, width).

    `segmentation` is one of: a list of polygons, run lengths (compressed or not), {"union": [segmentation, ...]} for
    several objects together, {"png": path} for a picture (see `read_png`).

    Raises SampleError: "mask_missing", "mask_malformed", "mask_size" (its size is not the image's), "empty_mask".
    """
    height, width = size
    if isinstance(segmentation, dict) and "union" in segmentation:
        return np.logical_or.reduce([decode_mask(part, size) for part in segmentation["union"]])
    if isinstance(segmentation, dict) and "png" in segmentation:
        return read_png(Path(segmentation["png"]), size)
    try:
        if isinstance(segmentation, list):
            polygons = [p for p in segmentation if len(p) >= 6]
            rles = coco_mask.frPyObjects(polygons, height, width) if polygons else []
            rle = coco_mask.merge(rles) if rles else None
        elif isinstance(segmentation["counts"], list):
            total = sum(segmentation["counts"])
            if total != segmentation["size"][0] * segmentation["size"][1]:
                raise ValueError(f"run lengths add up to {total}, not to the size {segmentation['size']}")
            rle = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        else:
            rle = segmentation
        mask = np.zeros(size, bool) if rle is None else coco_mask.decode(rle).astype(bool, order="C")
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise SampleError("mask_malformed", f"segmentation cannot be read: {error}") from error
    if mask.shape != size:
        raise SampleError("mask_size", f"mask is {mask.shape} (height, width), its image {size}")
    if not mask.any():
        raise SampleError("empty_mask", "the ground-truth mask has no pixel")
    return mask


def read_png(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool drawn in a PNG of any mode: every pixel that is neither black nor transparent.

    Raises SampleError: "mask_missing", "mask_malformed" (a JPEG, too: its blacks are not quite black), "mask_size",
    "empty_mask".
    """
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            found = (opened.height, opened.width)
            if found != size:
                raise SampleError("mask_size", f"mask '{path}' is {found} (height, width), its image {size}")
            if opened.mode in ("1", "L", "I", "F") or opened.mode.startswith("I;16"):
                mask = np.asarray(opened) != 0
            else:
                pixels = np.asarray(opened.convert("RGBA"))
                mask = pixels[..., :3].any(-1) & (pixels[..., 3] > 0)
    except FileNotFoundError as error:
        raise SampleError("mask_missing", f"mask '{path}' does not exist") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SampleError("mask_malformed", f"mask '{path}' cannot be read as PNG: {error}") from error
    if not mask.any():
        raise SampleError("empty_mask", f"mask '{path}' is black all over")
    return mask


def encode_mask(mask: np.ndarray) -> RunLengths:
    """The compressed run lengths of a mask (H, W) bool, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}
