"""Where the heat lies among the objects of an image, against answers made by hand."""

import json

import numpy as np
import pytest

from attrbind_exp.config import PACKAGE
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import load_refer
from attrbind_exp.edits import Variant
from attrbind_exp.evaluation.loop import score
from attrbind_exp.reporting.tables import bounded
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import binding
from attrbind_exp.scoring.binding import PLACES, BindingScores, Sighting, swaps
from attrbind_exp.scoring.compare import PERCENT, estimate
from attrbind_exp.scoring.counting import count_maps
from attrbind_exp.scoring.figures import Estimate
from attrbind_exp.tasks import objects
from attrbind_exp.tasks.objects import object_masks
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Other, Sample
from tests.conftest import make_variant


def sample(text, own, others, image="7", category="star"):
    known = None if others is None else tuple(Other(key, kind, None) for key, kind in others.items())
    return Sample(f"{image}:{text}", image, None, text, category, None, (4, 4), {}, own, known)


def figures(samples, sightings):
    """The binding figures of one variant: `sightings[expression][seed]`."""
    scores = BindingScores(samples)
    for one, seeds in zip(samples, sightings, strict=True):
        scores.add(one, [seeds])
    return scores.figures()[0]


def square(row, column):
    mask = np.zeros((4, 4), bool)
    mask[row : row + 2, column : column + 2] = True
    return mask


MASKS = {"a": square(0, 0), "b": square(0, 2), "c": square(2, 0)}


def locate(heat, one, masks):
    """Where a heat map's peak lies, counted under the masks of some objects."""
    (counts,) = count_maps(heat[None], list(masks.values()))
    return binding.locate(one, list(masks), counts)


def heat_at(row, column):
    heat = np.full((4, 4), 0.1, np.float32)
    heat[row, column] = 1
    return heat


@pytest.mark.parametrize(
    "peak, expected", [((1, 1), "target"), ((0, 3), "distractor"), ((2, 0), "other"), ((3, 3), "background")]
)
def test_the_peak_lies_where_it_lies(peak, expected):
    found = locate(heat_at(*peak), sample("the star", "a", {"b": "star", "c": "moon"}), MASKS)
    assert found.peak == expected
    hot = {"target": "a", "distractor": "b", "other": "c"}.get(expected)
    assert found.heat_on == {k: pytest.approx(0.325 if k == hot else 0.1, abs=1e-5) for k in "abc"}


def test_the_target_comes_first_where_objects_overlap_and_an_empty_object_has_no_heat():
    masks = {"a": square(0, 0), "b": square(0, 0), "c": np.zeros((4, 4), bool)}
    found = locate(heat_at(0, 0), sample("the star", "a", {"b": "star", "c": "moon"}), masks)
    assert found.peak == "target" and set(found.heat_on) == {"a", "b"}


def test_another_object_with_a_broken_mask_costs_the_sample_nothing():
    broken = Other("b", "star", {"counts": "nonsense", "size": [9, 9]})
    good = Other("c", "moon", [[0, 2, 2, 2, 2, 4, 0, 4]])
    one = Sample("7:x", "7", None, "the star", "star", None, (4, 4), {}, "a", (broken, good))
    masks = object_masks(one, MASKS["a"])
    assert set(masks) == {"a", "c"} and object_masks(one, None) is None
    assert locate(heat_at(0, 3), one, masks) == Sighting("background", {"a": 0.1, "c": 0.1})


def test_the_masks_of_an_image_are_decoded_once_for_all_its_expressions(monkeypatch):
    calls = []
    monkeypatch.setattr(objects, "decode_mask", lambda found, size: calls.append(found) or decode_mask(found, size))
    broken = Other("b", "star", {"counts": "nonsense", "size": [9, 9]})
    good = Other("c", "moon", [[0, 2, 2, 2, 2, 4, 0, 4]])
    samples = [Sample(f"7:{i}", "7", None, "the star", "star", None, (4, 4), {}, "a", (broken, good)) for i in range(3)]
    decoded = {}
    found = [object_masks(one, MASKS["a"], decoded) for one in samples]
    assert len(calls) == 2 and all(set(masks) == {"a", "c"} for masks in found)
    assert all(np.array_equal(masks["c"], object_masks(samples[0], MASKS["a"])["c"]) for masks in found)


def test_swaps_are_pairs_that_differ_in_one_word_about_two_objects_of_a_category():
    white, black = sample("the white star", "a", {"b": "star"}), sample("the black star", "b", {"a": "star"})
    elsewhere = sample("the red star", "a", {}, image="8")
    again = sample("the pale star", "a", {"b": "star"})
    longer = sample("the black star here", "b", {"a": "star"})
    moon = sample("the black moon", "c", {}, category="moon")
    assert swaps([white, black, elsewhere, longer, moon]) == [(0, 1)]
    assert swaps([white, again]) == []  # two names of one object
    assert swaps([white, sample("one dark star", "b", {"a": "star"})]) == []


def test_binding_figures_by_hand():
    samples = [
        sample("the white star", "a", {"b": "star"}),
        sample("the black star", "b", {"a": "star"}),
        sample("the moon", "c", {"a": "star"}, category="moon"),
        sample("the white star", "a", {"b": "star"}, image="8"),
        sample("the black star", "b", {"a": "star"}, image="8"),
    ]
    right = [Sighting("target", {"a": 0.8, "b": 0.2})]
    sightings = [
        right,
        [Sighting("target", {"a": 0.1, "b": 0.4})],
        [Sighting("background", {"a": 0.3, "c": 0.3})],
        right,
        [Sighting("distractor", {"a": 0.8, "b": 0.2})],  # the heat stayed where it was
    ]
    found = figures(samples, sightings)
    assert [found.peak[p].mean for p in PLACES] == [60, 20, 0, 20]
    assert found.peak_rivals["target"].mean == 75 and found.peak_rivals["distractor"].n == 4
    assert found.heat_ratio.mean == pytest.approx((4 * 4 * 4 * 0.25) ** 0.25) and found.heat_ratio.n == 4
    # In the first image the heat on a / on b goes from 4 to 1/4, in the second it stays at 4, which is no move.
    assert found.moved.mean == 50 and found.moved.n == 2
    assert found.moved.low == 0 and found.moved.high == 100  # two images
    assert found.shift.mean == pytest.approx(np.log(16) / 2) and found.shift.n == 2
    # Each image lies log(16) / 2 from the mean; t of 1 degree of freedom is 12.706.
    half = 12.7062 * np.sqrt(2) * np.log(16) / 2
    assert (found.shift.low, found.shift.high) == pytest.approx(
        (np.log(16) / 2 - half, np.log(16) / 2 + half), rel=1e-4
    )


def test_heat_moves_the_right_way_though_one_object_stays_the_hotter():
    """Of a pair in two seeds: both expressions heat a more, "white" (a's) yet more of it; the other way round in the
    second."""
    samples = [sample("the white star", "a", {"b": "star"}), sample("the black star", "b", {"a": "star"})]
    white = [Sighting("target", {"a": 0.8, "b": 0.2}), Sighting("target", {"a": 0.6, "b": 0.3})]
    black = [Sighting("distractor", {"a": 0.4, "b": 0.2}), Sighting("distractor", {"a": 0.8, "b": 0.2})]
    found = figures(samples, [white, black])
    assert found.moved == Estimate(50, None, None, 1)
    assert found.shift.mean == pytest.approx((np.log(4 / 2) + np.log(2 / 4)) / 2, abs=1e-12)
    nothing = [Sighting("background", {"a": 0.0, "b": 0.5})]  # no heat counts as FLOOR
    found = figures(samples, [white[:1], nothing])
    assert found.shift.mean == pytest.approx(np.log(4) - np.log(0.01 / 0.5)) and found.moved.mean == 100


def test_an_object_whose_mask_cannot_be_used_counts_as_not_annotated():
    """It is no distractor and no half of a swap pair, whatever the annotation says of its category."""
    samples = [
        sample("the white star", "a", {"b": "star"}),
        sample("the black star", "b", {"a": "star"}),
        sample("the white star", "a", {"b": "star"}, image="8"),
        sample("the black star", "b", {"a": "star"}, image="8"),
    ]
    sightings = [
        [Sighting("target", {"a": 0.8, "b": 0.2})],
        [Sighting("target", {"a": 0.1, "b": 0.4})],
        [Sighting("target", {"a": 0.8})],  # in this image, b's mask could not be read for a's sake
        [Sighting("background", {"a": 0.8, "b": 0.2})],
    ]
    found = figures(samples, sightings)
    assert found.peak["target"].n == 4 and found.peak["target"].mean == 75
    assert found.peak_rivals["target"].n == 3 and found.peak_rivals["background"].mean == pytest.approx(100 / 3)
    assert found.heat_ratio.n == 3 and found.heat_ratio.mean == pytest.approx((4 * 4 * 0.25) ** (1 / 3))
    assert found.moved == Estimate(100, None, None, 1)  # of the first image alone


def test_variants_are_kept_apart():
    samples = [sample("the white star", "a", {"b": "star"}), sample("the black star", "b", {"a": "star"})]
    scores = BindingScores(samples)
    own, other = Sighting("target", {"a": 0.4, "b": 0.1}), Sighting("distractor", {"a": 0.1, "b": 0.2})
    scores.add(samples[0], [[own], [other]])
    scores.add(samples[1], [[other], [own]])
    first, second = scores.figures()
    assert (first.moved.mean, second.moved.mean) == (100, 0)
    assert (first.shift.mean, second.shift.mean) == pytest.approx((np.log(8), -np.log(8)))
    assert (first.heat_ratio.mean, second.heat_ratio.mean) == pytest.approx((8**0.5, 8**-0.5))
    assert [scores.peak_shares(v)[PLACES.index("target")].tolist() for v in (0, 1)] == [[1, 0], [0, 1]]


def test_seeds_are_averaged_and_the_hottest_distractor_counts():
    one = sample("the white star", "a", {"b": "star", "c": "star"})
    seeds = [Sighting("target", {"a": 0.4, "b": 0.1, "c": 0.2}), Sighting("distractor", {"a": 0.4, "b": 0.8, "c": 0.0})]
    found = figures([one], [seeds])
    assert found.peak["target"].mean == 50
    assert found.heat_ratio.mean == pytest.approx(1.0) and found.heat_ratio.low is None
    assert found.moved == found.shift == Estimate(None, None, None, 0)


def test_intervals_are_clustered_by_image():
    values = np.tile([0.0, 100.0], 50)
    apart = estimate(values, [str(i) for i in range(100)])
    together = estimate(np.repeat([0.0, 100.0], 50), ["x"] * 50 + ["y"] * 50, PERCENT)
    assert apart.mean == together.mean == 50
    assert (apart.high - apart.low) < 25 < (together.high - together.low)
    assert bounded(together) == "50.0 [0.0, 100.0]" and bounded(estimate([], [])) == "-"


def test_a_run_says_where_the_heat_lies(segmenter, tmp_path):
    dataset = load_refer(str(PACKAGE / "assets"), "shapes", "made", "val", limit=12)
    settings = RunSettings([Variant("baseline"), make_variant("ncr", replace=True, prefix="template")], batch_size=12)
    store = RunStore(tmp_path, "key")
    scored = score(dataset, segmenter, settings, store)
    store.close()
    rows = [json.loads(line) for line in (tmp_path / "expressions.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and {r["peak"] for r in rows} <= set(PLACES)
    for row, sample in zip(rows[::2], dataset.samples, strict=True):
        assert set(row["heat_on"]) == {sample.object_id, *(o.object_id for o in sample.others)}
    found = scored.task.figures()[0]
    told = found.binding
    assert sum(told.peak[p].mean for p in PLACES) == pytest.approx(100)
    hits = [r["peak"] == "target" for r in rows[::2]]
    assert told.peak["target"].mean == pytest.approx(100 * np.mean(hits)) and told.moved.n > 0
    (by_pair,) = ([e.peak["target"] * e.n for e in found.slices["pair"].values()],)
    assert sum(by_pair) == pytest.approx(100 * sum(hits))  # slices say it, too
