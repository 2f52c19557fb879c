"""Is a difference between two variants real? Paired, by image. Pure.

F rows of figures over the same n expressions, m images.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from attrbind_exp.scoring.classes import mean_iou
from attrbind_exp.scoring.figures import Difference, Estimate
from attrbind_exp.scoring.intervals import RESAMPLES, Interval, of_means, of_statistic

Clusters = Sequence[str] | np.ndarray  # the image of each expression, (n,)
Range = tuple[float, float]  # lowest and highest value that a figure can have; its interval ends there

PERCENT: Range = (0, 100)
ANY: Range = (-np.inf, np.inf)


def estimate(values: Sequence[float] | np.ndarray, clusters: Clusters, within: Range = ANY) -> Estimate:
    """Mean of values (n,) with its 95 % interval over whole clusters; None where there are no values."""
    return estimates([np.asarray(values, float)], clusters, within)[0]


def estimates(rows: Iterable[np.ndarray], clusters: Clusters, within: Range = ANY) -> list[Estimate]:
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
    return [_estimate(mean, bound, n, within) for mean, bound in zip(means, bounds, strict=True)]


def _estimate(mean: float, bound: Interval, n: int, within: Range) -> Estimate:
    low, high = (None if end is None else float(np.clip(end, *within)) for end in bound[:2])
    return Estimate(mean, low, high, n)


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    clusters: Clusters,
    resamples: int = RESAMPLES,
    seed: int = 0,
    counted: np.ndarray | None = None,
) -> Difference:
    """mean(b) - mean(a) over expressions (n,), paired, with its interval over whole images (`clusters`).

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
    images = len(np.unique(np.asarray(clusters)))
    return [_difference(float(row.mean()), bound, votes, images) for row, bound, votes in found]


def class_difference(
    a: np.ndarray, b: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, counted: np.ndarray | None = None
) -> Difference:
    """The same for class-wise mIoU in percent, whose pixels are pooled: each choice of the images is pooled anew.

    `a`, `b`: intersection and union of every image, (n, 2, C). Better and worse count images by their own mean IoU, of
    `a` and `counted`, which is the second variant's table at the threshold of `a`; None = b.
    """
    tables = [np.asarray(t, float).reshape(len(t), -1) for t in (a, b)]  # (n, 2 C)
    shape = a.shape[1:]

    def pooled(sums: np.ndarray) -> np.ndarray:
        hit, union = np.moveaxis(sums.reshape(*sums.shape[:-1], *shape), -2, 0)
        return 100 * mean_iou(hit[..., None], union[..., None])[..., 0]

    def difference(sums: Sequence[np.ndarray]) -> np.ndarray:
        return pooled(sums[1]) - pooled(sums[0])

    point = float(difference([t.sum(0) for t in tables]))
    without = difference([t.sum(0) - t for t in tables])
    bound = of_statistic(lambda w: difference([w @ t for t in tables])[None], point, without, resamples, seed)
    at_one = (a, b if counted is None else counted)
    each = [mean_iou(t[:, 0, :, None], t[:, 1, :, None])[:, 0] for t in at_one]
    return _difference(point, bound, each[1] - each[0], len(a))


def _intervals_of_means(rows: Iterable[np.ndarray], clusters: Clusters, resamples: int, seed: int) -> list[Interval]:
    """The interval of each row's mean, values (n,); of a row only the sums of its clusters are kept."""
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    found = [np.bincount(cluster, row) for row in rows]
    return of_means(np.stack(found), np.bincount(cluster).astype(float), resamples, seed) if found else []


def _difference(mean: float, bound: Interval, changes: np.ndarray, images: int, tolerance: float = 1e-9) -> Difference:
    """A difference whose better, worse and same are counted in `changes` (n,)."""
    better, worse = int((changes > tolerance).sum()), int((changes < -tolerance).sum())
    same = len(changes) - better - worse
    return Difference(mean, bound.low, bound.high, better, worse, same, bound.p, images)
