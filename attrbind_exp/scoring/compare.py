"""Is a difference between two variants real? Paired by expression, resampled by image. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Mean of b - a in the unit of the scores, its 95 % interval, and how many expressions got better, worse, same."""

    mean: float
    low: float
    high: float
    better: int
    worse: int
    same: int


def paired_difference(
    a: np.ndarray, b: np.ndarray, clusters: Sequence[str], resamples: int = 2000, seed: int = 0
) -> Difference:
    """Paired bootstrap of mean(b) - mean(a) over expressions (n,), drawing whole images (`clusters`) with replacement.

    Expressions of one image share its noise and its difficulty; drawing them one by one would make the interval too
    narrow.
    """
    difference = np.asarray(b, float) - np.asarray(a, float)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(cluster, difference)
    sizes = np.bincount(cluster)
    picks = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    means = sums[picks].sum(1) / sizes[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    tolerance = 1e-9
    return Difference(
        float(difference.mean()), float(low), float(high),
        int((difference > tolerance).sum()), int((difference < -tolerance).sum()),
        int((np.abs(difference) <= tolerance).sum()),
    )  # fmt: skip
