"""What a tracker is told of a run made by hand."""

import json

import numpy as np
import pytest

from attrbind_exp.reporting.track import run_figures, track_run
from attrbind_exp.scoring.figures import Estimate
from attrbind_exp.tracking.tracker import NoTracker
from tests.made_runs import expression_row, make_summary, variant_figures, write_files

BASE, OURS = ("baseline", None), ("ours", 0.9)


class Told:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *given: self.calls.append((name, *given))

    def of(self, name):
        return [given for called, *given in self.calls if called == name]


@pytest.fixture
def run(tmp_path):
    """Two expressions under two variants and noise seeds, and one without ground truth."""
    own = {"boundary F": Estimate(41.5, 30.0, 52.0, 2)}
    summary = make_summary(
        [variant_figures(BASE, 15.0, 2), variant_figures(OURS, 40.0, 2, metrics=own)], n=3, n_unscored=1
    )
    ious = {"a": {BASE: (0.1, 0.3), OURS: (0.4, 0.4)}, "b": {BASE: (0.2, 0.0), OURS: (0.5, 0.3)}}
    rows = [
        expression_row(
            variant, sample, iou, seed=seed, chunk=f"the {sample}", fallbacks=("category", "regex"),
            slices={"kind": "colour", "modifier": ["red", "large"]},
        )
        for sample, variants in ious.items() for variant, seeds in variants.items() for seed, iou in enumerate(seeds)
    ]  # fmt: skip
    unscored = [
        expression_row(v, "c", 0.0, seed=seed, iou_at=None, intersection=None, union=None)
        for v in (BASE, OURS)
        for seed in (0, 1)
    ]
    write_files(tmp_path, summary, rows[:4] + unscored + rows[4:])
    return tmp_path, summary


def test_a_run_is_told_as_its_folder_has_it(run):
    folder, summary = run
    told = Told()
    pictures = {"gallery": {"a title": folder / "x.png"}}
    track_run(summary, {"baseline": np.linspace(0, 50, 101)}, folder, told, pictures)
    ((name, x, y, thresholds, lines),) = told.of("curve")
    assert (name, x, y, len(thresholds), lines["baseline"][100]) == ("threshold_curve", "threshold", "mIoU", 101, 50.0)
    variants, expressions = told.of("table")
    assert variants[:2] == ["variants", ["variant", "mIoU", "threshold", "oIoU", "boundary F"]]
    assert variants[2] == [["baseline", 15.0, 0.3, 15.0, None], ["ours alpha=0.9", 40.0, 0.3, 40.0, 41.5]]
    columns = [
        "sample",
        "image",
        "expression",
        "target",
        "chunk",
        "fallbacks",
        "slices",
        "IoU baseline",
        "IoU ours alpha=0.9",
    ]
    assert expressions[:2] == ["expressions", columns]
    first, second = expressions[2]
    labels = "kind=colour, modifier=red, modifier=large"
    assert first[:7] == ["a", "ia", "expression a", "it", "the a", "category, regex", labels]
    assert first[7:] == pytest.approx([0.2, 0.4]) and second[7:] == pytest.approx([0.1, 0.4])
    assert told.of("images") == [["gallery", {"a title": folder / "x.png"}]]


def test_the_summary_of_a_run_is_that_of_the_variant_that_heads_it(run):
    figures = run_figures(run[1])
    assert (figures["mIoU"], figures["oIoU"], figures["alpha"], figures["n"], figures["n_scored"]) == (
        40.0,
        40.0,
        0.9,
        3,
        2,
    )
    assert figures["metrics"] == {"boundary F": {"mean": 41.5, "low": 30.0, "high": 52.0, "n": 2}}
    assert not {"variants", "label", "binding", "mIoU_spread"} & set(figures) and json.dumps(figures)


def test_nothing_is_read_where_nobody_is_told(run):
    folder, summary = run
    (folder / "expressions.jsonl").write_text("{torn}\n")
    track_run(summary, {}, folder, NoTracker(folder=folder), {})
