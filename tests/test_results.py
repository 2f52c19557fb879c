"""Tables of the paper from runs made by hand; a sweep file run to its end."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attrbind_exp import config
from attrbind_exp.commands.sweep import write_results
from attrbind_exp.config import SWEEPS
from attrbind_exp.reporting.paper_tables import (
    Run,
    TableSpec,
    beside_paper,
    leading,
    paper_table,
    read_runs,
    read_spec,
    tell_apart,
)
from attrbind_exp.reporting.readable_tables import readable, table_page
from attrbind_exp.reporting.references import NAMES
from attrbind_exp.reporting.sentences import sentences
from attrbind_exp.runs.index import Launched, Merged
from attrbind_exp.scoring.figures import Difference
from attrbind_exp.scoring.metrics import GRID, key
from attrbind_exp.types import UserError
from tests.made_runs import expression_row, make_summary, variant_figures, write_files
from tests.test_command import command, composed, process

SPEC = TableSpec("Table", {"baseline": (0.5, 22.4), "ours alpha=0.9": (0.5, 23.0)}, {"ReCo": 15.7})


def write_run(folder, split, scores, told=None):
    """A finished run of two variants; `scores[variant]` is the IoU of each expression as a function of the threshold."""
    variants, rows = [], []
    for variant, functions in scores.items():
        at = {key(k): 100 * float(np.mean([f(k / 100) for f in functions])) for k in GRID}
        variants.append(variant_figures(variant, at, len(functions), oIoU=50.0))
        for i, f in enumerate(functions):
            rows.append(expression_row(variant, str(i), {key(k): f(k / 100) for k in GRID}, image_id=str(i // 2)))
    write_files(folder, make_summary(variants, **{"split": split, "dataset": f"refcoco {split}", **(told or {})}), rows)


@pytest.fixture
def runs(tmp_path):
    """On val the baseline is best at 0.40 and ours at 0.60; on test each is best elsewhere."""

    def peak(at, top):
        return lambda t: top - abs(t - at)

    base, ours = ("baseline", None), ("ours", 0.9)
    write_run(tmp_path / "z", "val", {base: [peak(0.4, 0.5)] * 4, ours: [peak(0.6, 0.6)] * 4})
    write_run(tmp_path / "a", "test", {base: [peak(0.5, 0.5)] * 4, ours: [peak(0.5, t) for t in (0.7, 0.7, 0.5, 0.4)]})
    return read_runs(tmp_path, ["val", "test"])


def test_thresholds_are_chosen_on_val_and_applied_to_test(runs):
    assert [r.split for r in runs] == ["val", "test"]
    table = paper_table(runs, SPEC, "val").set_index(["split", "variant"])
    base, ours = table.loc["test", "baseline"], table.loc["test", "ours alpha=0.9"]
    assert (base["threshold oracle"], base["mIoU oracle"]) == (0.5, pytest.approx(50))
    assert (base["threshold held out"], base["mIoU held out"]) == (0.4, pytest.approx(40))
    assert (ours["threshold held out"], ours["mIoU held out"]) == (0.6, pytest.approx(47.5))
    assert ours["difference held out"] == pytest.approx(7.5)
    assert (ours["better"], ours["worse"], ours["same"], ours["counted at"]) == (2, 1, 1, 0.4)
    # Two images, one gains 20 points and one loses 5: 12.5 root 2, times t's quantile with one degree of freedom.
    half = 12.706205 * 12.5 * np.sqrt(2)
    assert (ours["low held out"], ours["high held out"]) == pytest.approx((7.5 - half, 7.5 + half))
    assert ours["p held out"] == pytest.approx(1 - 2 / np.pi * np.arctan(7.5 / 12.5 / np.sqrt(2)))
    assert (base["paper"], base["paper threshold"], base["n"]) == (22.4, 0.5, 4)
    assert pd.isna(table.loc["val", "baseline"]["mIoU held out"])


def test_the_readable_table_shows_the_paper_and_its_rivals(runs):
    shown = readable(paper_table(runs, SPEC, "val"), SPEC).set_index(["split", "variant"])
    assert shown.loc["test", "ours alpha=0.9"].to_dict() == {
        "n": "4", "paper": "23.0 @0.50", "at 0.50": "57.5", "held out": "47.5 @0.60", "oracle": "57.5 @0.50", "oIoU": "50.0",
        "difference held out [95 %]": "+7.5 [-217.1, +232.1]", "better / worse / same": "2 / 1 / 1 @0.40",
    }  # fmt: skip
    assert shown.loc["", "ReCo"]["paper"] == "15.7" and shown.loc["", "ReCo"]["oracle"] == ""


def test_equal_maps_are_the_same_whatever_the_thresholds(tmp_path):
    """On val the baseline is best at 0.40 and ours at 0.60. On test the first two expressions have equal maps, which
    have twice the IoU at 0.60; the third is better at 0.40, where it is counted, and worse at 0.60."""
    base, ours = ("baseline", None), ("ours", 0.9)
    write_run(tmp_path / "v", "val", {base: [lambda t: 1 - abs(t - 0.4)] * 3, ours: [lambda t: 1 - abs(t - 0.6)] * 3})
    equal, other = [lambda t: max(0.0, 0.5 * t)] * 2, (lambda t: 0.4, lambda t: 0.9 - t)
    write_run(tmp_path / "t", "test", {base: [*equal, other[0]], ours: [*equal, other[1]]})
    table = paper_table(read_runs(tmp_path, ["val", "test"]), TableSpec(), "val").set_index(["split", "variant"])
    row = table.loc["test", "ours alpha=0.9"]
    assert (row["better"], row["worse"], row["same"], row["counted at"]) == (1, 0, 2, 0.4)
    # The difference is between thresholds: 0.1 for each equal map, and 0.3 - 0.4.
    assert row["difference held out"] == pytest.approx(100 * (0.1 + 0.1 - 0.1) / 3)


def test_held_out_differences_stand_before_oracle_ones(tmp_path):
    base, ours = ("baseline", None), ("ours", 0.9)
    write_run(tmp_path / "v", "val", {base: [lambda t: 0.1] * 4, ours: [lambda t: 0.2] * 4})
    write_run(tmp_path / "t", "test", {base: [lambda t: 0.1] * 4, ours: [lambda t: 0.3 - t / 10] * 4})
    runs = read_runs(tmp_path, ["val", "test"])
    entries = runs[1].summary.variants
    oracle = replace(entries[1], difference=Difference(17.5, 15.0, 19.0, 4, 0, 0))
    runs[1] = Run(runs[1].folder, msgspec.structs.replace(runs[1].summary, variants=[entries[0], oracle]))
    table = paper_table(runs, SPEC, "val")
    shown = readable(table, SPEC)
    names = list(shown)
    assert names.index("held out") + 1 == names.index("oracle")
    assert names.index("difference held out [95 %]") + 1 == names.index("difference oracle [95 %]")
    row = shown.set_index(["split", "variant"]).loc["test", "ours alpha=0.9"]
    assert row["difference held out [95 %]"].startswith("+17.0") and row["difference oracle [95 %]"].startswith("+17.5")
    last = table.to_dict("records")[-1]
    assert leading(last, "difference") == pytest.approx(17) and leading({"low oracle": 3.0}, "low") == 3


def test_a_sweep_over_seeds_names_them_and_each_seed_chooses_its_own_thresholds(tmp_path):
    """No two rows of a split under one label; no validation run is held out by another one's thresholds."""
    base, ours = ("baseline", None), ("ours", 0.9)
    for seed, best in ((0, 0.4), (1, 0.6)):
        peak = [lambda t, best=best: 0.5 - abs(t - best)] * 4
        for split in ("val", "test"):
            typed = {"overrides": [f"seed={seed}", f"dataset.split={split}", "tracker=none"]}
            write_run(tmp_path / f"{split}{seed}", split, {base: peak, ours: peak}, typed)
    runs = read_runs(tmp_path, ["val", "test"])
    plain = paper_table(runs, SPEC, "val")
    assert plain["threshold held out"].fillna(0).tolist() == [0, 0, 0, 0, 0.4, 0.4, 0.6, 0.6]
    told = tell_apart(plain, runs)["variant"].tolist()
    assert told == [f"{name} · seed={seed}" for seed in (0, 1) for name in ("baseline", "ours alpha=0.9")] * 2
    write_results(tmp_path, SPEC, ["val", "test"], [])
    page = (tmp_path / "results.md").read_text()
    assert "| ours alpha=0.9 · seed=1 |" in page and "data refcoco val, refcoco test; 0 failed" in page
    alone = [run for run in runs if "seed=0" in run.summary.overrides]
    assert tell_apart(paper_table(alone, SPEC, "val"), alone)["variant"].tolist() == ["baseline", "ours alpha=0.9"] * 2


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({}, True),
        ({"model_name": "bundled"}, False),
        ({"dataset": "refcoco+ testA"}, False),
        ({"dataset": "shapes test"}, False),
        ({"dataset": "data val2014", "split": "val2014", "scored": "images"}, True),
        ({"dataset": "data val2017", "split": "val2017", "scored": "images"}, False),
    ],
)
def test_the_papers_figures_stand_beside_its_data_and_stable_diffusion_alone(tmp_path, told, shown):
    write_run(tmp_path, "testA", {("baseline", None): [lambda t: 0.1], ("ours", 0.9): [lambda t: 0.2]}, told)
    runs = read_runs(tmp_path)
    table, beside = paper_table(runs, SPEC, None), beside_paper(runs, SPEC)
    text = readable(table, beside)
    assert (22.4 in table["paper"].tolist()) == ("paper" in text) == ("ReCo" in text["variant"].tolist()) == shown
    write_results(tmp_path, SPEC, ["testA"], [])
    assert ("section 6" in (tmp_path / "results.md").read_text()) != shown


def compared(variant, split, **ps):
    """A row of a table, with p of each kind of threshold."""
    found = dict.fromkeys(("n", "paper", "paper threshold", "spread", "oIoU", "mIoU at 0.50"), 0)
    for kind, p in ps.items():
        kind = kind.replace("_", " ")
        found |= {f"difference {kind}": 2.0, f"low {kind}": 1.0, f"high {kind}": 3.0, f"p {kind}": p}
    kinds = {f"{name} {kind}": 1.0 for name in ("mIoU", "threshold") for kind in ("held out", "oracle")}
    return {"variant": variant, "split": split, **kinds, **found}


def test_marks_stand_where_holm_says_over_all_rows_each_once():
    """Four comparisons; of the held-out rows p of oracle thresholds counts nowhere. 0.01 <= 0.05 / 4, 0.015 <= 0.05 / 3,
    0.03 > 0.05 / 2. By themselves the two of test would both survive."""
    table = pd.DataFrame(
        [
            compared("baseline", "val"), compared("a", "val", oracle=0.01), compared("b", "val", oracle=0.2),
            compared("baseline", "test"), compared("a", "test", held_out=0.03, oracle=0.001),
            compared("b", "test", held_out=0.015, oracle=0.9),
        ]
    )  # fmt: skip
    shown = readable(table, TableSpec())
    assert shown["difference held out [95 %]"].tolist() == ["", "", "", "", "+2.0 [+1.0, +3.0]", "+2.0 [+1.0, +3.0] *"]
    oracle = ["", "+2.0 [+1.0, +3.0] *", *["+2.0 [+1.0, +3.0]"] * 3]
    assert [cell for cell in shown["difference oracle [95 %]"] if cell] == oracle[1:]
    assert table_page(table, TableSpec()).endswith(
        "\n\n*: survives Holm's correction over the 4 comparisons of this table"
    )
    said = sentences(table)
    assert ["1 of 2 survive Holm's correction over the table's 4 comparisons" in s for s in said] == [True, True]
    earlier = sentences(table.assign(**{"p oracle": None}))  # val comes from a summary without p
    assert "Holm" not in earlier[0] and "2 of 2 survive Holm's correction over the table's 2" in earlier[1]
    one = table[table.variant != "b"].iloc[2:]
    assert "*" not in table_page(one, TableSpec()) and "Holm" not in sentences(one)[0]  # nothing to correct for


def test_the_sentence_of_a_table_says_its_figures():
    def row(split, variant, *held, kind="held out"):
        return {
            "split": split,
            "variant": variant,
            **dict(zip((f"{x} {kind}" for x in ("difference", "low", "high")), held)),
        }

    table = pd.DataFrame(
        [
            row("val", "baseline"), row("val", "a", 2.0, 1.0, 3.0, kind="oracle"),
            row("test", "baseline"), row("test", "a", 1.0, 0.5, 1.5), row("test", "b", -2.0, -3.0, -1.0),
            row("test", "c", 0.2, -0.1, 0.5), row("test", "d", -0.3, -0.6, -0.1),
        ]
    )  # fmt: skip
    assert sentences(table) == [
        "On val, at oracle thresholds, a +2.0 [+1.0, +3.0] against baseline.",
        "On test, at held-out thresholds, of 4 variants the difference to baseline has an interval above zero for 1, below it "
        "for 2, across it for 1; the highest is a +1.0 [+0.5, +1.5], the lowest b -2.0 [-3.0, -1.0].",
    ]
    assert sentences(table[table.variant == "baseline"]) == []


def write_sweep(folder, launched, merged=()):
    """sweep.json of a sweep that launched runs in these folders, and merged some of them."""
    runs = [vars(Launched(name, str(folder / name), "", "done")) for name in launched]
    whole = [vars(Merged(str(folder / to), [str(folder / shard) for shard in shards])) for to, shards in merged]
    (folder / "sweep.json").write_text(json.dumps({"runs": runs, "merged": whole}))


def test_a_sweep_takes_its_own_runs_only(tmp_path, runs):
    """A run rescored in the folder of another has a better threshold on val; it chooses none and stands in no table."""
    write_run(tmp_path / "z" / "rescored" / "x", "val", {("baseline", None): [lambda t: t] * 4})
    write_run(tmp_path / "s0", "test", {("baseline", None): [lambda t: t] * 4})
    write_run(tmp_path / "merged", "test", {("baseline", None): [lambda t: t] * 4})
    assert len(read_runs(tmp_path)) == 5
    write_sweep(tmp_path, ["z", "a"])
    found = read_runs(tmp_path, ["val", "test"])
    assert [r.folder.name for r in found] == ["z", "a"]
    assert paper_table(found, SPEC, "val").equals(paper_table(runs, SPEC, "val"))
    write_sweep(tmp_path, ["z", "a", "s0"], [("merged", ["s0"])])
    assert {r.folder.name for r in read_runs(tmp_path)} == {"z", "a", "merged"}
    write_sweep(tmp_path, ["other"])
    with pytest.raises(UserError, match="no run of the sweep"):
        read_runs(tmp_path)


def test_a_table_that_makes_no_sense_is_named():
    assert read_spec({"title": "T", "name": "t", "paper": None}) == TableSpec("T")
    with pytest.raises(UserError, match="describes no table"):
        read_spec({"paper": {"baseline": 22.4}})


def test_a_folder_without_runs_says_so(tmp_path):
    with pytest.raises(UserError, match="no finished run below"):
        read_runs(tmp_path)


@pytest.mark.parametrize("sweep", sorted(f.stem for f in SWEEPS.glob("*.yaml")))
def test_every_sweep_composes_and_says_what_it_is(sweep):
    head = (SWEEPS / f"{sweep}.yaml").read_text()
    assert f"attrbind_exp.run sweep={sweep}" in head and "Cost:" in head and "expect" in head.lower()
    for data in ((), ("dataset=shapes", "model=bundled")):
        cfg = composed(f"sweep={sweep}", *data)
        assert cfg.model.name == (
            "bundled" if data or sweep.startswith(("binding", "tune", "methods_tuned")) else "sd15"
        )
        labels = {variant.label for variant in config.variants(cfg)[0]}
        assert set((cfg.report or {}).get("paper", {})) <= labels


def test_a_sweep_file_makes_its_table_and_figure(tmp_path):
    code, out, err = command(
        "sweep=table2_refcoco", "dataset=shapes", "model=bundled", "tracker=none", "dataset.limit=6", "gallery=0", "changed=1",
        "seeds=2", cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, err
    folder = tmp_path / "outputs" / "table2_refcoco" / "shapes_bundled"
    assert out.strip().splitlines()[-1] == str(folder.relative_to(tmp_path))
    table = pd.read_csv(folder / "results.csv")
    names = ["baseline", "attribute_binding alpha=0.9", "text_blind", *NAMES[:3]]  # of proposals there are none
    assert table.variant.tolist() == names * 2 and table.n.tolist() == [6] * 12
    assert table.split.tolist() == ["val"] * 6 + ["test"] * 6
    assert table["mIoU held out"].notna().tolist() == [False] * 6 + [True] * 6
    assert table.spread.notna().tolist() == ([True] * 3 + [False] * 3) * 2
    text = (folder / "results.md").read_text()
    assert "python -m attrbind_exp.run sweep=table2_refcoco dataset=shapes" in text and "22.4" not in text
    assert "section 6" in text and "On test, at held-out thresholds, attribute_binding alpha=0.9" in text
    assert Image.open(folder / "results.png").width > 300
    (run,) = folder.glob("*split=test*")
    assert len((run / "expressions.jsonl").read_text().splitlines()) == 6 * 3 * 2
    assert (run / "harmed.png").is_file() or (run / "improved.png").is_file()


def test_the_page_of_results_shows_every_sweep_tables_first(tmp_path):
    for name, files in {"figure7/d": ("results.md", "results.png"), "table1/d": ("results.md", "results.png"),
                        "figures_heat_maps/d": ("gallery.png",), "run/2026": ("gallery.png",)}.items():  # fmt: skip
        (tmp_path / "outputs" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "outputs" / name / file).write_text(f"## {name}")
    done = process(str(tmp_path / "outputs"), str(tmp_path / "docs" / "page.md"), module="results")
    assert done[0] == 0, done[2]
    page = (tmp_path / "docs" / "page.md").read_text()
    order = [
        page.index(w)
        for w in (
            "RefCOCO and COCO",
            "## table1/d",
            "images/table1_d.png",
            "## figure7/d",
            "## Figures 2 to 6",
            "images/figures_heat_maps_d.png",
        )
    ]
    assert order == sorted(order) and "2026" not in page
    assert {f.name for f in (tmp_path / "docs" / "images").iterdir()} == {
        "table1_d.png",
        "figure7_d.png",
        "figures_heat_maps_d.png",
    }
    code, _, err = process(str(tmp_path / "nowhere"), "x.md", module="results")
    assert code == 2 and "no sweep below" in err


def test_an_unknown_sweep_names_the_choices(tmp_path):
    code, _, err = command("sweep=table9", cwd=tmp_path)
    assert code == 2 and "unknown sweep 'table9'" in err and "table3_alpha" in err


def test_shapes_are_scored_class_wise_like_coco(tmp_path):
    code, out, err = command(
        "dataset=shapes_classes", "dataset.limit=8", "tracker=none", "gallery=2", "text_processor=paper", f"hydra.run.dir={tmp_path}"
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["n"], summary["n_scored"], summary["n_failed"]) == (8, 8, 0)
    rows = [json.loads(line) for line in (tmp_path / "expressions.jsonl").read_text().splitlines()]
    row = round(100 * summary["threshold"])
    hit, union = np.zeros(9), np.zeros(9)
    for r in (r for r in rows if r["text_processor"] == "baseline"):
        h, p = np.array(r["hit"])[:, row], np.array(r["predicted"])[:, row]
        hit[r["classes"]] += h
        union[r["classes"]] += np.array(r["truth"]) + p - h
    assert 100 * np.mean(hit[union > 0] / union[union > 0]) == pytest.approx(summary["mIoU"])
    # Bare class names have nothing to bind: the method is the baseline.
    assert summary["variants"][1]["difference"]["mean"] == 0 and summary["n_bound"] == 0
    assert Image.open(tmp_path / "gallery.png").width > 900
    assert "class = background" in out and "labels: ground truth" in summary["note"]
