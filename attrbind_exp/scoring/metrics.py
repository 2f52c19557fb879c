"""Heat map -> numbers. Pure.

Every expression is counted at 101 thresholds (0.00, 0.01 .. 1.00) at once, so that any threshold afterwards is a
look-up. K = 101, S = noise seeds.
"""

from collections.abc import Mapping, Sequence

import numpy as np

THRESHOLDS = (np.arange(101) / 100).astype(np.float32)
GRID = tuple(range(30, 76, 5))  # the paper's grid, 0.30 to 0.75, as rows of THRESHOLDS
HUNDRED = np.float32(100)
BLOCK = 16384  # pixels that are worked on at once: what a processor keeps at hand, in place of new pages of memory
PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
HIT, EMPTY, OTHER = range(3)  # a pixel that is called a class is of that class, background, or of another class


def count_overlap(heat: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union in pixels, (K,) int64 each, of heat >= threshold with `truth`.

    `heat`: (H, W) float32 in [0, 1]; `truth`: (H, W) bool. Raises ValueError when the shapes differ.
    """
    if heat.shape != truth.shape:
        raise ValueError(f"heat map is {heat.shape}, ground truth {truth.shape}")
    # A pixel is in the mask of every threshold up to its value: level k = it passes THRESHOLDS[0..k].
    level = find_level(heat.ravel())
    hit = count_levels(level[truth.ravel()])
    return hit, count_levels(level) + np.count_nonzero(truth) - hit


def count_levels(level: np.ndarray) -> np.ndarray:
    """How many of the levels (n,) pass each threshold, (K,)."""
    counts = np.zeros(len(THRESHOLDS), np.int64)
    for start in range(0, len(level), BLOCK):
        counts += np.bincount(level[start : start + BLOCK], minlength=len(THRESHOLDS))
    return passing(counts)


def passing(counts: np.ndarray) -> np.ndarray:
    """How many pass each threshold, of `counts` (..., K) by the last one that is passed."""
    return counts[..., ::-1].cumsum(-1)[..., ::-1]


def find_level(heat: np.ndarray) -> np.ndarray:
    """The last row of THRESHOLDS that each value float32 of [0, 1] reaches, uint8 of the same shape.

    searchsorted(THRESHOLDS, heat, "right") - 1, by arithmetic alone: a hundredth is guessed and set right by its
    neighbours, since float32 rounds either way. Row k of THRESHOLDS is k / 100 in float32, to the last bit.
    """
    levels, values = np.empty(heat.size, np.uint8), heat.ravel()
    for start in range(0, heat.size, BLOCK):
        part = values[start : start + BLOCK]
        level = np.floor(part * HUNDRED)
        level -= part < level / HUNDRED
        level += part >= (level + 1) / HUNDRED
        levels[start : start + BLOCK] = level
    return levels.reshape(heat.shape)


def iou(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Elementwise IoU; 0 where both masks are empty (a ground truth without pixels is never scored)."""
    return intersection / np.maximum(union, 1)


def key(row: int) -> str:
    """A row of THRESHOLDS as summaries name it: "0.30"."""
    return f"{row / 100:.2f}"


def best_row(curve: np.ndarray, threshold: float | None) -> int:
    """The row of THRESHOLDS to report: that of `threshold`, or the best of GRID on `curve` (K,)."""
    return max(GRID, key=lambda k: curve[k]) if threshold is None else round(threshold * 100)


def spread(by_seed: np.ndarray) -> tuple[list[float] | None, float | None]:
    """mIoU of each noise seed (S,) and their standard deviation; None where there is one seed."""
    if len(by_seed) < 2:
        return None, None
    return by_seed.tolist(), float(by_seed.std(ddof=1))


def slice_rows(labels: Sequence[Mapping[str, str | Sequence[str]]]) -> dict[str, dict[str, np.ndarray]]:
    """Rows of each value of each slice label: {"pair": {"rare": array([0, 4, ..])}}. A label with several values counts
    in each of them, one with none in "none"."""
    rows: dict[str, dict[str, list[int]]] = {}
    for i, label in enumerate(labels):
        for name, value in label.items():
            for v in [value] if isinstance(value, str) else value or ["none"]:
                rows.setdefault(name, {}).setdefault(v, []).append(i)
    return {name: {v: np.array(r) for v, r in sorted(values.items())} for name, values in sorted(rows.items())}
