"""attrbind score: another system's predictions through the rows, figures and page of our own runs."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from attrbind_exp.commands.finish import leave_masks
from attrbind_exp.commands.score import run_settings
from attrbind_exp.config import read_config, read_settings, score_settings
from attrbind_exp.edits import Variant
from attrbind_exp.edits.variant import find_shorter, is_ours
from attrbind_exp.reporting.gallery import shown_variants
from attrbind_exp.reporting.html.collect import collect
from attrbind_exp.reporting.html.draw import draw_settings
from attrbind_exp.reporting.html.slices import binding_rows
from attrbind_exp.reporting.paper_figures import write_figure
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.types import UserError
from tests.conftest import make_variant
from tests.test_command import command, composed

DATA = ["dataset.limit=12"]
OURS = "attribute_binding alpha=0.9"


def run_ours(folder):
    typed = [
        "text_processor=paper",
        "threshold=0.5",
        "tracker=none",
        "batch_size=8",
        "cache.folder=null",
        "gallery=2",
        "changed=0",
    ]
    code, _, err = command(*DATA, *typed, "save_masks=rle", f"hydra.run.dir={folder}")
    assert code == 0, err


def score(folder, predictions, *typed):
    """What a scoring says, and its rows."""
    code, out, err = command(*DATA, f"predictions={predictions}", f"hydra.run.dir={folder}", *typed, module="score")
    assert code == 0, err
    return out, err, rows_of(folder)


def rows_of(folder, name=None):
    rows = [row for _, found in read_images(folder) for row in found]
    return {row.sample_id: row for row in rows if name is None or (row.text_processor, row.alpha) == name}


@pytest.fixture(scope="module")
def side(tmp_path_factory):
    """A folder with our own run, which left its masks in every form, and its masks scored as another system's."""
    folder = tmp_path_factory.mktemp("side")
    run_ours(folder / "ours")
    settings = read_settings(read_config(folder / "ours"))
    for form in ("png", "npz"):  # of the heat that is there
        kept = replace(settings.run, save_masks=form)
        leave_masks(folder / "ours", settings.load_dataset(), kept, read_summary(folder / "ours"))
    masks = folder / "ours" / "masks"
    score(folder / "peer", masks / "rle" / f"{OURS}.json", "name=peer", "gallery=2")
    score(folder / "png", masks / "png", f"variant={OURS}", "name=png", "gallery=0")
    score(folder / "npz", masks / "npz", f"variant={OURS}", "name=npz", "threshold=0.5", "gallery=0")
    return folder


def head(folder):
    return next(v for v in read_summary(folder / "ours").variants if v.label == OURS)


@pytest.mark.parametrize("form", ["peer", "png", "npz"])
def test_our_own_masks_score_what_the_run_scored(side, form):
    ours, theirs = rows_of(side / "ours", (head(side).text_processor, 0.9)), rows_of(side / form)
    assert len(ours) == len(theirs) == 12 and list(ours) == list(theirs)
    found, own = read_summary(side / form), head(side)
    assert (found.mIoU, found.threshold, found.n_scored) == (own.mIoU, 0.5, 12)
    assert (found.head.oIoU, found.head.precision) == (own.oIoU, own.precision)
    assert {k: {n: s.mIoU for n, s in v.items()} for k, v in found.head.slices.items()} == {
        k: {n: s.mIoU for n, s in v.items()} for k, v in own.slices.items()
    }
    for name, row in theirs.items():
        # A mask is the same at every threshold but 0; levels are what every threshold counted.
        wanted = [ours[name].intersection[50]] * 100 if form != "npz" else ours[name].intersection[1:]
        assert row.intersection[1:] == wanted and row.iou_at["0.50"] == ours[name].iou_at["0.50"]
        assert (row.target, row.chunk, row.slices, row.expression) == (
            ours[name].target, ours[name].chunk, ours[name].slices, ours[name].expression,
        )  # fmt: skip
        assert (row.annotation_digest, row.picture_digest) == (ours[name].annotation_digest, ours[name].picture_digest)
        if form == "npz":
            assert row.union == ours[name].union  # at 0 both are the whole picture
            assert all(abs(row.heat_on[k] - ours[name].heat_on[k]) <= 0.01 for k in ours[name].heat_on)
        else:
            assert row.peak is row.heat_on is None  # a mask has no highest place
    floors = {r.name: r.mIoU for r in read_summary(side / "ours").references}
    assert {r.name: r.mIoU for r in found.references} == {k: v for k, v in floors.items() if k.startswith("floor")}


def test_the_report_stands_them_side_by_side_with_paired_differences(side, tmp_path):
    folder = tmp_path / "both"
    for name in ("ours", "peer"):
        shutil.copytree(side / name, folder / name)
    code, _, err = command(str(folder), module="report")
    assert code == 0, err
    measured = collect(folder, {})
    (group,) = measured.groups
    table = measured.results.set_index("variant")
    assert [c.label for c in group.columns] == list(table.index) == ["baseline", OURS, "text_blind", "peer"]
    keys = ["difference oracle", "low oracle", "high oracle", "better", "worse", "same"]
    keys = [key for key in keys if key in table]
    assert len(keys) == 6 and table.loc["peer", keys].tolist() == pytest.approx(table.loc[OURS, keys].tolist())
    (expressions,) = measured.tables
    assert np.array_equal(expressions.iou[:, 1], expressions.iou[:, 3]) and expressions.iou.shape == (12, 4)
    page = (folder / "report.html").read_text()
    shown = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert [set(p["panels"]) for p in shown["pictures"]] == [{"image", "ground truth", "baseline", OURS, "peer"}] * 2
    assert "python -m attrbind_exp.score dataset.limit=12" in page
    heat = [(row.label, [cell.text for cell in row.cells]) for row in binding_rows(group)]
    assert heat[0][0] == "peak on target" and heat[0][1][3] == "-" and "-" not in heat[0][1][:3]  # masks have no peak
    assert [len(cells) for _, cells in heat] == [4] * len(heat)
    (line,) = [line for line in write_figure(measured, "results", "tex").read_text().splitlines() if line[:4] == "peer"]
    mean = table.loc["peer", "difference oracle"]
    assert re.search(rf"{abs(mean):.1f} \[", line)  # for a paper as on the page
    alone = (folder / "peer" / "report.html").read_text()
    assert "threshold 0.50, the same at any" in alone and " %, with no ceiling beside it" in alone
    assert draw_settings(read_summary(folder / "peer"), 0.5) == ""


def results(side, keep):
    """Results of our own run of which `keep` are kept, in place or with ids of nobody."""
    found = json.loads((side / "ours" / "masks" / "rle" / f"{OURS}.json").read_text())
    return found[:keep]


def test_what_has_no_prediction_is_counted_and_what_nobody_knows_is_named(side, tmp_path):
    some = results(side, 9) + [{**r, "sample_id": f"no:{i}"} for i, r in enumerate(results(side, 7))]
    some[0] = {**some[0], "segmentation": {"size": [2, 3], "counts": [6]}}
    (tmp_path / "some.json").write_text(json.dumps(some))
    out, err, rows = score(tmp_path / "fail", tmp_path / "some.json", "gallery=1")
    summary = read_summary(tmp_path / "fail")
    assert summary.failures == {"mask_size": 1, "no_prediction": 3} and summary.n_scored == len(rows) == 8
    assert (
        "8 expressions scored, 4 failed" in out
        and "NOTE: some: 3 of 12 expressions have no prediction; they failed" in out
    )
    assert (
        "WARNING: 7 of 16 predictions name no expression of shapes" in err
        and "no:0, no:1, no:2, no:3, no:4 and 2 more" in err
    )
    listed = [json.loads(line) for line in (tmp_path / "fail" / "failures.jsonl").read_text().splitlines()]
    assert [f["reason"] for f in listed] == ["mask_size"] + ["no_prediction"] * 3 and "(2, 3)" in listed[0]["message"]
    out, _, rows = score(tmp_path / "empty", tmp_path / "some.json", "missing=empty", "gallery=0")
    assert read_summary(tmp_path / "empty").failures == {"mask_size": 1} and len(rows) == 11
    assert "3 of 12 expressions have no prediction; they are scored as empty masks" in out
    lacking = list(rows.values())[-3:]
    assert all(r.intersection[50] == 0 and r.union[50] > 0 and r.iou_at["0.30"] == 0 for r in lacking)
    ours = read_summary(tmp_path / "fail").mIoU
    assert read_summary(tmp_path / "empty").mIoU == pytest.approx(ours * 8 / 11)


def test_a_scoring_goes_on_and_is_not_mixed_with_other_predictions(side, tmp_path):
    file = tmp_path / "peer.json"
    file.write_text(json.dumps(results(side, 12)))
    score(tmp_path / "whole", file, "gallery=0")
    whole = (tmp_path / "whole" / "expressions.jsonl").read_bytes()
    cut = whole.splitlines(keepends=True)
    (tmp_path / "whole" / "expressions.jsonl").write_bytes(b"".join(cut[:9]) + cut[9][:40])
    (tmp_path / "whole" / "summary.json").unlink()
    before = file.read_text()
    file.write_text(json.dumps(results(side, 11)))
    typed = [*DATA, f"predictions={file}", "gallery=0", f"hydra.run.dir={tmp_path / 'whole'}"]
    code, _, err = command(*typed, module="score")
    assert code == 2 and "cannot go on: weights" in err and len(err.splitlines()) == 1
    file.write_text(before)
    assert command(*typed, module="score")[0] == 0
    assert (tmp_path / "whole" / "expressions.jsonl").read_bytes() == whole
    file.write_text(json.dumps(results(side, 11)))
    code, _, err = command(*typed, module="score")
    assert code == 2 and "was finished with other predictions" in err
    file.write_text(before)
    code, out, _ = command(*[t.replace("gallery=0", "gallery=1") for t in typed], module="score")
    assert (
        code == 0
        and "pictures, page made again" in out
        and (tmp_path / "whole" / "gallery" / "gallery_000.png").is_file()
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "no predictions given"), (["predictions=x.json"], "'x.json' is not there"), (["predictions=x", "name=baseline"], "name='baseline' is what"),
        (["predictions=masks", "variant=noun_chunk"], "name='noun_chunk' is what"), (["predictions=x.json", "missing=none"], "missing='none'; choose from fail, empty"),
        (["predictions=a.json", "dataset=shapes_classes"], "score takes expressions"), (["predictions=a.json", "threshold=0.005"], "threshold=0.005"),
        (["predictions=a.json"], "names an expression of shapes test: there are 0:0; an id here is 201:536"), (["alpha=0.9"], "no key 'alpha'"),
        (["masks.json"], "'masks.json' is no KEY=VALUE, which is all that score takes; see attrbind score --help"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_one_line(tmp_path, typed, said):
    (tmp_path / "a.json").write_text('[{"sample_id": "0:0", "segmentation": []}]')
    code, _, err = command(*DATA, *typed, module="score", cwd=tmp_path)
    assert code == 2 and said in err and len(err.splitlines()) == 1, err


def test_heat_on_another_scale_ends_the_command(tmp_path):
    np.savez(tmp_path / "logits.npz", **{"536": np.full((8, 8), 3.0)})
    code, _, err = command(*DATA, "predictions=logits.npz", module="score", cwd=tmp_path)
    assert code == 2 and err.startswith("error: the heat map of '536' runs from 3 to 3") and len(err.splitlines()) == 1


def test_a_scoring_is_not_rescored(side):
    code, _, err = command(str(side / "peer"), "threshold=0.4", module="rescore")
    assert code == 2 and "holds another system's masks, scored; score them again" in err and len(err.splitlines()) == 1


def test_a_system_is_a_variant_of_its_own_that_edits_nothing():
    lavt = Variant("LAVT", system="LAVT")
    assert (lavt.name, lavt.label, lavt.alpha) == ("LAVT", "LAVT", None)
    assert find_shorter([make_variant("a", True), lavt, make_variant("b", True, 0.9)]) == [None, None, 0]
    assert not is_ours(lavt.label) and is_ours("baseline") and is_ours(make_variant("a", True, 0.5).label)
    settings = score_settings(composed("predictions=a.json", "name=LAVT", "threshold=0.35", name="score"))
    masks, heat = run_settings(settings, masks=True), run_settings(settings, masks=False)
    assert (masks.threshold, heat.threshold, masks.peaks, heat.peaks) == (0.5, 0.35, False, True)
    assert shown_variants(masks) == [lavt]


def test_the_name_is_the_files_where_none_is_given():
    name = lambda *typed: score_settings(composed(*typed, name="score")).system  # noqa: E731
    assert name("predictions=out/LAVT results.json") == "LAVT results"
    assert name("predictions=RUN/masks/png", "variant=mine  alpha=2") == "mine alpha=2"
    with pytest.raises(UserError, match="name=NAME"):
        name("predictions=RUN/masks/rle/attribute_binding alpha=0.9.json")
