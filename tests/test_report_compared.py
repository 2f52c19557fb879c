"""report.html of several runs made by hand: which are compared with which, under which labels, and what a sweep shows of its
runs."""

import json
import re
import shutil

import numpy as np
import pytest

from attrbind_exp.commands.report import newest
from attrbind_exp.reporting.html.collect import collect
from attrbind_exp.reporting.html.comparison import make_groups
from attrbind_exp.reporting.html.expressions import read_table
from attrbind_exp.reporting.html.folder import read_folder
from attrbind_exp.reporting.html.sections import results
from attrbind_exp.reporting.paper_tables import TableSpec
from attrbind_exp.reporting.write import published
from attrbind_exp.runs.index import Launched, Merged
from attrbind_exp.scoring.metrics import GRID, key
from tests.made_runs import expression_row, make_summary, variant_figures, write_files
from tests.test_command import command
from tests.test_report import BASE, OURS, data_of, page_of, words, write_run


def test_a_plain_sweep_is_compared_across_its_runs(tmp_path):
    one, two = ("attribute_binding", 0.1), ("attribute_binding", 0.5)
    data = {"dataset": "refcoco test"}
    write_run(tmp_path / "a", {one: [10, 20, 30, 40]}, config={"alpha": {"value": 0.1}}, **data)
    write_run(tmp_path / "b", {two: [20, 20, 30, 36]}, config={"alpha": {"value": 0.5}}, **data)
    page = page_of(tmp_path)
    said = words(page)
    # Two images gain 5 and lose 2 points: t with one degree of freedom.
    assert "+1.5 [-61.4, +64.4] 1 / 1 / 2 @0.30" in said and "attribute_binding alpha=0.5, the highest of 2" in said
    assert (
        "Keys in which the runs differ. key a b alpha.value 0.1 0.5 " in said
        and "seed" not in said.split("config.yaml")[0]
    )
    alpha = data_of(page)["alpha"]
    assert [[(p["x"], p["y"]) for p in line["points"]] for line in alpha["ours"]] == [[(0.1, 25.0), (0.5, 26.5)]]
    assert (alpha["paper"]["points"][0], alpha["paper"]["base"]) == ({"x": 0.1, "y": 17.6}, 22.4)


def test_runs_of_different_readings_are_told_apart_by_their_names(tmp_path):
    """Not by all constants of either; of a reading that both have, by the constant in which they differ."""
    for name, heatmap in (("a", {"daam": {"x": 1}}), ("b", {"elbo": {"y": 2, "weights": {8: 1}}})):
        write_run(tmp_path / "several" / name, {BASE: [10, 20, 30, ord(name)]}, config={"heatmap": heatmap})
        write_run(tmp_path / "one" / name, {BASE: [10, 20, 30, ord(name)]}, config={"heatmap": {"daam": {"x": name}}})
    labels = {f: [c.label for c in collect(tmp_path / f, published()).groups[0].columns] for f in ("several", "one")}
    assert labels["one"] == ["baseline · heatmap.daam.x=a", "baseline · heatmap.daam.x=b"]
    assert labels["several"] == ["baseline · heatmap=daam", "baseline · heatmap=elbo"]


def test_refined_figures_stand_apart_from_plain_ones(tmp_path):
    """In a table, a headline and a curve of their own, though the data are the same."""
    write_run(tmp_path / "a", {BASE: [10, 20, 30, 40]})
    write_run(tmp_path / "b", {("baseline refine=guided_filter", None): [50, 60, 70, 80]})
    plain, refined = make_groups(read_folder(tmp_path).finished, tmp_path)
    assert [c.label for c in plain.columns] == ["baseline"]
    assert [c.label for c in refined.columns] == ["baseline refine=guided_filter"]
    assert refined.name == f"{plain.name}, refine=guided_filter"


def test_the_runs_of_a_sweep_are_compared_to_the_baseline_that_it_made(tmp_path):
    """The best alpha stands in the headline, with its difference to the baseline and not to the other alpha; equal maps
    are the same though the thresholds differ."""
    values = {"a": ("attribute_binding", 0.1), "b": ("attribute_binding", 0.5), "text_processor=baseline": BASE}
    ious = {"a": [10, 10, 30, 30], "b": [24, 20, 30, 36], "text_processor=baseline": [10, 20, 30, 40]}
    for name, variant in values.items():
        about = {"alpha": {"value": variant[1]}, "text_processor": {"methods": [variant[0]]}}
        write_run(tmp_path / name, {variant: ious[name]}, config=about)
    measured = collect(tmp_path, published())
    (group,), table = measured.groups, measured.results.set_index("variant")
    assert [c.label for c in group.columns] == [
        "baseline",
        "attribute_binding alpha=0.1",
        "attribute_binding alpha=0.5",
    ]
    assert table["difference oracle"].tolist() == [None, -5.0, 2.5]
    assert table.iloc[2][["better", "worse", "same"]].tolist() == [1, 1, 2]
    said = words(page_of(tmp_path))
    assert "attribute_binding alpha=0.5, the highest of 2 +2.5 [-78.4, +83.4] against baseline" in said
    assert "correction over the 2 comparisons of this table." in said
    assert "22.4" not in said and "section 6" in said  # drawn data are not the paper's
    (line,) = data_of(page_of(tmp_path))["alpha"]["ours"]
    assert (line["base"], [p["difference"] for p in line["points"]]) == (25.0, [-5.0, 2.5])
    assert data_of(page_of(tmp_path))["alpha"]["paper"] is None


def test_a_run_is_compared_to_the_baseline_under_its_own_noise(tmp_path):
    for seed, base, ours in ((0, 10, 30), (1, 20, 25)):
        for name, variant, iou in (("x", BASE, base), ("y", OURS, ours)):
            write_run(tmp_path / f"{name}{seed}", {variant: [iou, iou]}, config={"seed": seed, "made": name})
    (group,) = make_groups(read_folder(tmp_path).finished, tmp_path)
    ours = "attribute_binding alpha=0.9"
    labels = ["baseline · seed=0", "baseline · seed=1", f"{ours} · seed=0", f"{ours} · seed=1"]
    assert [c.label for c in group.columns] == labels
    table = results([group], [read_table(group)], TableSpec(), tmp_path)
    assert table["difference oracle"].tolist() == [None, 10.0, 20.0, 5.0]


def test_equal_maps_are_the_same_on_the_page_whatever_the_thresholds(tmp_path):
    """Of the first two expressions the maps are equal, with an IoU that rises with the threshold. The third makes the
    baseline best at 0.30 and ours at 0.75."""
    rising, falling = [t // 2 for t in range(101)], [100 - t for t in range(101)]
    for name, variant, last in (("a", BASE, falling), ("b", OURS, list(range(101)))):
        curves = [rising, rising, last]
        at = {key(k): float(np.mean([c[k] for c in curves])) for k in GRID}
        rows = [
            expression_row(variant, str(i), {key(k): c[k] / 100 for k in GRID}, intersection=c, image_id="one")
            for i, c in enumerate(curves)
        ]
        write_files(tmp_path / name, make_summary([variant_figures(variant, at, 3)]), rows)
    (group,) = make_groups(read_folder(tmp_path).finished, tmp_path)
    table = read_table(group)
    assert [c.entry.threshold for c in group.columns] == [0.3, 0.75]
    assert table.iou.tolist() == [[15, 37], [15, 37], [70, 75]]
    assert (table.threshold, table.change(0, 1).tolist()) == (0.3, [0, 0, 30 - 70])
    row = results([group], [table], TableSpec(), tmp_path).iloc[1]
    assert row["difference oracle"] == pytest.approx((22 + 22 + 5) / 3)
    assert row[["better", "worse", "same", "counted at"]].tolist() == [0, 1, 2, 0.3]


def test_what_two_runs_measured_alike_stands_once_and_labels_tell_runs_apart(tmp_path):
    for name, seed, ours in (("a", 0, [20, 30]), ("b", 1, [22, 30])):
        write_run(tmp_path / name, {BASE: [10, 20], OURS: ours}, config={"seed": seed})
    (group,) = make_groups(read_folder(tmp_path).finished, tmp_path)
    ours = "attribute_binding alpha=0.9"
    assert [c.label for c in group.columns] == ["baseline", f"{ours} · seed=0", f"{ours} · seed=1"]
    assert read_table(group).iou.tolist() == [[10, 20, 22], [20, 30, 30]]
    said = words(page_of(tmp_path))
    assert (
        "+10.0 [+10.0, +10.0] 2 / 0 / 0 @0.30" in said and "+11.0 [+10.0, +12.0] 2 / 0 / 0 @0.30" in said
    )  # each to its own run's


def test_a_scoring_that_is_called_like_an_edit_is_told_apart_by_its_folder(tmp_path):
    """The configurations of a run and of a scoring differ in nearly every key: no label has room for that."""
    magnet = ("magnet", None)
    write_run(tmp_path / "ours", {BASE: [10, 20], magnet: [20, 30]}, config={"alpha": {"value": 0.9}})
    for name, first in (("a", 22), ("b", 24)):
        typed = [f"predictions={name}.json", "name=magnet"]
        write_run(tmp_path / "peers" / name, {magnet: [first, 30]}, overrides=typed)
    (group,) = make_groups(read_folder(tmp_path).finished, tmp_path)
    assert {c.label for c in group.columns} == {"baseline", "magnet · ours", "magnet · peers/a", "magnet · peers/b"}


def test_every_run_is_compared_under_its_own_noise(tmp_path):
    for name, seed, values in (("a", 0, ([10, 20], [20, 30])), ("b", 1, ([14, 24], [15, 25]))):
        write_run(tmp_path / name, dict(zip((BASE, OURS), values)), config={"seed": seed})
    found = read_folder(tmp_path).finished
    (group,) = make_groups(found, tmp_path)
    table = results([group], [read_table(group)], TableSpec(), tmp_path)
    assert table["difference oracle"].tolist() == [None, 10.0, None, 1.0]


def test_only_the_split_that_the_dataset_names_first_chooses_thresholds(tmp_path):
    for split in ("testA", "testB"):
        about = {"dataset": {"name": "drawn", "split": split, "splits": "val,testA,testB"}}
        write_run(tmp_path / split, {BASE: [10, 20], OURS: [20, 40]}, split=split, config=about)
    page = page_of(tmp_path)
    assert "chosen on another split" not in page and ">held out</th>" not in page


def test_thresholds_chosen_on_another_split_head_the_page(tmp_path):
    report = {"title": "Table 9", "paper": {"baseline": [0.5, 7.7]}, "others": {"Rival": 15.7}}
    write_run(
        tmp_path / "z", {BASE: [10, 20], OURS: [30, 30]}, split="val", config={"report": report}, dataset="refcoco val"
    )
    write_run(
        tmp_path / "a",
        {BASE: [10, 20], OURS: [20, 40]},
        split="test",
        config={"report": report},
        dataset="refcoco test",
    )
    said = words(page_of(tmp_path))
    assert "<title>Table 9" in page_of(tmp_path) and "Rival 15.7" in said and "22.4" not in said
    assert said.index("refcoco val 30.0 mIoU") < said.index("refcoco test 30.0 mIoU")
    assert "threshold 0.30, the best on this very data" in said and "threshold 0.30, chosen on another split" in said
    assert "baseline 2 7.7 @0.50 15.0 15.0 @0.30 15.0 @0.30" in said


def test_unfinished_and_failed_runs_are_listed(tmp_path):
    write_run(
        tmp_path / "done", {BASE: [10, 20]}, n_failed=2, failures={"image_missing": 2}, n_fallback={"category": 3}
    )
    failed = {"sample_id": "s9", "reason": "image_missing", "message": "no file 9.jpg"}
    (tmp_path / "done" / "failures.jsonl").write_text(json.dumps(failed) + "\n")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "expressions.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"torn')
    (tmp_path / "never").mkdir()
    (tmp_path / "never" / "config_hash").write_text("x")
    said = words(page_of(tmp_path))
    assert (
        "2 of 3 runs are not finished" in said
        and "cut not finished - 2 rows" in said
        and "never not finished - 0 rows" in said
    )
    assert "2 failed in done: image_missing 2 s9: image_missing: no file 9.jpg and 1 more" in said
    assert "done finished 15.0 2 expressions 2 0 2 category 3 1.5" in said
    runs = [Launched("lost", "lost", "python -m attrbind_exp.run seed=7", "failed", "killed by signal 9"),
            Launched("cut", "cut", "python -m attrbind_exp.run seed=8", "running"), Launched("done", "done", "", "done")]  # fmt: skip
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": [vars(r) for r in runs]}))
    (tmp_path / "cut" / "progress.json").write_text(json.dumps({"done": 3, "total": 9}))
    said = words(page_of(tmp_path))
    assert (
        "2 of 3 runs are not finished" in said and "lost failed - 0 rows" in said and "lost: killed by signal 9" in said
    )
    assert "cut not finished - 3 of 9 images" in said and "lost python -m attrbind_exp.run seed=7" in said
    assert "Other runs below this folder, which no figure above counts: never" in said
    (tmp_path / "sweep.json").unlink()
    shutil.rmtree(tmp_path / "done")
    assert "2 of 2 runs are not finished" in words(page_of(tmp_path))


def test_a_merged_run_stands_for_its_shards(tmp_path):
    for k in (0, 1):
        write_run(tmp_path / f"shard={k}", {BASE: [10 + k, 20 + k]}, config={"shard": f"{k}/2"})
    said = words(page_of(tmp_path))
    assert "attrbind_exp.merge" in said and "drawn, test (shard=0/2)" in said
    write_run(tmp_path / "merged", {BASE: [10, 20, 11, 21]}, overrides=[])
    said = words(page_of(tmp_path))
    assert "Shards stand here" not in said and "(shard=" not in said and said.count("a shard, merged") == 2


def write_sweep(folder, launched, merged=()):
    """sweep.json of a sweep that launched runs in these folders below `folder`, and merged some of them."""
    runs = [vars(Launched(name, name, "", "done")) for name in launched]
    (folder / "sweep.json").write_text(json.dumps({"runs": runs, "merged": [vars(m) for m in merged]}))


def test_a_run_rescored_inside_a_sweep_changes_nothing_of_its_page_but_a_link(tmp_path):
    """On the rescored run's data every other threshold would be best, and its mIoU is the highest."""
    for split, ours in (("val", [30, 30]), ("test", [20, 40])):
        write_run(tmp_path / split, {BASE: [10, 20], OURS: ours}, split=split)
    write_sweep(tmp_path, ["val", "test"])
    before = page_of(tmp_path)
    assert "chosen on another split" in words(before) and "Other runs" not in words(before)
    for split in ("val", "test"):
        write_run(tmp_path / split / "rescored" / "x=1", {BASE: [50, 60], OURS: [90, 80]}, split=split)
    after = page_of(tmp_path)
    links = re.findall(r'<p class="fine">Other runs.*?</p>\n', after, re.S)
    assert re.sub(r" *" + re.escape(links[0]), "", after) == before
    assert re.findall(r'href="([^"]*)"', links[0]) == ["./test/rescored/x%3D1/", "./val/rescored/x%3D1/"]


def test_shards_that_a_sweep_merged_are_no_other_runs(tmp_path):
    for k in (0, 1):
        write_run(tmp_path / f"shard={k}", {BASE: [10 + k, 20 + k]}, config={"shard": f"{k}/2"})
    write_run(tmp_path / "merged", {BASE: [10, 20, 11, 21]})
    write_sweep(tmp_path, ["shard=0", "shard=1"], [Merged("merged", ["shard=0", "shard=1"])])
    said = words(page_of(tmp_path))
    assert said.count("a shard, merged") == 2 and "merged finished 15.5" in said and "Other runs" not in said


def test_a_baseline_that_stands_in_an_earlier_run_is_still_what_a_run_is_compared_to(tmp_path):
    write_run(tmp_path / "v", {BASE: [10, 20], OURS: [20, 30]}, split="val")
    for name, seed, ours in (("a", 0, [20, 40]), ("b", 1, [30, 50])):
        write_run(tmp_path / name, {BASE: [10, 20], OURS: ours}, config={"seed": seed})
    groups = make_groups(read_folder(tmp_path).finished, tmp_path)
    table = results(groups, [read_table(g) for g in groups], TableSpec(), tmp_path).set_index("variant")
    ours = "attribute_binding alpha=0.9"
    assert table.index.tolist() == ["baseline", ours, "baseline", f"{ours} · seed=0", f"{ours} · seed=1"]
    differences = table["difference oracle"]
    assert differences[f"{ours} · seed=0"] == 15 and differences[f"{ours} · seed=1"] == 25


def test_a_sweep_leaves_a_report_of_itself_and_of_each_run(tmp_path):
    code, _, err = command(
        "-m", "alpha=0.1,0.9", "dataset.limit=6", "tracker=none", "gallery=2", "changed=1", "hydra.sweep.dir=out", cwd=tmp_path
    )  # fmt: skip
    assert code == 0, err
    assert len(list(tmp_path.glob("out/*/report.html"))) == 3  # the baseline's, too
    page = (tmp_path / "out" / "report.html").read_text()
    said = words(page)
    assert "python -m attrbind_exp.run -m hydra.sweep.dir=out alpha.value=0.1,0.9 dataset.limit=6" in said
    assert "knows only drawn shapes" in said and [len(line["points"]) for line in data_of(page)["alpha"]["ours"]] == [2]
    assert "against baseline" in said and data_of(page)["alpha"]["ours"][0]["base_name"] == "baseline"
    assert "baseline" in data_of(page)["pictures"][0]["panels"] and len(data_of(page)["pictures"][0]["panels"]) == 5
    assert newest(tmp_path) == tmp_path / "out" / "report.html"
