"""Masks of the objects of an image, decoded once for all its expressions."""

from collections.abc import Sequence

import numpy as np

from attrbind_exp.data.masks import decode_mask
from attrbind_exp.types import Other, Sample, SampleError

Masks = dict[str, np.ndarray | None]  # (H, W) bool of an image's objects by id, None = not usable


def known_masks(samples: Sequence[tuple[Sample, np.ndarray | None]]) -> Masks:
    """The masks of other objects that need not be decoded: of samples of one image with their ground truths, those
    whose object another sample names with the very same segmentation."""
    own = {s.object_id: (s.segmentation, truth) for s, truth in samples if truth is not None}
    others = {o.object_id: o.segmentation for s, _ in samples for o in s.others or () if o.object_id in own}
    return {key: own[key][1] for key, segmentation in others.items() if segmentation is own[key][0]}


def object_masks(
    sample: Sample, truth: np.ndarray | None, decoded: Masks | None = None
) -> dict[str, np.ndarray] | None:
    """Masks (H, W) bool of all objects of a sample's image by their ids, its own among them; None without ground truth.

    Another object whose mask cannot be used counts as not annotated: it takes nothing from this sample's IoU.
    `decoded`: what the other expressions of the image have decoded; it grows.
    """
    if truth is None:
        return None
    decoded = {} if decoded is None else decoded
    masks = {sample.object_id: truth}
    for other in sample.others or ():
        if other.object_id not in decoded:
            decoded[other.object_id] = _usable_mask(other, sample.size)
        if (mask := decoded[other.object_id]) is not None:
            masks[other.object_id] = mask
    return masks


def _usable_mask(other: Other, size: tuple[int, int]) -> np.ndarray | None:
    try:
        return decode_mask(other.segmentation, size)
    except SampleError:
        return None
