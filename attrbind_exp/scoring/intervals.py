"""95 % intervals of means over images, and whether a mean differs from zero. Pure.

The expressions of one image share its noise and its difficulty, so images are drawn, not expressions. A mean over
expressions is a ratio then: the sum of their values by how many there are. F figures, m images, B resamples.

From FEW images on: percentiles of a bootstrap. Below, these are too narrow (benchmarks/coverage.py; docs/protocol.md,
4.4), and intervals are the point and `width` on either side.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
FEW = 300  # images; from here on the bootstrap's percentiles hold 93 % and more
CELLS = 250_000  # of a block of resamples held in memory at once; how many does not change which are drawn
NOTHING = 1e-9  # of a spread, beside what it is the spread of: rounding

Statistic = Callable[[np.ndarray], np.ndarray]  # how often each image counts, (B, m) -> F figures, (F, B)


class Interval(NamedTuple):
    """95 % interval, and `p` of the figure being zero, two-sided. All None where there is a single image."""

    low: float | None = None
    high: float | None = None
    p: float | None = None


def of_means(sums: np.ndarray, sizes: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """The intervals of the means `sums` (F, m), by image, over `sizes` (m,), how many expressions each has."""
    m = len(sizes)
    if m < 2:
        return [Interval()] * len(sums)
    means, errors = means_and_errors(sums, sizes)
    if m < FEW:
        weights = drawn_weights(m, resamples, seed)
        # One by one: a matrix product's last digits change with how many rows go through it.
        widths = [width(row[None], sizes[None], weights)[0] for row in sums]
        return _around(means, np.array(widths), m)

    def resampled(weights: np.ndarray) -> np.ndarray:
        return np.einsum("fm,bm->fb", sums, weights) / np.einsum("m,bm->b", sizes, weights)

    bounds = _percentiles(resampled, m, resamples, seed)
    return [Interval(*bound, p) for bound, p in zip(bounds, p_values(means, errors, m), strict=True)]


def of_statistic(
    statistic: Statistic, point: float, without: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The same for another figure than a mean, which is `point`, and `without` (m,) each image. Below FEW the standard
    error is that of these (the jackknife); t stands for the quantile, as resamples have no standard error of their own.
    """
    m = len(without)
    if m < 2:
        return Interval()
    error = np.sqrt(((without - point) ** 2).sum())
    errors = np.where(error <= NOTHING * np.abs(without).max(), 0, error)[None]
    if m < FEW:
        return _around(np.array([point]), _t_quantile(m) * errors, m)[0]
    (bound,) = _percentiles(statistic, m, resamples, seed)
    return Interval(*bound, *p_values(np.array([point]), errors, m))


def means_and_errors(sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (F,) and their standard errors (F,), robust for clusters: CR3, by which each image's residual is divided by
    the share of the expressions that the others have. `sums`, `sizes`: (F, m) or (m,), several images each.

    It is the root of the summed squares of what leaving out one image changes, so it is that of `of_statistic`.
    """
    n = sizes.sum(-1)
    means = sums.sum(-1) / n
    changes = (sums - means[..., None] * sizes) / (n[..., None] - sizes)
    errors = np.sqrt((changes**2).sum(-1))
    largest = np.abs(sums).max(-1) / n
    return means, np.where(errors <= NOTHING * largest, 0, errors)


def width(sums: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Half the width of the intervals of means (F,), from `sums` and `sizes` (F, m), and `weights` (B, m): how often
    each resample has each image. The wider of two:

    1. t's quantile with m - 1 degrees of freedom, times the standard error: holds from 50 images on.
    2. The bootstrap-t: over resamples, how many standard errors (of the resample) its mean lies from the mean; of that
       the 95 % quantile, times the standard error. Below 50 images it knows of skew and heavy tails, as t does not. A
       resample without any spread, such as one of equal images, says nothing and counts as 0.

    In 2 the standard errors are plain ones (CR0), which need three sums a resample; a factor would cancel.
    """
    m = weights.shape[1]
    means, errors = means_and_errors(sums, sizes)
    residuals = sums - means[:, None] * sizes  # (F, m); their sum is 0
    n = sizes @ weights.T  # (F, B)
    off = (residuals @ weights.T) / n  # of the resample's mean from the mean
    squares = residuals**2 @ weights.T
    spread = squares - 2 * off * ((residuals * sizes) @ weights.T) + off**2 * (sizes**2 @ weights.T)
    known = spread > NOTHING * squares
    t = np.abs(off) * n / np.sqrt(np.where(known, spread, 1))
    plain = np.sqrt((residuals**2).sum(-1)) / sizes.sum(-1)  # CR0, as in t
    quantile = np.quantile(np.where(known, t, 0), 0.95, axis=1)
    return np.where(errors == 0, 0, np.maximum(_t_quantile(m) * errors, quantile * plain))


def drawn_weights(m: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each of m images is drawn in each resample, (B, m) float."""
    return np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), resamples).astype(float)


def p_values(means: np.ndarray, errors: np.ndarray, m: int) -> list[float]:
    """How probable means (F,) so far from zero or farther are where there is no difference, two-sided, by t with m - 1
    degrees of freedom; 1 for a mean that is zero, 0 for another one without error."""
    from scipy.special import stdtr  # takes a while to load, which --help does without

    t = np.divide(-np.abs(means), errors, out=np.where(np.abs(means) <= NOTHING, 0, -np.inf), where=errors > 0)
    return [float(p) for p in 2 * stdtr(m - 1, t)]


def _around(means: np.ndarray, widths: np.ndarray, m: int) -> list[Interval]:
    """Intervals around means (F,). p is that of the standard error with which t would give this width: so it is below
    0.05 where the interval leaves out zero, and nowhere else."""
    ps = p_values(means, widths / _t_quantile(m), m)
    return [Interval(float(x - w), float(x + w), p) for x, w, p in zip(means, widths, ps, strict=True)]


def _t_quantile(m: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(m - 1, 0.975))


def _percentiles(statistic: Statistic, m: int, resamples: int, seed: int) -> list[tuple[float, float]]:
    """Percentile intervals by scipy of F figures at once."""
    from scipy.stats import bootstrap  # takes a second to load, which --help does without

    def count(picks: np.ndarray, axis: int) -> np.ndarray:
        shifted = picks + m * np.arange(len(picks))[:, None]
        drawn = np.bincount(shifted.ravel(), minlength=picks.size).reshape(picks.shape)
        return statistic(drawn.astype(float))

    interval = bootstrap(
        (np.arange(m),),
        count,
        n_resamples=resamples,
        batch=max(1, CELLS // m),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return [(float(low), float(high)) for low, high in zip(interval.low, interval.high, strict=True)]
