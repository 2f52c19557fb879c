"""The sentences that open a report, from runs whose every figure is known: above, below, no difference, nothing to
compare, held out, corrected, between floor and ceiling."""

import pytest

from attrbind_exp.reporting.html.answer import answers
from attrbind_exp.reporting.html.collect import collect
from attrbind_exp.scoring.figures import Difference, Reference
from attrbind_exp.scoring.metrics import GRID, key
from tests.made_runs import make_summary, variant_figures, write_files
from tests.test_report import BASE, OURS, page_of, words, write_run

OTHER = ("noun_chunk", None)


def answer(folder, *differences, references=(), scored="expressions", **more):
    """The one answer of a run of the baseline (mIoU 20) and of variants with these (mean, low, high, p); n = 1200."""
    variants = [variant_figures(BASE, 20.0, 1200)]
    for name, (mean, low, high, p) in zip((OURS, OTHER), differences):
        change = Difference(mean, low, high, 3, 2, 1, p)
        variants.append(variant_figures(name, 20.0 + mean, 1200, difference=change))
    write_files(folder, make_summary(variants, references=list(references), scored=scored, **more))
    measured = collect(folder, {})
    (found,) = answers(measured.groups, measured.between)
    return found


AT = "threshold 0.30 (baseline 0.30), the best on this very data"


def test_above_the_baseline(tmp_path):
    found = answer(tmp_path, (2.5, 1.0, 4.0, 0.01))
    assert found.tone == 1
    assert found.text == (
        "On drawn, test, attribute_binding alpha=0.9 scores 2.5 points of mIoU above baseline "
        f"(95 % interval +1.0 to +4.0; n = 1,200 expressions; {AT})."
    )


def test_an_interval_that_holds_zero_is_no_difference(tmp_path):
    found = answer(tmp_path, (0.5, -0.04, 1.0, 0.2), (0.4, 0.2, 0.6, 0.001))
    assert found.tone == 0
    assert found.text.startswith(
        "On drawn, test, attribute_binding alpha=0.9, the highest of 2 methods, shows no difference to baseline: "
        f"+0.50 points of mIoU, with a 95 % interval that holds zero (-0.04 to +1.00; n = 1,200 expressions; {AT}). "
    )
    assert found.text.endswith("Of the other methods, by their intervals, 1 lies above baseline.")
    assert "survive" not in found.text


@pytest.mark.parametrize(("low", "high", "tone"), [(0.0, 1.0, 0), (-1.0, 0.0, 0), (0.01, 1.0, 1), (-1.0, -0.01, -1)])
def test_zero_belongs_to_an_interval(tmp_path, low, high, tone):
    found = answer(tmp_path, ((low + high) / 2, low, high, 0.04))
    assert (found.tone, "no difference" in found.text) == (tone, tone == 0)


def test_where_all_are_below_the_highest_says_so(tmp_path):
    found = answer(tmp_path, (-3.0, -4.0, -2.0, 0.001), (-1.0, -1.5, -0.5, 0.03))
    assert found.text.startswith(
        "On drawn, test, noun_chunk, the highest of 2 methods, still scores 1.0 points of mIoU below"
    )
    assert found.tone == -1 and found.text.endswith("survives Holm's correction over the 2 comparisons of this page.")


def test_holm_is_told_of_the_best(tmp_path):
    """0.03 <= 0.05 / 1 only once 0.04 has passed 0.05 / 2, which it has not."""
    found = answer(tmp_path, (2.0, 1.0, 3.0, 0.03), (1.0, 0.5, 1.5, 0.04))
    assert "That difference does not survive Holm's correction over the 2 comparisons" in found.text
    assert "Holm" not in answer(tmp_path / "old", (2.0, 1.0, 3.0, None), (1.0, 0.5, 1.5, None)).text


def test_without_an_interval_nothing_is_said_of_other_images(tmp_path):
    found = answer(tmp_path, (2.5, None, None, None))
    assert (
        found.tone == 0 and "is 2.5 points of mIoU above baseline (n = 1,200 expressions); without an int" in found.text
    )


def references(floor, ceiling):
    at = {key(k): ceiling for k in GRID}
    return [Reference("floor: all objects", floor, None, {}, 1200), Reference("ceiling of the map's grid", ceiling, 0.3, at, 1200)]  # fmt: skip


def test_a_single_variant_stands_between_floor_and_ceiling(tmp_path):
    found = answer(tmp_path, references=references(10.0, 60.0))
    assert found.text == (
        "On drawn, test, the mIoU of baseline is 20.0 %, 20 % of the way from the highest floor (all objects, 10.0) to the "
        "ceiling (60.0) (n = 1,200 expressions; threshold 0.30, the best on this very data). It is compared with no other."
    )
    below = answer(tmp_path / "below", references=references(25.0, 60.0))
    assert "20.0 %, below the highest floor, which reads no word (all objects, 25.0)" in below.text


def test_a_method_that_wins_below_a_floor_says_that_too(tmp_path):
    found = answer(tmp_path, (2.5, 1.0, 4.0, 0.01), references=references(25.0, 60.0))
    assert found.text.endswith(
        "The method's mIoU is 22.5 %, below the highest floor, which reads no word (all objects, 25.0)."
    )


def test_class_wise_counts_images(tmp_path):
    assert "n = 1,200 images" in answer(tmp_path, (2.5, 1.0, 4.0, 0.01), scored="images").text


def test_the_split_that_chooses_thresholds_is_no_answer(tmp_path):
    write_run(tmp_path / "val", {BASE: [10, 20, 30, 40], OURS: [50, 60, 70, 80]}, split="val")
    write_run(tmp_path / "test", {BASE: [10, 20, 30, 40], OURS: [13, 24, 33, 44]}, split="test")
    measured = collect(tmp_path, {})
    (found,) = answers(measured.groups, measured.between)
    assert (
        "3.5 points of mIoU above baseline" in found.text and "(baseline 0.30), chosen on another split" in found.text
    )
    said = words(page_of(tmp_path))
    assert said.index(found.text) < said.index("at 0.50 held out")


def test_without_a_finished_run_there_is_no_answer(tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "expressions.jsonl").write_text("{}\n")
    assert "No run here is finished, so there is no answer yet." in words(page_of(tmp_path))
