"""Class-wise mIoU, as COCO and VOC are scored: argmax over classes, pixels pooled over the whole set. Pure.

Every image is counted at all 101 thresholds of the background at once. K = 101 thresholds, C classes of the set with
the background as class 0, c the few classes that an image's truth or prediction holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attrbind_exp.scoring.counting import Maps
from attrbind_exp.scoring.metrics import EMPTY, GRID, HIT, OTHER, THRESHOLDS, find_level, passing
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


def count_classes(heats: Mapping[int, Maps], truth: np.ndarray) -> ClassCounts:
    """Count one image: heat maps (H, W) in [0, 1] by class, numpy or all on one device, against its label map `truth`
    (H, W) uint8.

    Raises ValueError when the shapes differ.
    """
    for heat in heats.values():
        if tuple(heat.shape) != truth.shape:
            raise ValueError(f"heat map is {tuple(heat.shape)}, ground truth {truth.shape}")
    labels = sorted(heats)
    table = _count_called(heats, labels, truth)
    each = np.bincount(truth.ravel(), minlength=IGNORED + 1)[:IGNORED]  # pixels of every class
    classes = np.union1d([0, *labels], np.flatnonzero(each)).astype(np.int64)
    predicted = np.zeros((len(classes), len(THRESHOLDS)), np.int64)
    hit = np.zeros_like(predicted)
    rows = np.searchsorted(classes, labels)
    predicted[rows], hit[rows] = passing(table.sum(1)), passing(table[:, HIT])
    # What reaches no threshold is called background.
    predicted[0] = each.sum() - passing(table.sum((0, 1)))
    hit[0] = each[0] - passing(table[:, EMPTY].sum(0))
    return ClassCounts(classes, each[classes].astype(np.int64), predicted, hit)


def _count_called(heats: Mapping[int, Maps], labels: Sequence[int], truth: np.ndarray) -> np.ndarray:
    """How many pixels are called each of the `labels`, by what they really are (HIT, EMPTY, OTHER) and by the last
    threshold that their heat reaches, (labels, 3, K) int64."""
    shape = (len(labels), OTHER + 1, len(THRESHOLDS))
    if not labels:
        return np.zeros(shape, np.int64)
    on_host = {label: heat for label, heat in heats.items() if isinstance(heat, np.ndarray)}
    if not on_host:
        from attrbind_exp.scoring import on_device  # figures are made of rows without torch

        return on_device.count_called([heats[label] for label in labels], labels, truth)
    height, width = truth.shape
    best, value = predict(on_host, (height, width))
    kept = truth != IGNORED
    real, called, level = truth[kept], best[kept], find_level(value[kept])
    kind = np.where(real == 0, EMPTY, np.where(real == called, HIT, OTHER))
    number = np.searchsorted(labels, np.arange(IGNORED + 1))[called]
    code = (number * shape[1] + kind) * shape[2] + level
    return np.bincount(code, minlength=int(np.prod(shape))).reshape(shape)


def mean_iou(hit: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Mean over classes (axis -2) of intersection over union; classes that occur nowhere are left out."""
    present = union > 0
    each = hit / np.maximum(union, 1)
    return np.where(present, each, 0).sum(-2) / np.maximum(present.sum(-2), 1)


class ClassScores:
    """All that figures need of n images: pixels pooled over them at all thresholds, and of each at the thresholds that
    can be reported (the paper's grid and the run's own `threshold`).

    `names`: the C classes, background first; V variants, S noise seeds. `hit`, `union`: (V, S, C, K) int64.
    """

    def __init__(self, variants: int, seeds: int, names: Sequence[str], threshold: float | None = None):
        self.names, self.threshold = names, threshold
        self.hit = np.zeros((variants, seeds, len(names), len(THRESHOLDS)), np.int64)
        self.union = np.zeros_like(self.hit)
        self.n_images = np.zeros(len(names), np.int64)  # in which a class occurs
        self._rows = sorted({*GRID, *([] if threshold is None else [round(threshold * 100)])})
        self._classes: list[np.ndarray] = []  # (c,) of each image
        self._tables: list[np.ndarray] = []  # (V, 2, c, rows): hit and union of each image, summed over seeds

    @property
    def n(self) -> int:
        """How many images there are."""
        return len(self._classes)

    def add(self, counts: Sequence[Sequence[ClassCounts]]) -> None:
        """Add one image: `counts[variant][seed]`, of the same classes all."""
        labels = counts[0][0].classes
        hit = np.array([[c.hit for c in seeds] for seeds in counts])  # (V, S, c, K)
        union = np.array([[c.truth[:, None] + c.predicted - c.hit for c in seeds] for seeds in counts])
        self.hit[:, :, labels] += hit
        self.union[:, :, labels] += union
        self.n_images[labels[counts[0][0].truth > 0]] += 1
        self._classes.append(labels.astype(np.int16))
        self._tables.append(np.stack([x[..., self._rows].sum(1) for x in (hit, union)], 1).astype(np.int32))

    def mean_iou(self, variant: int) -> np.ndarray:
        """Class-wise mIoU in percent at every threshold of the background, (S, K)."""
        return 100 * mean_iou(self.hit[variant], self.union[variant])

    def class_iou(self, variant: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """IoU of every class (C,) in percent at a row of THRESHOLDS, mean over seeds, and whether it occurs there."""
        hit, union = self.hit[variant, :, :, row], self.union[variant, :, :, row]  # (S, C)
        present = np.asarray((union > 0).any(0))
        return 100 * (hit / np.maximum(union, 1)).mean(0), present

    def table(self, variant: int, row: int) -> np.ndarray:
        """Intersection and union of every image at a row of THRESHOLDS, (n, 2, C), for resampling."""
        table = np.zeros((self.n, 2, len(self.names)))
        column = self._rows.index(row)
        for i, (labels, found) in enumerate(zip(self._classes, self._tables, strict=True)):
            table[i][:, labels] = found[variant, ..., column]
        return table
