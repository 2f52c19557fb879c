"""Is a difference between two variants real? Paired, resampled by image. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from attrbind_exp.scoring.classes import mean_iou

RESAMPLES = 2000
CELLS = 5_000_000  # of a block of resamples held in memory at once


@dataclass(frozen=True)
class Difference:
    """b - a in the unit of the scores, its 95 % interval, and how many expressions (or images) got better, worse,
    same. `low` and `high` are None where there is a single image to resample."""

    mean: float
    low: float | None
    high: float | None
    better: int
    worse: int
    same: int


def paired_difference(
    a: np.ndarray, b: np.ndarray, clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Paired bootstrap of mean(b) - mean(a) over expressions (n,), drawing whole images (`clusters`) with replacement.

    Expressions of one image share its noise and its difficulty; drawing them one by one would make the interval too
    narrow.
    """
    difference = np.asarray(b, float) - np.asarray(a, float)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(cluster, difference)
    sizes = np.bincount(cluster)

    def statistic(picks: np.ndarray) -> np.ndarray:
        return sums[picks].sum(-1) / sizes[picks].sum(-1)

    low, high = _interval(statistic, len(sums), resamples, seed)
    return Difference(float(difference.mean()), low, high, *_votes(difference))


def class_difference(a: np.ndarray, b: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """The same for class-wise mIoU in percent, whose pixels are pooled: each resample of the images is pooled anew.

    `a`, `b`: intersection and union of every image, (n, 2, C). Better and worse count images by their own mean IoU.
    """
    tables = [np.asarray(t, float).reshape(len(t), -1) for t in (a, b)]  # (n, 2 C)
    shape = a.shape[1:]

    def pooled(weights: np.ndarray) -> list[np.ndarray]:
        sums = ((weights @ t).reshape(*weights.shape[:-1], *shape) for t in tables)
        return [100 * mean_iou(s[..., 0, :, None], s[..., 1, :, None])[..., 0] for s in sums]

    def statistic(picks: np.ndarray) -> np.ndarray:
        rows = np.atleast_2d(picks)
        weights = np.stack([np.bincount(row, minlength=len(a)) for row in rows]).astype(float)
        first, second = pooled(weights if picks.ndim > 1 else weights[0])
        return second - first

    low, high = _interval(statistic, len(a), resamples, seed)
    each = [mean_iou(t[:, 0, :, None], t[:, 1, :, None])[:, 0] for t in (a, b)]
    return Difference(float(statistic(np.arange(len(a)))), low, high, *_votes(each[1] - each[0]))


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Percentile interval of a statistic of picked row numbers (.., n), by scipy."""
    if n < 2:
        return None, None
    result = bootstrap(
        (np.arange(n),),
        lambda picks, axis: statistic(picks),
        n_resamples=resamples,
        batch=max(1, CELLS // n),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _votes(difference: np.ndarray, tolerance: float = 1e-9) -> tuple[int, int, int]:
    better, worse = int((difference > tolerance).sum()), int((difference < -tolerance).sum())
    return better, worse, len(difference) - better - worse
