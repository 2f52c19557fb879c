"""Is a difference between two variants real? Paired, resampled by image. Pure.

F rows of figures over the same n expressions, m images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from attrbind_exp.scoring.classes import mean_iou
from attrbind_exp.scoring.figures import Difference, Estimate

RESAMPLES = 2000
CELLS = 250_000  # of a block of resamples held in memory at once; how many does not change which are drawn

Clusters = Sequence[str] | np.ndarray  # the image of each expression, (n,)
Bounds = list[tuple[float | None, float | None]]


def estimate(values: Sequence[float] | np.ndarray, clusters: Clusters) -> Estimate:
    """Mean of values (n,) with its 95 % interval, whole clusters resampled; None where there are no values."""
    return estimates([np.asarray(values, float)], clusters)[0]


def estimates(rows: Iterable[np.ndarray], clusters: Clusters) -> list[Estimate]:
    """The mean of every row of values (n,) with its 95 % interval; all rows see the same resamples."""
    n = len(clusters)
    if n == 0:
        return [Estimate(None, None, None, 0) for _ in rows]
    means = []

    def noted() -> Iterator[np.ndarray]:
        for row in rows:
            means.append(float(row.mean()))
            yield row

    bounds = _intervals_of_means(noted(), clusters, RESAMPLES, 0)
    return [Estimate(mean, *bound, n) for mean, bound in zip(means, bounds, strict=True)]


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    clusters: Clusters,
    resamples: int = RESAMPLES,
    seed: int = 0,
    counted: np.ndarray | None = None,
) -> Difference:
    """Paired bootstrap of mean(b) - mean(a) over expressions (n,), drawing whole images (`clusters`) with replacement.

    Expressions of one image share its noise and its difficulty; drawing them one by one would make the interval too
    narrow. Better, worse and same are counted in `counted` (n,), the changes at one threshold for both; None = b - a.
    """
    votes = None if counted is None else [counted]
    return paired_differences(a, np.asarray(b)[None], clusters, resamples, seed, votes)[0]


def paired_differences(
    base: np.ndarray,
    others: np.ndarray,
    clusters: Clusters,
    resamples: int = RESAMPLES,
    seed: int = 0,
    counted: Iterable[np.ndarray] | None = None,
) -> list[Difference]:
    """The same for every row of `others` (F, n) against one `base` (n,); all rows see the same resamples.

    `counted`: the changes (n,) of each row in which better, worse and same are counted.
    """
    changes = np.asarray(others, float) - np.asarray(base, float)
    bounds = _intervals_of_means(changes, clusters, resamples, seed)
    found = zip(changes, bounds, changes if counted is None else counted, strict=True)
    return [Difference(float(row.mean()), *bound, *_votes(votes)) for row, bound, votes in found]


def class_difference(
    a: np.ndarray, b: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, counted: np.ndarray | None = None
) -> Difference:
    """The same for class-wise mIoU in percent, whose pixels are pooled: each resample of the images is pooled anew.

    `a`, `b`: intersection and union of every image, (n, 2, C). Better and worse count images by their own mean IoU, of
    `a` and `counted`, which is the second variant's table at the threshold of `a`; None = b.
    """
    tables = [np.asarray(t, float).reshape(len(t), -1) for t in (a, b)]  # (n, 2 C)
    shape = a.shape[1:]

    def pooled(weights: np.ndarray) -> list[np.ndarray]:
        sums = ((weights @ t).reshape(*weights.shape[:-1], *shape) for t in tables)
        return [100 * mean_iou(s[..., 0, :, None], s[..., 1, :, None])[..., 0] for s in sums]

    def statistic(weights: np.ndarray) -> np.ndarray:
        first, second = pooled(weights)
        return second - first

    ((low, high),) = _intervals(lambda weights: statistic(weights)[None], 1, len(a), resamples, seed)
    at_one = (a, b if counted is None else counted)
    each = [mean_iou(t[:, 0, :, None], t[:, 1, :, None])[:, 0] for t in at_one]
    return Difference(float(statistic(np.ones(len(a)))), low, high, *_votes(each[1] - each[0]))


def _intervals_of_means(rows: Iterable[np.ndarray], clusters: Clusters, resamples: int, seed: int) -> Bounds:
    """The interval of each row's mean, values (n,); of a row only the sums of its clusters are kept."""
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(cluster).astype(float)  # (m,)
    found = [np.bincount(cluster, row) for row in rows]
    if not found:
        return []
    sums = np.stack(found)  # (F, m)

    def means(weights: np.ndarray) -> np.ndarray:
        # Not a matrix product, whose last digits change with how many rows go through it.
        return np.einsum("fm,bm->fb", sums, weights) / np.einsum("m,bm->b", sizes, weights)

    return _intervals(means, len(sums), len(sizes), resamples, seed)


def _intervals(
    statistic: Callable[[np.ndarray], np.ndarray], figures: int, n: int, resamples: int, seed: int
) -> Bounds:
    """Percentile intervals by scipy of F statistics at once, (B, n) -> (F, B): how often each of n images was drawn in
    B resamples."""
    if n < 2:
        return [(None, None)] * figures
    from scipy.stats import bootstrap  # takes a second to load, which --help does without

    def count(picks: np.ndarray, axis: int) -> np.ndarray:
        shifted = picks + n * np.arange(len(picks))[:, None]
        drawn = np.bincount(shifted.ravel(), minlength=picks.size).reshape(picks.shape)
        return statistic(drawn.astype(float))

    interval = bootstrap(
        (np.arange(n),),
        count,
        n_resamples=resamples,
        batch=max(1, CELLS // n),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return [(float(low), float(high)) for low, high in zip(interval.low, interval.high, strict=True)]


def _votes(difference: np.ndarray, tolerance: float = 1e-9) -> tuple[int, int, int]:
    better, worse = int((difference > tolerance).sum()), int((difference < -tolerance).sum())
    return better, worse, len(difference) - better - worse
