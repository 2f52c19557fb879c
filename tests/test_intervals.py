"""Intervals over few images, p, and Holm's correction."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from attrbind_exp.reporting.tables import few_line
from attrbind_exp.scoring.compare import PERCENT, class_difference, estimate, paired_difference
from attrbind_exp.scoring.holm import survive
from attrbind_exp.scoring.intervals import FEW, drawn_weights, means_and_errors, of_means, of_statistic, p_values, width

T = {1: 12.706204736, 3: 3.182446305}  # 97.5 % quantiles of t, from a printed table


def difference(values, images):
    return paired_difference(np.zeros(len(values)), np.asarray(values, float), images)


def test_the_standard_error_by_hand():
    """Four images of 1, 2, 1 and 4 expressions. The mean is 8 / 8; without each image 6/7, 6/6, 4/7 and 8/4."""
    sums, sizes = np.array([2.0, 2.0, 4.0, 0.0]), np.array([1.0, 2.0, 1.0, 4.0])
    mean, error = means_and_errors(sums, sizes)
    assert mean == 1 and error == pytest.approx(np.sqrt((1 / 7) ** 2 + (3 / 7) ** 2 + 1))


def test_two_images_by_hand():
    """1 and 3: without either the mean changes by 1, so the error is the root of 2."""
    d = difference([1, 3], ["a", "b"])
    assert d.mean == 2 and d.high - 2 == 2 - d.low == pytest.approx(T[1] * np.sqrt(2))
    # t with one degree of freedom is Cauchy's distribution.
    assert d.p == pytest.approx(1 - 2 / np.pi * np.arctan(np.sqrt(2)))


@pytest.mark.parametrize("m", [2, 5, 40])
def test_images_of_one_size_give_the_t_test_of_their_means(m):
    """But for a factor: CR3 divides by m - 1 where the t test divides by m."""
    means = np.random.default_rng(m).exponential(size=m) - 0.6
    mean, error = means_and_errors(3 * means, np.full(m, 3.0))
    test = stats.ttest_1samp(means, 0)
    wider = np.sqrt(m / (m - 1))
    assert mean / error == pytest.approx(test.statistic / wider)
    low, high = test.confidence_interval()
    assert width((3 * means)[None], np.full((1, m), 3.0), drawn_weights(m))[0] >= wider * (high - low) / 2 - 1e-9
    assert p_values(np.array([mean]), np.array([error / wider]), m) == pytest.approx([test.pvalue])


def test_the_width_is_that_of_a_bootstrap_t_written_to_be_read():
    """Over all 5^5 resamples of five images, one of them far off: t alone is narrower."""
    sums, sizes = np.array([0.0, 0.1, 0.0, 0.3, 9.0]), np.array([1.0, 3.0, 2.0, 4.0, 2.0])

    def plain(s, n):  # mean and CR0
        mean = s.sum() / n.sum()
        return mean, np.sqrt(((s - mean * n) ** 2).sum()) / n.sum()

    mean, error = plain(sums, sizes)
    picks = [list(pick) for pick in product(range(5), repeat=5)]
    found = []
    for pick in picks:
        its_mean, its_error = plain(sums[pick], sizes[pick])
        found.append(abs(its_mean - mean) / its_error if its_error > 1e-8 else 0)
    weights = np.array([np.bincount(pick, minlength=5) for pick in picks], float)
    (half,) = width(sums[None], sizes[None], weights)
    assert half == pytest.approx(np.quantile(found, 0.95) * error)
    assert half > stats.t.ppf(0.975, 4) * means_and_errors(sums, sizes)[1]


def test_without_spread_the_interval_is_the_point():
    images = list("aabbbc")
    for value, p in ((0.1, 0), (-3, 0), (0, 1)):
        d = difference([value] * 6, images)
        assert (d.low, d.high) == (pytest.approx(value), pytest.approx(value)) and d.p == p
    assert difference([1, 2], ["a", "a"]).p is None
    many = difference(np.zeros(FEW), np.arange(FEW))
    assert (many.low, many.high, many.p) == (0, 0, 1)


def test_few_images_p_is_below_5_percent_where_the_interval_leaves_out_zero():
    rng, seen = np.random.default_rng(4), set()
    for m in (2, 3, 5, 8, 20) * 8:
        images = np.repeat(np.arange(m), rng.integers(1, 9, m))
        d = difference(rng.exponential(size=len(images)) - rng.choice([0, 0.5, 1]), images)
        seen.add(d.p < 0.05)
        assert d.low < d.mean < d.high and (d.p < 0.05) == (d.low > 0 or d.high < 0), (m, d)
    assert seen == {True, False}


@pytest.mark.parametrize("m", [7, FEW])
def test_intervals_scale_and_turn_with_their_values(m):
    """Shift and scale always; turned by the sign where the interval is around the mean, as percentiles are not."""
    rng = np.random.default_rng(5)
    images = np.repeat(np.arange(m), rng.integers(1, 9, m))
    values = rng.exponential(size=len(images)) - 1.2
    d = difference(values, images)
    scaled, shifted = difference(100 * values, images), difference(values + 5, images)
    assert (scaled.low, scaled.high, scaled.p) == pytest.approx((100 * d.low, 100 * d.high, d.p))
    assert (shifted.low, shifted.high) == pytest.approx((d.low + 5, d.high + 5))
    turned = difference(-values, images)
    assert turned.p == pytest.approx(d.p)
    if m < FEW:
        assert (turned.low, turned.high) == pytest.approx((-d.high, -d.low))


def test_a_mean_as_any_other_figure_has_the_same_error():
    """`of_statistic` of the mean; at 60 equal-looking images t is the wider of the two widths."""
    rng = np.random.default_rng(6)
    sums, sizes = rng.normal(1, 1, 60), np.ones(60)
    without = (sums.sum() - sums) / 59
    found = of_statistic(lambda w: (w @ sums / w.sum(1))[None], sums.mean(), without)
    _, error = means_and_errors(sums, sizes)
    assert found.high - sums.mean() == pytest.approx(stats.t.ppf(0.975, 59) * error)
    (mine,) = of_means(sums[None], sizes)
    assert mine.low <= found.low + 1e-9 and mine.high >= found.high - 1e-9


def test_a_class_wise_difference_by_hand():
    """One class, two images with a union of 10: hits 2 and 4, then 4 and 8. 60 - 30 %; without an image 40 or 20 points."""
    a, b = (np.array([[[hit], [10.0]] for hit in hits]) for hits in ((2.0, 4.0), (4.0, 8.0)))
    d = class_difference(a, b)
    assert d.mean == pytest.approx(30) and d.high - d.mean == pytest.approx(T[1] * np.sqrt(200))
    assert class_difference(a[:1], b[:1]).p is None and class_difference(a, a).p == 1


def test_a_share_ends_at_0_and_100():
    values, images = [0, 100, 100, 100], list("abcd")
    free, within = estimate(values, images), estimate(values, images, PERCENT)
    assert free.high - free.mean >= T[3] * 25 and free.high > 100
    assert (within.mean, within.high) == (75, 100) and within.low == max(0, free.low)


def test_coverage_on_skewed_differences_with_many_zeros():
    """Eight images of 1 to 30 expressions, seven in ten unchanged: percentiles hold the truth too rarely, these intervals
    as often as they say (benchmarks/coverage.py has differences as measured and 5,000 repeats)."""
    rng, m = np.random.default_rng(0), 8
    sizes = rng.integers(1, 31, 400).astype(float)
    sums = np.array([((rng.random(int(n)) < 0.3) * rng.exponential(size=int(n))).sum() for n in sizes])
    drawn, weights = rng.integers(0, 400, (1000, m)), drawn_weights(m, 1000)
    s, n = sums[drawn], sizes[drawn]
    truth, means = sums.sum() / sizes.sum(), s.sum(1) / n.sum(1)
    low, high = np.quantile(s @ weights.T / (n @ weights.T), (0.025, 0.975), axis=1)
    half = width(s, n, weights)

    def holds(low, high):
        return ((low <= truth) & (truth <= high)).mean()

    assert holds(low, high) < 0.88
    assert 0.93 <= holds(means - half, means + half) <= 0.97


def test_holm_by_hand():
    """0.005 <= 0.05 / 4, 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2: it ends there, although 0.04 <= 0.05 / 1."""
    assert survive([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert survive([0.01, 0.04, 0.02, 0.005]) == [True] * 4
    assert survive([None, 0.03, None, 0.024]) == [False, True, False, True]
    assert (
        survive([]) == survive([None])[1:] and survive([0.05]) == [True] and survive([0.2, 0.02], 0.01) == [False] * 2
    )


def test_a_table_over_few_images_says_that_its_intervals_are_rough():
    few = paired_difference(np.zeros(8), np.arange(8.0), [f"image {i // 2}" for i in range(8)])
    assert few.images == 4
    assert few_line([few.images, 300]) == (
        "4 images: of so few, a 95 % interval holds the truth in about 90 to 98 % of cases"
    )
    assert few_line([20, None]) == few_line([1]) == few_line([]) == ""  # a single image has no interval
