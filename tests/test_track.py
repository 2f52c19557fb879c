"""What a tracker is told of a run made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from attrbind_exp.reporting.html.collect import collect
from attrbind_exp.reporting.overlays import panel_masks
from attrbind_exp.reporting.tables import ablation
from attrbind_exp.reporting.track import run_figures, track_run, track_sweep
from attrbind_exp.runs.masks import Mask, read_masks, write_masks
from attrbind_exp.scoring.figures import Difference, Estimate, Reference, SliceFigures
from attrbind_exp.tasks.task import Panel
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
        "difference ours alpha=0.9",
    ]
    assert expressions[:2] == ["expressions", columns]
    first, second = expressions[2]
    labels = "kind=colour, modifier=red, modifier=large"
    assert first[:7] == ["a", "ia", "expression a", "it", "the a", "category, regex", labels]
    assert first[7:] == pytest.approx([0.2, 0.4, 0.2]) and second[7:] == pytest.approx([0.1, 0.4, 0.3])
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
    assert (figures["boundary F"], figures["boundary F low"], figures["boundary F high"]) == (41.5, 30.0, 52.0)
    assert figures["precision at IoU 0.5"] == 0.0 and figures["variant"] == "ours alpha=0.9"
    assert all(isinstance(value, str | int | float) for value in figures.values())


def test_the_figures_of_a_run_bear_the_words_of_its_table():
    base = variant_figures(BASE, 15.0, 4)
    ours = variant_figures(
        OURS, 40.0, 4, slices={"kind": {"colour": SliceFigures(44.0, 3)}}, mIoU_spread=0.5, oIoU=38.0,
        difference=Difference(mean=25.0, low=20.0, high=29.0, p=0.01, better=3, worse=1, same=0),
    )  # fmt: skip
    base = replace(base, slices={"kind": {"colour": SliceFigures(14.0, 3)}})
    summary = make_summary(
        [base, ours],
        references=[Reference("floor: all objects", 10.0, 0.3, {}, 4), Reference("ceiling", 90.0, 0.5, {}, 4)],
        failures={"no_image": 2},
    )
    figures, table = run_figures(summary), ablation(summary).set_index("mIoU in %")["ours alpha=0.9"]
    for row, name in {"all": "mIoU", "threshold (oracle)": "threshold"}.items():
        assert float(table[row]) == figures[name]
    for row in ("kind = colour", "oIoU", "precision at IoU 0.5", "floor: all objects", "ceiling"):
        assert float(table[row]) == figures[row], row
    assert table["difference to baseline"].startswith("+25.0 [+20.0, +29.0]")
    assert [figures[f"difference to baseline{end}"] for end in ("", " low", " high", " p")] == [25.0, 20.0, 29.0, 0.01]
    assert (figures["spread over noise seeds"], figures["failed: no_image"]) == (0.5, 2)


def test_the_figures_of_a_sweep_are_flat(run):
    """A CSV file, TensorBoard and MLflow keep numbers and text; a dict would be lost there, or be a cell of braces."""
    folder, _ = run
    told = Told()
    track_sweep(collect(folder, {}), told)
    ((figures,),) = told.of("summary")
    (data,) = {name.partition("/")[0] for name in figures}
    assert figures[f"{data}/variant"] == "ours alpha=0.9" and figures[f"{data}/mIoU oracle"] == 40.0
    assert all(isinstance(value, str | float) for value in figures.values())


def test_a_run_of_several_alphas_has_its_own_curve_unless_a_sweeps_report_does(tmp_path):
    variants = [
        variant_figures(v, m, 2)
        for v, m in ((BASE, 15.0), (("ours", 0.5), 20.0), (("ours", 1.0), 30.0), (("other", 0.5), 25.0))
    ]
    summary = make_summary(variants)
    for alone in (True, False):
        told = Told()
        write_files(
            tmp_path,
            summary,
            [expression_row(v, "a", 0.1) for v in (BASE, ("ours", 0.5), ("ours", 1.0), ("other", 0.5))],
        )
        track_run(summary, {}, tmp_path, told, {}, alone)
        curves = [given for given in told.of("curve") if given[0] == "alpha_curve"]
        lines = {"ours": [20.0, 30.0], "other": [25.0, None]}
        assert curves == ([["alpha_curve", "alpha", "mIoU", [0.5, 1.0], lines]] if alone else [])


def test_nothing_is_read_where_nobody_is_told(run):
    folder, summary = run
    (folder / "expressions.jsonl").write_text("{torn}\n")
    track_run(summary, {}, folder, NoTracker(folder=folder), {})


def test_the_masks_of_a_picture_are_those_of_its_panels_and_read_back(tmp_path):
    truth = np.array([[True, False, False]])
    heat = np.array([[0.2, 0.4, 0.7]], np.float32)
    classes = np.array([[0, 3, 255]], np.uint8)
    panels = {
        "image": Panel("photo"),
        "ground truth": Panel("mask", truth, truth=truth),
        "ours": Panel("heat", heat, 0.4, truth),
        "no threshold": Panel("heat", heat),
        "classes": Panel("labels", classes, names={0: "background", 3: "cat", 5: "dog"}),
    }
    photo = Image.new("RGB", (3, 1), (200, 10, 10))
    shown, masks = read_masks(write_masks(tmp_path / "x.npz", photo, panel_masks(panels)))
    assert shown.size == (3, 1) and shown.getpixel((1, 0))[0] > 150
    assert {name: (mask.labels.tolist(), mask.names) for name, mask in masks.items()} == {
        "ground truth": ([[1, 0, 0]], {1: "ground truth"}),
        "ours": ([[0, 2, 2]], {2: "mask at 0.40"}),
        "classes": ([[0, 3, 255]], {3: "cat", 5: "dog", 255: "not scored"}),
    }
    _, large = read_masks(
        write_masks(tmp_path / "x.npz", photo.resize((1500, 960)), {"m": Mask(np.ones((960, 1500)), {})})
    )
    assert large["m"].labels.shape == (480, 750)
