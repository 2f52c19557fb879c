"""The figures of expressions from their pixel counts, one expression at a time. Pure.

V variants, S noise seeds, K = 101 thresholds, n expressions.
"""

from array import array
from collections.abc import Sequence

import numpy as np

from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.figures import Named, VariantFigures


class ExpressionScores:
    """All that figures need of n expressions, far less than their counts: IoU of each at the thresholds that can be
    reported (the paper's grid and the run's own `threshold`), sums over expressions at all 101."""

    def __init__(self, variants: Sequence[Named], seeds: int, threshold: float | None = None):
        self.variants, self.threshold = variants, threshold
        self._rows = sorted({*metrics.GRID, *([] if threshold is None else [round(threshold * 100)])})
        self._iou = array("d")  # (n, V, S, len(rows)), expression after expression
        self._sum = np.zeros((len(variants), len(metrics.THRESHOLDS)))  # of IoU over expressions and seeds
        self._pooled = np.zeros((2, len(variants), len(metrics.THRESHOLDS)), np.int64)  # intersection, union
        self._seeds = seeds
        self._n = 0

    @property
    def n(self) -> int:
        """How many expressions there are."""
        return self._n

    def add(self, intersection: np.ndarray, union: np.ndarray) -> None:
        """Add one expression by its counts (V, S, K)."""
        each = metrics.iou(intersection, union)
        self._iou.frombytes(each[..., self._rows].tobytes())
        self._n += 1
        for seed in range(self._seeds):
            self._sum += each[:, seed]
        self._pooled += intersection.sum(1, dtype=np.int64), union.sum(1, dtype=np.int64)

    def curve(self, variant: int) -> np.ndarray:
        """mIoU in percent at every threshold, (K,)."""
        return 100 * (self._sum[variant] / max(1, self.n * self._seeds))

    def iou(self, variant: int, threshold: float | None) -> np.ndarray:
        """IoU of every expression (n,) at a threshold that can be reported, mean over noise seeds."""
        return self._at(variant, round((threshold or 0) * 100)).mean(-1)

    def figures(self, number: int) -> VariantFigures:
        """mIoU, threshold, oIoU and precision of a variant, in percent; None where there are no expressions."""
        variant = self.variants[number]
        name = (variant.name, variant.alpha, variant.label)
        if not self.n:
            none = dict.fromkeys(f"{p:g}" for p in metrics.PRECISIONS)
            return VariantFigures(
                *name, None, self.threshold, dict.fromkeys(map(metrics.key, metrics.GRID)), None, none, 0
            )
        curve = self.curve(number)
        row = metrics.best_row(curve, self.threshold)
        each = self._at(number, row)  # (n, S)
        intersection, union = self._pooled[:, number, row]
        by_seed, spread = metrics.spread(100 * each.mean(0))
        return VariantFigures(
            *name,
            mIoU=float(curve[row]),
            threshold=row / 100,
            mIoU_at={metrics.key(k): float(curve[k]) for k in metrics.GRID},
            oIoU=float(100 * (intersection / max(1, union))),
            precision={f"{p:g}": float(100 * (each >= p).mean()) for p in metrics.PRECISIONS},
            n=self.n,
            mIoU_by_seed=by_seed,
            mIoU_spread=spread,
        )

    def _at(self, variant: int, row: int) -> np.ndarray:
        """IoU (n, S) at a row of THRESHOLDS."""
        shape = (self.n, len(self.variants), self._seeds, len(self._rows))
        # A copy: `_iou` cannot grow while an array looks into it.
        return np.array(np.asarray(self._iou).reshape(shape)[:, variant, :, self._rows.index(row)], order="C")
