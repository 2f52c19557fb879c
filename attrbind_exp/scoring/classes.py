"""Class-wise mIoU, as COCO and VOC are scored: argmax over classes, pixels pooled over the whole set. Pure.

Every image is counted at all 101 thresholds of the background at once. K = 101 thresholds, C classes of the set with
the background as class 0, c the few classes that an image's truth or prediction holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attrbind_exp.scoring.metrics import THRESHOLDS
from attrbind_exp.types import IGNORED


@dataclass(frozen=True)
class ClassCounts:
    """Pixels of one image: `classes` (c,), `truth` (c,) pixels that are the class, `predicted` (c, K) pixels that are
    called so, `hit` (c, K) pixels that are both. All int64; ignored pixels count nowhere."""

    classes: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    hit: np.ndarray


def predict(heats: Mapping[int, np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Best class (H, W) and its heat (H, W) float32 from heat maps (H, W) by class; the first class wins a tie.

    At a threshold the prediction is the best class where its heat reaches it, else background.
    """
    best, value = np.zeros(size, np.uint8), np.full(size, -1.0, np.float32)
    for label in sorted(heats):
        better = heats[label] > value
        best[better], value[better] = label, heats[label][better]
    return best, value


def count_classes(heats: Mapping[int, np.ndarray], truth: np.ndarray) -> ClassCounts:
    """Count one image: heat maps (H, W) in [0, 1] by class against its label map `truth` (H, W).

    Raises ValueError when the shapes differ.
    """
    for heat in heats.values():
        if heat.shape != truth.shape:
            raise ValueError(f"heat map is {heat.shape}, ground truth {truth.shape}")
    best, value = predict(heats, truth.shape)  # type: ignore[arg-type]
    kept = truth != IGNORED
    real, called = truth[kept], best[kept]
    # A pixel is foreground at every threshold up to its value: level k = it passes THRESHOLDS[0..k]; -1 = at none.
    level = np.searchsorted(THRESHOLDS, value[kept], side="right") - 1
    classes = np.unique(np.concatenate([[0], real, list(heats)])).astype(np.int64)
    predicted = np.zeros((len(classes), len(THRESHOLDS)), np.int64)
    hit = np.zeros_like(predicted)
    for row, label in enumerate(classes):
        mine = level[called == label]
        right = level[(called == label) & (real == label)]
        if label:
            predicted[row], hit[row] = _passing(mine), _passing(right)
    background = level[real == 0]
    predicted[0] = len(real) - _passing(level)
    hit[0] = len(background) - _passing(background)
    pixels = np.array([(real == label).sum() for label in classes], np.int64)
    return ClassCounts(classes, pixels, predicted, hit)


def _passing(level: np.ndarray) -> np.ndarray:
    """How many pixels pass each threshold, (K,)."""
    counts = np.bincount(level[level >= 0], minlength=len(THRESHOLDS))
    return counts[::-1].cumsum()[::-1]


def pool(images: Sequence[ClassCounts], n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pooled intersection and union (C, K) int64 of many images."""
    hit = np.zeros((n_classes, len(THRESHOLDS)), np.int64)
    union = np.zeros_like(hit)
    for counts in images:
        hit[counts.classes] += counts.hit
        union[counts.classes] += counts.truth[:, None] + counts.predicted - counts.hit
    return hit, union


def mean_iou(hit: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Mean over classes (axis -2) of intersection over union; classes that occur nowhere are left out."""
    present = union > 0
    each = hit / np.maximum(union, 1)
    return np.where(present, each, 0).sum(-2) / np.maximum(present.sum(-2), 1)


def dense(images: Sequence[ClassCounts], n_classes: int, row: int) -> np.ndarray:
    """Intersection and union of every image at one threshold, (n, 2, C), for resampling."""
    table = np.zeros((len(images), 2, n_classes), np.float64)
    for i, counts in enumerate(images):
        hit = counts.hit[:, row]
        table[i, 0, counts.classes] = hit
        table[i, 1, counts.classes] = counts.truth + counts.predicted[:, row] - hit
    return table
