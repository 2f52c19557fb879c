"""Ground-truth masks from COCO's three forms: polygons, compressed and uncompressed run lengths."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from attrbind_exp.types import SampleError


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of one object's `segmentation` in an image of `size` (height, width).

    {"union": [segmentation, ...]} is the union of several objects.
    Raises SampleError: "mask_malformed", "mask_size" (run lengths of another image size), "empty_mask".
    """
    height, width = size
    if isinstance(segmentation, dict) and "union" in segmentation:
        return np.logical_or.reduce([decode_mask(part, size) for part in segmentation["union"]])
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
        mask = np.zeros(size, bool) if rle is None else coco_mask.decode(rle).astype(bool)
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise SampleError("mask_malformed", f"segmentation cannot be read: {error}") from error
    if mask.shape != size:
        raise SampleError("mask_size", f"mask is {mask.shape} (height, width), its image {size}")
    if not mask.any():
        raise SampleError("empty_mask", "the ground-truth mask has no pixel")
    return mask


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths of an (H, W) bool mask, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}
