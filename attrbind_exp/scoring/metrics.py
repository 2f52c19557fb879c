"""Heat map -> numbers. Pure.

Every expression is counted at 101 thresholds (0.00, 0.01 .. 1.00) at once, so that any threshold afterwards is a
look-up. K = 101, n = expressions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

THRESHOLDS = (np.arange(101) / 100).astype(np.float32)
GRID = tuple(range(30, 76, 5))  # the paper's grid, 0.30 to 0.75, as rows of THRESHOLDS
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)


def count_overlap(heat: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union in pixels, (K,) int64 each, of heat >= threshold with `truth`.

    `heat`: (H, W) float32 in [0, 1]; `truth`: (H, W) bool. Raises ValueError when the shapes differ.
    """
    if heat.shape != truth.shape:
        raise ValueError(f"heat map is {heat.shape}, ground truth {truth.shape}")
    # A pixel is in the mask of every threshold up to its value: level k = it passes THRESHOLDS[0..k].
    level = np.searchsorted(THRESHOLDS, heat.ravel(), side="right") - 1
    passed = np.bincount(level, minlength=len(THRESHOLDS))[::-1].cumsum()[::-1]
    hit = np.bincount(level[truth.ravel()], minlength=len(THRESHOLDS))[::-1].cumsum()[::-1]
    return hit, passed + int(truth.sum()) - hit


def iou(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Elementwise IoU; 0 where both masks are empty (a ground truth without pixels is never scored)."""
    return intersection / np.maximum(union, 1)


def key(row: int) -> str:
    """A row of THRESHOLDS as summaries name it: "0.30"."""
    return f"{row / 100:.2f}"


def summarize(intersection: np.ndarray, union: np.ndarray, threshold: float | None = None) -> dict[str, Any]:
    """The figures of n expressions from their counts (n, K), in percent.

    `threshold`: None = the best mIoU of GRID. mIoU: mean over expressions of IoU; oIoU: pooled intersection over pooled
    union; precision: share of expressions with IoU >= 0.5 .. 0.9. Without expressions every figure is None.
    """
    if len(intersection) == 0:
        none = dict.fromkeys([f"{p:g}" for p in PRECISIONS])
        return {"mIoU": None, "threshold": threshold, "mIoU_at": dict.fromkeys(map(key, GRID)), "oIoU": None,
                "precision": none, "n": 0}  # fmt: skip
    each = iou(intersection, union)  # (n, K)
    curve = 100 * each.mean(0)
    row = max(GRID, key=lambda k: curve[k]) if threshold is None else round(threshold * 100)
    pooled = intersection.sum(0, dtype=np.int64)[row] / max(1, union.sum(0, dtype=np.int64)[row])
    return {
        "mIoU": float(curve[row]),
        "threshold": row / 100,
        "mIoU_at": {key(k): float(curve[k]) for k in GRID},
        "oIoU": float(100 * pooled),
        "precision": {f"{p:g}": float(100 * (each[:, row] >= p).mean()) for p in PRECISIONS},
        "n": len(each),
    }


def slice_rows(labels: Sequence[dict[str, str]]) -> dict[str, dict[str, np.ndarray]]:
    """Rows of each value of each slice label: {"pair": {"rare": array([0, 4, ..])}}."""
    rows: dict[str, dict[str, list[int]]] = {}
    for i, label in enumerate(labels):
        for name, value in label.items():
            rows.setdefault(name, {}).setdefault(value, []).append(i)
    return {name: {v: np.array(r) for v, r in sorted(values.items())} for name, values in sorted(rows.items())}
