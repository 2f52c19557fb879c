"""Numbers against hand computations."""

import numpy as np
import pytest

from attrbind_exp.edits import Variant
from attrbind_exp.scoring.compare import estimates, paired_difference, paired_differences
from attrbind_exp.scoring.expressions import ExpressionScores
from attrbind_exp.scoring.intervals import FEW
from attrbind_exp.scoring.metrics import THRESHOLDS, count_overlap, iou, slice_rows


def figures(intersection, union, threshold=None):
    """The figures of n expressions under one variant and S seeds from their counts (n, S, K)."""
    scores = ExpressionScores([Variant("baseline")], intersection.shape[1], threshold)
    for counts in zip(intersection, union, strict=True):
        scores.add(*(c[None] for c in counts))
    return scores.figures(0)


def test_counts_by_hand():
    heat = np.array([[0.0, 0.3, 0.5], [0.5, 0.75, 1.0]], np.float32)
    truth = np.array([[0, 0, 1], [0, 1, 1]], bool)
    intersection, union = count_overlap(heat, truth)
    expected = {0: (3, 6), 30: (3, 5), 31: (3, 4), 50: (3, 4), 51: (2, 3), 75: (2, 3), 76: (1, 3), 100: (1, 3)}
    for row, (i, u) in expected.items():
        assert (intersection[row], union[row]) == (i, u), row


def test_counts_equal_thresholding_one_by_one():
    rng = np.random.default_rng(0)
    heat = rng.random((37, 53)).astype(np.float32)
    heat.ravel()[:101] = THRESHOLDS  # values exactly on a threshold belong to its mask
    truth = rng.random((37, 53)) < 0.3
    intersection, union = count_overlap(heat, truth)
    for row, threshold in enumerate(THRESHOLDS):
        mask = heat >= threshold
        assert intersection[row] == (mask & truth).sum() and union[row] == (mask | truth).sum()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        count_overlap(np.zeros((2, 2), np.float32), np.ones((2, 3), bool))


def test_summary_by_hand():
    """Two expressions: IoU 1/2 and 3/4 up to threshold 0.50, 0 and 1 above it."""
    low = np.arange(101) <= 50
    intersection = np.stack([np.where(low, 1, 0), np.where(low, 3, 4)])[:, None]  # one seed
    union = np.stack([np.where(low, 2, 1), np.where(low, 4, 4)])[:, None]
    best = figures(intersection, union)
    assert best.mIoU == pytest.approx(62.5) and best.threshold == 0.30
    assert best.oIoU == pytest.approx(100 * 4 / 6)
    assert best.mIoU_at["0.50"] == pytest.approx(62.5) and best.mIoU_at["0.55"] == pytest.approx(50)
    assert best.precision == {"0.5": 100, "0.6": 50, "0.7": 50, "0.8": 0, "0.9": 0}
    fixed = figures(intersection, union, threshold=0.6)
    assert fixed.mIoU == pytest.approx(50) and fixed.oIoU == pytest.approx(80) and fixed.precision["0.9"] == 50
    assert figures(intersection, union, threshold=0.07).mIoU == pytest.approx(62.5)  # a threshold outside the grid


def test_every_threshold_has_a_place_on_the_curve():
    """The same two expressions, two variants: the second has the counts of the first at no threshold but 0."""
    low = np.arange(101) <= 50
    intersection = np.stack([np.where(low, 1, 0), np.where(low, 3, 4)])
    union = np.stack([np.where(low, 2, 1), np.where(low, 4, 4)])
    scores = ExpressionScores([Variant("a"), Variant("b")], 1)
    for counts in zip(intersection, union, strict=True):
        scores.add(*(np.stack([c, c * (np.arange(101) == 0)])[:, None] for c in counts))
    assert scores.curve(0).tolist() == [62.5] * 51 + [50] * 50
    assert scores.curve(1).tolist() == [62.5] + [0] * 100
    assert scores.iou(0, 0.5).tolist() == [0.5, 0.75] and scores.iou(0, 0.55).tolist() == [0, 1]


def test_perfect_all_ones_and_empty_masks():
    truth = np.zeros((10, 10), bool)
    truth[:2, :5] = True
    assert figures(*(a[None, None] for a in count_overlap(truth.astype(np.float32), truth))).mIoU == 100
    everything = count_overlap(np.ones((10, 10), np.float32), truth)
    assert figures(*(a[None, None] for a in everything)).mIoU == pytest.approx(10)
    assert iou(np.array([0]), np.array([0])) == 0
    assert figures(np.zeros((0, 1, 101)), np.zeros((0, 1, 101))).mIoU is None


def test_slices():
    rows = slice_rows([{"pair": "rare"}, {"pair": "usual", "kind": "colour"}, {"pair": "rare"}])
    assert rows["pair"]["rare"].tolist() == [0, 2] and rows["kind"]["colour"].tolist() == [1]


def test_a_label_of_several_values_counts_in_each():
    rows = slice_rows([{"modifier": ("colour", "location")}, {"modifier": ()}, {"modifier": ("colour",)}])
    assert {k: v.tolist() for k, v in rows["modifier"].items()} == {"colour": [0, 2], "location": [0], "none": [1]}


def test_noise_seeds_give_their_mean_and_spread():
    """One expression, three seeds with IoU 0.2, 0.4 and 0.6 at every threshold."""
    intersection = np.array([1, 2, 3])[None, :, None] * np.ones(101, int)
    found = figures(intersection.astype(np.int64), np.full((1, 3, 101), 5))
    assert found.mIoU == pytest.approx(40) and found.mIoU_spread == pytest.approx(20)
    assert found.mIoU_by_seed == pytest.approx([20, 40, 60]) and found.n == 1
    assert found.oIoU == pytest.approx(40) and found.precision["0.5"] == pytest.approx(100 / 3)


def test_one_image_has_no_interval():
    d = paired_difference(np.array([0.1, 0.2]), np.array([0.2, 0.4]), ["1", "1"])
    assert (d.mean, d.low, d.high, d.better) == (pytest.approx(0.15), None, None, 2)


def test_paired_difference_counts_and_covers():
    rng = np.random.default_rng(1)
    image = np.repeat(np.arange(200), 3)
    a = rng.random(600)
    b = a + 0.05 + np.repeat(rng.normal(0, 0.2, 200), 3)
    b[:3] = a[:3]
    d = paired_difference(a, b, image)
    assert d.mean == pytest.approx((b - a).mean())
    assert d.better + d.worse + d.same == 600 and d.same == 3
    # The spread is that of 200 images, not of 600 expressions: sd 0.2 / sqrt(200), 1.96 of them a side.
    assert d.high - d.low == pytest.approx(2 * 1.96 * 0.2 / np.sqrt(200), rel=0.2)
    same = paired_difference(a, a, image)
    assert (same.mean, same.low, same.high, same.same) == (0, 0, 0, 600)


def test_figures_that_share_their_resamples_are_those_that_each_draws_for_itself():
    rng = np.random.default_rng(2)
    images, base, others = rng.integers(0, 40, 150).astype(str), rng.random(150), rng.random((3, 150))
    assert paired_differences(base, others, images) == [paired_difference(base, row, images) for row in others]
    together, (alone,) = estimates(others, images), estimates(others[2:], images)
    assert together[2] == alone and alone.low < alone.mean < alone.high and alone.n == 150


def test_an_interval_is_that_of_its_resamples_drawn_one_by_one():
    """Against a bootstrap written to be read, on images of different sizes; as many as percentiles are made for."""
    sizes = np.resize([2, 3, 1], FEW)
    images = np.repeat(np.arange(FEW), sizes)
    values = np.random.default_rng(3).exponential(size=len(images))
    groups = np.split(values, np.cumsum(sizes)[:-1])
    picks = np.random.default_rng(0).integers(0, FEW, (2000, FEW))
    means = [np.concatenate([groups[i] for i in pick]).mean() for pick in picks]
    (found,) = estimates(values[None], images)
    assert found.mean == values.mean()
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]))
