"""The page of readings and edits: its tables from runs made by hand, its pictures pixel by pixel and from kept maps."""

import logging
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from attrbind_exp import config
from attrbind_exp.commands.matrices import (
    Kept,
    choose,
    draw_matrices,
    expression_matrix,
    read_kept,
    row_name,
    scored_by_all,
)
from attrbind_exp.commands.methods_page import write_page
from attrbind_exp.commands.sweep import write_results
from attrbind_exp.edits.variant import edits_label, split_reading
from attrbind_exp.paths import options
from attrbind_exp.reporting import by_reading, cost_plot, matrix, plots
from attrbind_exp.reporting.cost_plot import Point
from attrbind_exp.reporting.costs import Cost, read_costs
from attrbind_exp.reporting.maps import heat_colours
from attrbind_exp.reporting.matrix import Cell, Matrix
from attrbind_exp.reporting.methods_tables import beside, more_than_plain, read_compared, split_tables, thresholds
from attrbind_exp.reporting.paper_tables import Run, TableSpec, read_runs
from attrbind_exp.reporting.refined import PLAIN, by_refinement
from attrbind_exp.reporting.sentences import sentences
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.scoring.figures import Estimate, Reference
from attrbind_exp.scoring.references import PROPOSALS
from attrbind_exp.types import UserError
from tests.made_runs import expression_row, make_summary, variant_figures, write_files
from tests.test_command import composed, run

COST = '{"machine": "m", "command": "c", "readings": {"a": {"measured": 1.25, "counted": 1.5}}}'


def make_sweep(folder, scores, *others):
    """A finished sweep of a val and a test split, whose results are written: IoU of its expressions by variant.
    `others`: the same of further runs of each split, with their references and what was typed for them."""
    for split in ("val", "test"):
        make_run(folder / split, split, scores)
        for ious, references, typed in others:
            make_run(folder / f"{split} {typed}", split, ious, references=references, overrides=[typed])
    write_results(folder, TableSpec("T", figure="differences"), ["val", "test"], ["sweep=t"])


def make_run(folder, split, scores, **more):
    variants = [variant_figures((name, None), 100 * float(np.mean(ious)), len(ious)) for name, ious in scores.items()]
    rows = [expression_row((name, None), str(i), iou) for name, ious in scores.items() for i, iou in enumerate(ious)]
    summary = make_summary(variants, split=split, dataset=f"drawn {split}", model_name="m", **more)
    made = write_files(folder, summary, rows)
    (made / "config.yaml").write_text("dataset: {fraction: 0.05}\nheatmap: {a: {}}\n")


BOTH = {
    "baseline heatmap=a": [0.1, 0.2, 0.3, 0.4],
    "baseline heatmap=b": [0.3, 0.4, 0.5, 0.6],
    "merge heatmap=a": [0.1, 0.1, 0.1, 0.1],
    "merge heatmap=b": [0.9, 0.9, 0.9, 0.9],
}


@pytest.fixture
def outputs(tmp_path):
    """Sweeps of readings a and b under the baseline and merge; of edits under a alone; of costly and tuned ones."""
    folder = tmp_path / "outputs"
    make_sweep(folder / "methods" / "drawn_m", BOTH)
    make_sweep(folder / "edits" / "drawn_m", {"baseline": [0.2] * 4, "scale factor=2": [0.3] * 4})
    make_sweep(
        folder / "methods_costly" / "drawn_m", {"baseline heatmap=a": [0.2] * 4, "baseline heatmap=c": [0.7] * 4}
    )
    make_sweep(folder / "methods_tuned" / "drawn_m", {"baseline heatmap=a": [0.5] * 4, "merge heatmap=a": [0.8] * 4})
    return folder


def test_a_label_is_parted_into_edits_and_reading():
    assert split_reading("merge heatmap=daam") == ("merge", "daam")
    assert split_reading("scale factor=2 heatmap=iseg layers=up") == ("scale factor=2 layers=up", "iseg")
    assert split_reading("baseline") == ("baseline", None)


def test_the_short_tables_have_a_line_a_reading_and_a_line_an_edit(outputs):
    table = read_compared(outputs / "methods" / "drawn_m").table
    found = by_reading.readings(table, {"a": Cost(1.25, 1.5)})
    assert found["reading"].tolist() == ["b", "a"] and len(found.columns) <= 6
    assert found["mIoU"].tolist() == ["45.0 @0.30", "25.0 @0.30"]
    assert found["passes, measured"].tolist() == ["", "1.25"] and found["passes, counted"].tolist() == ["", "1.50"]
    counted = by_reading.readings(table, {"b": Cost(None, 21.08)})
    assert counted["passes, measured"].tolist() == ["not measured", ""]
    assert counted["passes, counted"].tolist() == ["21.08", ""]
    # b is 20 points above a in each of the four expressions, so its interval has no width.
    assert found["difference [95 %]"].tolist() == ["+20.0 [+20.0, +20.0] *", ""]
    edits = by_reading.edits(table)
    assert edits["edit"].tolist() == ["baseline", "merge"], "b's merge is another reading's"
    assert edits["better / worse / same"].tolist() == ["", "0 / 3 / 1"]


def test_the_whole_tables_hold_every_variant_of_every_split_in_six_columns(outputs):
    table = read_compared(outputs / "methods" / "drawn_m").table
    (val, first), (test, second) = split_tables(table)
    assert val == "val: 4 expressions, each at the threshold that is best here"
    assert test == "test: 4 expressions, thresholds chosen on another split"
    for text in (first, second):
        assert all(name in text for name in BOTH)
        assert {line.count("|") for line in text.splitlines()} == {7}


def test_tuned_constants_stand_beside_the_authors(outputs):
    tuned, authors = (read_compared(outputs / name / "drawn_m").table for name in ("methods_tuned", "methods"))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in beside(tuned, authors).splitlines()]
    assert lines[0][:3] == ["variant", "tuned", "authors' constants"]
    assert lines[2][:3] == ["baseline heatmap=a", "50.0 @0.30", "25.0 @0.30"]
    assert lines[3][:3] == ["merge heatmap=a", "80.0 @0.30", "10.0 @0.30"]
    tuned["variant"] += "_tuned_on_shapes"  # a reading that says what it was tuned on
    assert "| merge heatmap=a_tuned_on_shapes | 80.0 @0.30 | 10.0 @0.30" in " ".join(beside(tuned, authors).split())


REFINED = (
    {"baseline refine=guided_filter": [0.4] * 4, "merge refine=guided_filter": [0.9] * 4},
    {"baseline refine=refdiff_heat": [0.3] * 3, "merge refine=refdiff_heat": [0.1] * 3},
)
CEILINGS = [Reference("floor: all objects", 10.0, None, {}, 4), Reference(PROPOSALS, 77.5, None, {}, 3)]


def refined_sweep(folder):
    """Plain runs, filtered ones, and ones that chose among proposals, of which one expression had none."""
    plain = {"baseline": [0.2, 0.2, 0.2, 0.6], "merge": [0.5] * 4}
    filtered, chosen = REFINED
    others = (filtered, CEILINGS[:1], "refine=guided_filter"), (chosen, CEILINGS, "refine=refdiff_heat")
    make_sweep(folder, plain, *others)
    return read_compared(folder)


def test_each_refinement_has_a_table_of_its_own_behind_the_plain_one(tmp_path):
    """With its own baseline, references and Holm's correction; the ceiling of proposals where there were some."""
    parts = by_refinement(refined_sweep(tmp_path / "methods_refined" / "drawn_m").table)
    assert list(parts) == [None, "refine=guided_filter", "refine=refdiff_heat"]
    said = {kind: part[part["split"] == "test"]["variant"].tolist() for kind, part in parts.items()}
    assert said[None] == ["baseline", "merge"]
    assert said["refine=guided_filter"] == [*REFINED[0], "floor: all objects"]
    assert said["refine=refdiff_heat"] == [*REFINED[1], "floor: all objects", PROPOSALS]
    chosen = parts["refine=refdiff_heat"].iloc[-1]
    assert (chosen["variant"], chosen["mIoU held out"], chosen["n"]) == (PROPOSALS, 77.5, 3)
    differences = [part["difference held out"].dropna().tolist() for part in parts.values()]
    np.testing.assert_allclose(differences, [[20], [50], [-20]])  # of merge to the baseline refined alike
    text = (tmp_path / "methods_refined" / "drawn_m" / "results.md").read_text()
    heads = [f"**{name}**" for name in (PLAIN, "refine=guided_filter", "refine=refdiff_heat")]
    assert [text.count(head) for head in heads] == [1, 1, 1]
    assert text.index(heads[0]) < text.index("| merge ") < text.index(heads[1]) < text.index("| merge refine=guided")
    assert text.count("of so few, a 95 % interval") == 3, "notes are of each table"


def test_what_more_than_plain_is_the_difference_to_the_same_variant_as_it_was_read(tmp_path):
    """Over the expressions that both have: the last one, of IoU 0.6, has no proposals."""
    compared = refined_sweep(tmp_path / "methods_refined" / "drawn_m")
    found = more_than_plain(compared.all_last, thresholds(compared)).set_index("variant")
    assert found["better / worse / same"].to_dict() == {
        "baseline refine=guided_filter": "3 / 1 / 0",
        "merge refine=guided_filter": "4 / 0 / 0",
        "baseline refine=refdiff_heat": "3 / 0 / 0",
        "merge refine=refdiff_heat": "0 / 3 / 0",
    }
    means = [cell.split(" ")[0] for cell in found["more than plain [95 %]"]]
    assert means == ["+10.0", "+40.0", "+10.0", "-40.0"]


def test_what_a_step_adds_is_the_difference_to_the_same_variant_without_it(tmp_path):
    stepped = {"baseline + syngen x1 ratio=2": [0.3, 0.1, 0.5, 0.5], "merge + syngen x1 ratio=2": [0.5] * 4}
    others = [(stepped, CEILINGS[:1], "latent_steps=syngen_half")]
    make_sweep(tmp_path / "methods_steps" / "drawn_m", {"baseline": [0.2] * 4, "merge": [0.6] * 4}, *others)
    (file,) = write_page(tmp_path, tmp_path / "methods.md")
    section = file.read_text().partition("What a step adds")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    found = {line[0]: (line[1].split(" ")[0], line[2]) for line in lines[2:]}
    assert found == {
        "baseline + syngen x1 ratio=2": ("+15.0", "3 / 1 / 0"),
        "merge + syngen x1 ratio=2": ("-10.0", "0 / 4 / 0"),
    }


def test_refined_figures_have_a_section_and_no_row_among_readings(tmp_path, caplog):
    make_sweep(tmp_path / "methods" / "drawn_m", BOTH)
    refined_sweep(tmp_path / "methods_refined" / "drawn_m")
    with caplog.at_level(logging.WARNING):
        (file,) = write_page(tmp_path, tmp_path / "methods.md")
    page = file.read_text()
    before, section = page.split("## Refined heat maps\n")
    assert "refine=" not in before and "Readings" in before
    section, whole = section.split("## Whole tables")
    order = (
        PLAIN,
        "| merge ",
        "**refine=guided_filter, test: 4 expressions, thresholds chosen on another split**",
        "**refine=refdiff_heat, test: 3 expressions, thresholds chosen on another split**",
        PROPOSALS,
        "no trained",
        "more than",
    )
    places = [section.index(part) for part in order]
    assert places == sorted(places) and section.count(f"| {PROPOSALS}") == 1
    assert "(dataset.fraction=0.05; 4 expressions of test)" in section, "those of the plain maps"
    assert "at its own threshold, held out." in section and "**refine=refdiff_heat, test: 3 expressions" in whole
    assert caplog.text.count("no maps were kept") == 2 and "methods_refined_drawn_m.png" in whole


def test_thresholds_that_no_other_split_chose_are_not_called_held_out(tmp_path):
    folder = tmp_path / "methods_refined" / "drawn_m"
    make_run(folder / "plain", "test", {"baseline": [0.2] * 4})
    make_run(folder / "refined", "test", {"baseline refine=a": [0.3] * 4}, overrides=["refine=a"])
    write_results(folder, TableSpec("T", figure="differences"), ["test"], ["sweep=t"])
    page = write_page(tmp_path, tmp_path / "methods.md")[0].read_text()
    section = page.partition("## Refined heat maps\n")[2].partition("## Whole")[0]
    assert "**refine=a, test: 4 expressions, each at the threshold that is best here**" in section
    assert ", chosen on these very expressions" in section and "held out." not in section


def test_the_page_twice_is_the_same_and_says_how_to_get_pictures(outputs, tmp_path, caplog):
    pages = []
    for name in ("first", "second"):
        file = tmp_path / name / "methods.md"
        file.parent.mkdir()
        (file.parent / "readings-cost.json").write_text(COST)
        with caplog.at_level(logging.WARNING):
            assert write_page(outputs, file) == [file]
        pages.append({f.relative_to(file.parent): f.read_bytes() for f in file.parent.rglob("*") if f.is_file()})
    assert pages[0] == pages[1] and len(pages[0]) == 7
    assert "no maps were kept in" in caplog.text and "keep_maps=true" in caplog.text
    page = file.read_text()
    order = (
        "## Readings\n",
        "## Edits\n",
        "scale factor=2",
        "many passes\n",
        "constants tuned on val\n",
        "## Whole tables",
    )
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert page.count("(dataset.fraction=0.05; 4 expressions of test)") == 3, "readings, edits, costly"
    assert all(f"images/{f.name}" in page for f in (file.parent / "images").iterdir())


def test_runs_with_baselines_of_their_own_are_said_to_be_compared_with_these(tmp_path, monkeypatch):
    """As those of latent steps are, whose passes the cost of the reading does not hold either."""
    rows = [("baseline", None), ("merge", 2.0), ("baseline + syngen x1", None), ("merge + syngen x1", 1.0)]
    ends = {"low oracle": 0.5, "high oracle": 3.0, "p oracle": 0.01}
    table = pd.DataFrame([{"variant": v, "split": "test", "difference oracle": d, **ends} for v, d in rows])
    table.loc[table["difference oracle"].isna(), list(ends)] = np.nan
    assert "the difference to the first of the same run has" in sentences(table)[0]
    assert "against baseline" in sentences(table.iloc[:2])[0]
    kept = []
    monkeypatch.setattr(plots, "save_plot", lambda figure, axis, path, title, style: kept.append(axis.get_xlabel()))
    plots.differences(table, "t", "d", "m", tmp_path / "x.png")
    plots.differences(table.iloc[:2], "t", "d", "m", tmp_path / "x.png")
    assert kept == ["mIoU above the first of the same run, in points", "mIoU above that of baseline, in points"]


def test_no_sweep_and_no_table_say_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no sweep of edits, methods, .*make methods"):
        write_page(tmp_path, tmp_path / "x.md")
    (tmp_path / "methods" / "d").mkdir(parents=True)
    (tmp_path / "methods" / "d" / "results.md").write_text("## T")
    with pytest.raises(UserError, match=r"no results.csv in .*start the sweep's command again"):
        write_page(tmp_path, tmp_path / "x.md")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "does not hold the cost of readings"),
        (COST.replace('"counted"', '"counts"'), "missing required field `counted`"),
        (COST.replace("1.25", '"much"'), r"readings\[...\].measured"),
        (COST.replace("1.25", "0"), "says that a costs 0 passes"),
    ],
)
def test_a_file_of_costs_that_is_none_says_so(tmp_path, text, said):
    assert read_costs(tmp_path / "none.json") is None
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(UserError, match=f"cost.json' .*{said}.*benchmarks/readings.py --alone --out FILE"):
        read_costs(tmp_path / "cost.json")


def test_the_costs_in_docs_can_be_read():
    found = read_costs(config.CONF.parent / "docs" / "readings-cost.json")
    assert found is not None and found.readings["daam"].counted == 1
    assert found.readings["elbo"] == Cost(None, 21.08) and found.readings["elbo"].known == 21.08
    assert set(found.readings) == set(options("heatmap")) - {"tuned_on_shapes"}, "every reading has a cost"


def test_a_cost_that_was_only_counted_is_hollow_and_says_so(tmp_path, monkeypatch):
    """The plot of two readings, one measured: faces of their marks, and what the key says of each."""
    kept = []
    monkeypatch.setattr(cost_plot, "save_plot", lambda figure, axis, path, title, style: kept.append(axis) or path)
    found = Estimate(40.0, 30.0, 50.0, 9)
    points = {"a": Point(1.25, found), "b": Point(21.08, found, measured=False)}
    cost_plot.cost_plot(points, "m", tmp_path / "cost.png")
    handles, labels = kept[0].get_legend_handles_labels()
    assert labels == [
        "a: 40.0 [30.0, 50.0], 1.25 passes",
        "b: 40.0 [30.0, 50.0], 21.08 passes (counted, not measured)",
    ]
    assert [handle[0].get_markerfacecolor() == "white" for handle in handles] == [False, True]


def test_the_page_says_which_costs_were_counted(outputs, tmp_path):
    text = COST.replace("}}}", '}, "b": {"measured": null, "counted": 21.08}}}')
    (tmp_path / "readings-cost.json").write_text(text)
    (file,) = write_page(outputs, tmp_path / "methods.md")
    page = file.read_text()
    assert "not measured |           21.08 |" in page and "Hollow: counted, not measured." in page


def test_every_panel_of_a_matrix_stands_in_its_row_and_column():
    """Heats of 0.1, 0.4 and 0.9 without a mask at their thresholds, the fourth left out; the truth lies in a corner."""
    photo, truth = Image.new("RGB", (96, 96), (10, 200, 30)), np.zeros((96, 96), bool)
    truth[:20, :20] = True
    heats = {("a", "x"): 0.1, ("a", "y"): 0.4, ("b", "y"): 0.9}
    cells = {key: Cell(np.full((96, 96), value, np.float32), 0.95, 50.0) for key, value in heats.items()}
    drawn = np.asarray(matrix.draw(Matrix("t", photo, truth, ["a", "b"], ["x", "y"], cells)))
    for row, reading in enumerate("ab"):
        for column, edit in enumerate("xy"):
            left, top = matrix.place((96, 96), row, column)
            value = heats.get((reading, edit))
            wanted = [255] * 3 if value is None else heat_colours(np.array([[value]]))[0, 0].tolist()
            assert drawn[top + 60, left + 60].tolist() == wanted, (reading, edit)
    assert drawn[2 * matrix.LINE + 60, matrix.GAP + 60].tolist() == [10, 200, 30]


def test_the_middle_ones_of_twelve_equal_parts_are_shown():
    iou = pd.Series({str(number): float(number) for number in range(36)})
    assert choose(iou[::-1]) == [str(3 * part + 1) for part in range(12)]
    assert choose(pd.Series({"b": 0.0, "a": 0.0, "c": -1.0})) == ["c", "a", "b"]


def test_the_file_keeps_the_colours_of_small_shapes(tmp_path):
    """Beside a heat map of all colours and a photo of greys, a dot of red is as red as it was drawn."""
    greys = np.random.default_rng(0).integers(60, 160, (96, 96, 1), np.uint8).repeat(3, 2)
    greys[40:46, 40:46] = (230, 20, 10)
    heat = np.linspace(0, 1, 96 * 96, dtype=np.float32).reshape(96, 96)
    shown = Matrix("t", Image.fromarray(greys), heat > 0.5, ["a"], ["x"], {("a", "x"): Cell(heat, 0.5, 50.0)})
    drawn = np.asarray(matrix.draw(shown), int)
    written = np.asarray(Image.open(matrix.write(shown, tmp_path / "m.png")).convert("RGB"), int)
    assert np.abs(written - drawn).max() <= 12


def test_a_row_of_a_matrix_has_as_many_lines_as_its_name():
    photo = Image.new("RGB", (96, 96))
    one, two = (
        np.asarray(matrix.draw(Matrix("t", photo, np.zeros((96, 96), bool), [name], ["x"], {})))
        for name in ("daam", "daam\n+ syngen x1")
    )
    left, top = matrix.corner((96, 96))
    assert [(np.diff((page[top:, :left] < 128).any((1, 2)).astype(int)) == 1).sum() for page in (one, two)] == [1, 2]


def test_kept_maps_make_the_masks_that_were_scored(tmp_path):
    """Of real runs: each cell's heat, cut at its threshold, has the IoU of the variant's own row; rows say what was
    read, stepped on and refined."""
    pytest.importorskip("cv2")
    typed = ("keep_maps=true", "text_processor=paper", "text_blind=false", "dataset.limit=3")
    run(tmp_path / "a", *typed, "heatmap=[diffsegmenter,daam]")
    run(tmp_path / "b", *typed, "latent_steps=syngen")
    run(tmp_path / "c", *typed, "refine=guided_filter")
    found = read_runs(tmp_path)
    assert found[0] == Run(tmp_path / "a", read_summary(tmp_path / "a"))
    at = {v.label: 0.45 for one in found for v in one.summary.variants}
    first = draw_matrices(found, at, tmp_path / "first")
    assert [drawn.file.name for drawn in first] == ["first_01.png", "first_02.png", "first_03.png"]
    second = draw_matrices(found, at, tmp_path / "second")
    assert [d.file.read_bytes() for d in first] == [d.file.read_bytes() for d in second]
    kept, sample = [read_kept(one, at) for one in found], first[0].sample
    drawn = expression_matrix(kept, sample, dict.fromkeys(at, (0.45, 0.0)))
    rows = ["diffsegmenter", "daam", "diffsegmenter\n+ syngen x1", "diffsegmenter\nrefine=guided_filter"]
    assert (drawn.readings, drawn.edits) == (rows, ["baseline", "attribute_binding alpha=0.9"])
    checked = set()
    for one in kept:
        scored = {(r.sample_id, r.text_processor, r.alpha): r.iou_at for _, p in read_images(one.folder) for r in p}
        for variant in one.variants:
            place = row_name(variant, "diffsegmenter"), edits_label(variant.edits)
            mask = drawn.cells[place].heat >= np.float32(0.45)
            iou = (mask & drawn.truth).sum() / (mask | drawn.truth).sum()
            assert iou == pytest.approx(scored[sample.sample_id, variant.name, variant.alpha]["0.45"], abs=0.01)
            checked.add(place)
    assert checked == set(drawn.cells) and len(checked) == 8
    heats = [drawn.cells[row, "baseline"].heat for row in rows]
    assert all((one != other).any() for one, other in combinations(heats, 2))


def test_runs_of_several_seeds_have_no_pictures_and_say_why(tmp_path, caplog):
    """Tables call their variants "baseline · seed=1", so that no variant has one threshold."""
    other = (BOTH, (), "seed=1")
    make_sweep(tmp_path / "methods" / "drawn_m", BOTH, other)
    for made in read_runs(tmp_path):
        (made.folder / "maps").mkdir()
        (made.folder / "config.yaml").write_text(OmegaConf.to_yaml(composed("dataset.limit=3"), resolve=True))
    with caplog.at_level(logging.WARNING):
        (file,) = write_page(tmp_path, tmp_path / "methods.md")
    assert "several runs measured the same variants" in caplog.text and "· seed=1" in file.read_text()


def test_an_expression_that_one_run_could_not_score_is_not_chosen(tmp_path):
    """As where an image has no proposals: the matrix would lack a row."""
    at = {"baseline": 0.5, "baseline refine=refdiff_heat": 0.5}
    for name, ids in zip(at, ("012", "02"), strict=True):
        part = pd.DataFrame({"sample_id": list(ids), "0.50": 0.25}).set_index("sample_id")["0.50"]
        at[name] = Kept(tmp_path, None, [], {name: part})
    assert scored_by_all(list(at.values())) == {"0", "2"}
