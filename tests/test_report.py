"""report.html from runs made by hand: what it says, what it escapes, how large it gets, and that it works in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from attrbind_exp.reporting import figures
from attrbind_exp.reporting.html.collect import collect
from attrbind_exp.reporting.html.comparison import make_groups
from attrbind_exp.reporting.html.draw import draw_settings
from attrbind_exp.reporting.html.expressions import About, Table, choose, read_table
from attrbind_exp.reporting.html.folder import read_folder
from attrbind_exp.reporting.html.page import PICTURES, make_page
from attrbind_exp.reporting.html.pictures import describe
from attrbind_exp.reporting.maps import Around, Swatch
from attrbind_exp.reporting.panels import KEY
from attrbind_exp.reporting.paper_tables import TableSpec, paper_table, read_runs
from attrbind_exp.reporting.tables import ablation, ablation_page
from attrbind_exp.reporting.write import make_report, published, write_report
from attrbind_exp.runs.configuration import config_diff
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.scoring.figures import Difference, Estimate, SliceFigures
from attrbind_exp.scoring.metrics import PRECISIONS
from attrbind_exp.types import UserError
from tests.conftest import picture
from tests.made_runs import expression_row, make_summary, variant_figures, write_files
from tests.test_command import command, process

HOSTILE = (
    "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\"> & ' {{ 7 * 7 }}"
)
BASE, OURS = ("baseline", None), ("attribute_binding", 0.9)


def write_run(folder, ious, split="test", texts=None, slices=None, config=None, **summary):
    """A finished run; `ious[variant]` is the IoU in percent of each expression, the same at every threshold. Two
    expressions share an image; the first variant is compared to."""
    (folder / "gallery").mkdir(parents=True)
    n = len(next(iter(ious.values())))
    texts = texts or [f"expression {i}" for i in range(n)]
    slices = slices or [{"kind": "even" if i % 2 == 0 else "odd"} for i in range(n)]
    first = next(iter(ious.values()))
    metrics = summary.pop("metrics", {})
    variants = [
        entry(v, values, slices, None if values is first else first, metrics.get(v)) for v, values in ious.items()
    ]
    rows = [
        expression_row(v, f"s{i}", values[i] / 100, image_id=f"i{i // 2}", expression=texts[i], target=texts[i].split()[-1], slices=slices[i])
        for i in range(n) for v, values in ious.items()
    ]  # fmt: skip
    told = {"split": split, "overrides": ["dataset=drawn", f"dataset.split={split}"], **summary}
    write_files(folder, make_summary(variants, **told), rows)
    about = {
        "dataset": {"name": "drawn", "split": split, "splits": "val,test"},
        "seed": 0,
        "shard": None,
        "report": None,
    }
    (folder / "config.yaml").write_text(json.dumps({**about, **(config or {})}))  # JSON is YAML
    return folder


def entry(variant, values, slices, base=None, metrics=None):
    values, names = np.array(values, float), [s["kind"] for s in slices]
    by_kind = {
        k: SliceFigures(float(values[[n == k for n in names]].mean()), names.count(k)) for k in sorted(set(names))
    }
    return variant_figures(
        variant, float(values.mean()), len(values), slices={"kind": by_kind}, metrics=metrics or {},
        precision={f"{p:g}": float(100 * (values >= 100 * p).mean()) for p in PRECISIONS},
        difference=None if base is None else change(values - np.array(base)),
    )  # fmt: skip


def change(each):
    votes = [int(v.sum()) for v in (each > 0, each < 0, each == 0)]
    return Difference(float(each.mean()), float(each.min()), float(each.max()), *votes)


def draw(
    run, name, number, sample, panels=("image", "baseline", "attribute_binding alpha=0.9"), title="a title", **about
):
    pictures = {p: np.asarray(picture(30, 40, i)) for i, p in enumerate(panels)}
    return figures.panels(pictures, title, run / "gallery" / f"{name}_{number:03d}.png", sample, Around(**about))


def page_of(folder):
    return make_report(folder).read_text(encoding="utf-8")


def data_of(page):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])


def words(page):
    """What the page says before its script runs."""
    body = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


@pytest.fixture
def run(tmp_path):
    ious = {BASE: [10, 20, 30, 40], OURS: [20, 20, 30, 36]}
    return write_run(tmp_path / "run", ious, dataset="refcoco test")


def test_a_run_shows_its_figures_beside_the_papers(run):
    page = page_of(run)
    said = words(page)
    assert "26.5 mIoU the paper 23.0 attribute_binding alpha=0.9" in said
    assert (
        "+1.5 [-4.0, +10.0] against baseline; the interval spans zero 1 better, 1 worse, 2 same, both at 0.30" in said
    )
    assert "section 6" not in said and "baseline 4 22.4 @0.50 25.0 25.0 @0.30 25.0" in said
    assert "kind = even 2 20.0 25.0 kind = odd 2 30.0 28.0" in said
    assert "python -m attrbind_exp.run dataset=drawn dataset.split=test" in said
    (group,) = data_of(page)["groups"]
    assert [row[4] for row in group["rows"]] == [[10, 20], [20, 20], [30, 30], [40, 36]]
    assert group["rows"][1][:3] == ["expression 1", "1", "s1"] and group["slices"][group["rows"][1][3][0]] == "kind=odd"
    assert len(group["thresholds"]) == 101 and group["curves"] == [[25.0] * 101, [26.5] * 101]
    assert data_of(page)["alpha"] is None  # one alpha is no curve


def test_a_run_that_is_read_again_gives_the_same_page(run):
    assert page_of(run) == page_of(run)


def test_results_csv_is_taken_only_where_it_speaks_of_these_runs(tmp_path, run):
    table = paper_table(read_runs(run), TableSpec(), None)
    table["low oracle"] = [None, 99.0]  # recognisable
    table.to_csv(run / "results.csv", index=False)
    assert "[+99.0, +10.0]" in page_of(run)
    table.assign(n=5).to_csv(run / "results.csv", index=False)
    assert "[-4.0, +10.0]" in page_of(run)
    pd.DataFrame({"other": [1]}).to_csv(run / "results.csv", index=False)
    assert "[-4.0, +10.0]" in page_of(run)


def test_metrics_of_the_user_stand_below_the_slices_and_in_the_table(tmp_path):
    own = {BASE: {"boundary F, %": Estimate(41.04, 30.0, 52.0, 3)}, OURS: {}}
    folder = write_run(tmp_path / "run", {BASE: [10, 20, 30, 40], OURS: [20, 20, 30, 36]}, metrics=own)
    assert "kind = odd 2 30.0 28.0 boundary F, % 3 41.0 [30.0, 52.0] - mIoU in percent" in words(page_of(folder))
    table = ablation(read_summary(folder))
    assert table["mIoU in %"].tolist()[-2:] == ["boundary F, %", "difference to baseline"]
    assert table.iloc[-2].tolist() == ["boundary F, %", "3", "41.0 [30.0, 52.0]", "-"]


def test_the_ablation_table_marks_what_survives_holm(tmp_path):
    """0.02 <= 0.05 / 2; 0.06 > 0.05. A summary of an earlier version has no p, and its table no mark."""
    kinds = [{"kind": "even"}, {"kind": "odd"}]
    variants = [entry(BASE, [10, 20], kinds)]
    for alpha, p in ((0.5, 0.06), (0.9, 0.02)):
        found = entry(("ours", alpha), [20, 20], kinds, [10, 20])
        variants.append(replace(found, difference=replace(found.difference, p=p)))
    write_files(tmp_path, make_summary(variants))
    page = ablation_page(read_summary(tmp_path))
    assert ablation(read_summary(tmp_path)).iloc[-1].tolist()[3:] == ["+5.0 [+0.0, +10.0]", "+5.0 [+0.0, +10.0] *"]
    assert page.endswith("|\n\n*: survives Holm's correction over the 2 comparisons of this table")
    told = json.loads((tmp_path / "summary.json").read_text())
    for variant in told["variants"][1:]:
        del variant["difference"]["p"]
    (tmp_path / "summary.json").write_text(json.dumps(told))
    assert "*" not in ablation_page(read_summary(tmp_path))


@pytest.mark.parametrize("command", ["report", "results", "study"])
def test_help_loads_no_model_and_no_plots(command):
    heavy = ("torch", "diffusers", "transformers", "spacy", "matplotlib")
    assert loaded(f"runpy.run_module('attrbind_exp.{command}', run_name='__main__')", "--help") & set(heavy) == set()


def test_a_page_is_made_without_torch(run):
    draw(run, "gallery", 0, "s1")
    assert "torch" not in loaded("runpy.run_module('attrbind_exp.report', run_name='__main__')", str(run))
    assert (run / "report.html").is_file()


def loaded(code, *arguments):
    """The top modules that a fresh process has loaded once it has run `code`."""
    lines = f"""
import runpy, sys
sys.argv = ["command", *{list(arguments)!r}]
try:
    {code}
except SystemExit as end:
    assert not end.code
print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_class_wise_runs_are_shown_by_image(tmp_path):
    code, _, err = command(
        "dataset=shapes_classes", "dataset.limit=8", "tracker=none", "gallery=2", "text_processor=paper", f"hydra.run.dir={tmp_path}"
    )  # fmt: skip
    assert code == 0, err
    (group,) = data_of((tmp_path / "report.html").read_text())["groups"]
    assert group["scored"] == "images" and len(group["rows"]) == 8 and group["thresholds"][0] == 0.3
    assert all(0 < iou <= 100 for row in group["rows"] for iou in row[4])
    assert "class = background" in words((tmp_path / "report.html").read_text())


def test_nothing_to_show_says_so(tmp_path):
    for folder, word in ((tmp_path, "no finished run below"), (tmp_path / "nowhere", "no folder")):
        with pytest.raises(UserError, match=word):
            make_report(folder)
    code, _, err = process(str(tmp_path), module="report")
    assert code == 2 and "no finished run below" in err


def test_no_run_fails_for_want_of_its_report(run, capsys, monkeypatch):
    (run / "report.html.partial").mkdir()
    assert write_report(run) is None
    assert f"python -m attrbind_exp.report {run}" in capsys.readouterr().err
    (run / "report.html.partial").rmdir()
    with open(run / "expressions.jsonl", "a") as file:
        file.write("{not json\n")
    assert write_report(run) is None
    assert "line 9 is no row that this version writes" in capsys.readouterr().err
    (run / "summary.json").write_text("{}")
    assert write_report(run) is None
    said = capsys.readouterr().err
    assert "is no summary that this version writes" in said and "Traceback" not in said
    assert write_report(run.parent / "nowhere") is None

    def collect(*_):
        raise KeyError("a bug")

    monkeypatch.setattr("attrbind_exp.reporting.html.collect.collect", collect)
    assert write_report(run) is None
    said = capsys.readouterr().err
    assert "Traceback" in said and "to make it: python -m attrbind_exp.report" in said


def test_rows_are_chosen_from_both_ends_and_at_random():
    change = np.array([0.0] * 80 + list(range(1, 11)) + list(range(-10, 0)) + [np.nan] * 5)
    chosen = choose(change, 40)
    assert len(chosen) == len(set(chosen)) == 40 and (np.diff(chosen) > 0).all()
    assert set(range(80, 100)) <= set(chosen)  # all that changed: a quarter is ten
    assert choose(change, 40).tolist() == chosen.tolist() and choose(change, 200).tolist() == list(range(105))
    assert len(choose(np.zeros(50), 20)) == 20


def test_config_diff_shows_what_differs_alone():
    found = config_diff({"a": {"x": 1, "y": [1, 2], "z": None}, "b": {"x": 1, "y": [1, 3]}})
    assert found == {"y": {"a": [1, 2], "b": [1, 3]}, "z": {"a": None, "b": "-"}}


def test_a_gallery_picture_says_where_its_panels_are(tmp_path):
    wide, name = np.asarray(picture(30, 50, 1)), "attribute_binding_prefixed alpha=0.9"  # the name takes two lines
    path = figures.panels({"image": np.asarray(picture(30, 50)), name: wide}, 'a "title" é', tmp_path / "p.png", "7:1")
    with Image.open(path) as image:
        about = describe(image, path)
        (_, box) = about.panels[1]
        crop = np.asarray(image.crop(box).convert("RGB"))
    assert (about.sample_id, about.title, about.panels[1][0]) == ("7:1", 'a "title" é', name)
    assert crop.shape == (240, 400, 3)
    assert (crop[4::8, 4::8] == wide).all()


def test_the_page_knows_thresholds_and_the_colours_of_classes(tmp_path, run):
    key = (Swatch("ring", (230, 159, 0)), Swatch("mask", (1, 2, 3), line=True))
    draw(run, "gallery", 0, "s1", thresholds={"baseline": 0.45}, swatches=key)
    broken = PngInfo()
    broken.add_itxt(KEY, '{"sample_id": "x", "title": "x", "panels": [], "thresholds": {"baseline": NaN}}')
    picture(4, 4).save(run / "gallery" / "broken_000.png", pnginfo=broken)
    page = page_of(run)
    (shown,) = data_of(page)["pictures"]
    assert (shown["thresholds"], shown["classes"]) == ({"baseline": 0.45}, {"ring": [230, 159, 0]})
    assert "Not readable: broken_000.png" in words(page) and "#440154" in page and "#d55e00" in page


def test_pictures_of_one_sample_from_several_runs_become_one(tmp_path):
    for name, alpha in (("a", 0.1), ("b", 0.5)):
        folder = write_run(tmp_path / name, {("attribute_binding", alpha): [10, 20 + alpha]})
        draw(folder, "gallery", 0, "s1", ("image", "baseline", f"attribute_binding alpha={alpha:g}"))
    (folder / "gallery" / "broken_000.png").write_text("no picture")
    page = page_of(tmp_path)
    (shown,) = data_of(page)["pictures"]
    assert list(shown["panels"]) == ["image", "baseline", "attribute_binding alpha=0.1", "attribute_binding alpha=0.5"]
    assert (shown["title"], shown["iou"]) == ("expression 1", [20.0, 20.0])
    assert "Not readable: broken_000.png" in words(page)


@pytest.fixture
def hostile(tmp_path):
    """Every text of a run is an attack; the folder's name too, as far as a file system lets it."""
    folder = tmp_path / "<img src=x onerror=document.title='hacked'> & {{ 7 * 7 }}"
    slices = [{"kind": HOSTILE}, {"kind": "plain"}]
    write_run(folder, {BASE: [10, 20], (HOSTILE, 0.9): [20, 20]}, texts=[HOSTILE, "plain \u2028 text"], slices=slices,
              note=HOSTILE, dataset=HOSTILE, overrides=[HOSTILE], n_failed=1, failures={HOSTILE: 1}, n_fallback={HOSTILE: 1},
              version=HOSTILE, config={HOSTILE: HOSTILE})  # fmt: skip
    failure = {"sample_id": HOSTILE, "reason": HOSTILE, "message": HOSTILE}
    (folder / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    draw(folder, "gallery", 0, HOSTILE, ("image", "baseline", HOSTILE), HOSTILE)
    draw(folder, "gallery", 1, "unscored", ("image", "baseline", HOSTILE), "half a pair \ud800 of surrogates")
    shutil.copy(folder / "gallery" / "gallery_000.png", folder / "gallery" / "<img src=x>_000.png")
    return folder


def test_all_text_is_escaped(hostile):
    page = page_of(hostile.parent)
    assert (
        len(re.findall(r"<script\b", page)) == 2
        and "<img" not in page
        and "{{ 7 * 7 }}" in page
        and "49 " not in words(page)
    )
    (group,) = data_of(page)["groups"]
    assert {row[0] for row in group["rows"]} == {HOSTILE, "plain \u2028 text"}
    assert "half a pair \ud800 of surrogates" in {shown["title"] for shown in data_of(page)["pictures"]}


def test_the_page_loads_nothing(run):
    draw(run, "gallery", 0, "s1")
    page = page_of(run)
    assert re.findall(r"https?:[^\s\"'<]*", page) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@import|url\(|<link|<iframe|fetch\(|XMLHttpRequest|\.src\s*=", page)
    assert all(href.startswith(("#", "./")) for href in re.findall(r'href="([^"]*)"', page))
    assert "default-src 'none'" in page


def test_a_large_run_gives_a_small_page_and_is_read_line_by_line(tmp_path):
    n = 3000
    texts = ["the object number " + "x" * 600 + str(i) for i in range(n)]
    folder = write_run(tmp_path / "run", {BASE: [50.0] * n, OURS: [50.0 + (i % 7 - 3) for i in range(n)]}, texts=texts)
    for i in range(150):
        draw(folder, "gallery", i, f"s{i}")
    file = folder / "expressions.jsonl"
    tracemalloc.start()
    (group,) = make_groups(read_folder(folder).finished, folder)
    table = read_table(group)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table.about) == n and peak < file.stat().st_size / 2
    page = page_of(folder)
    assert len(page.encode()) < 4_500_000
    data = data_of(page)
    assert len(data["groups"][0]["rows"]) == data["groups"][0]["total"] == n  # cut to 300 characters all of them fit
    assert sum(len(p) for shown in data["pictures"] for p in shown["panels"].values()) < PICTURES * 1.05
    assert f"{len(data['pictures'])} of 150 pictures are in this page" in words(page)


def test_the_papers_figures_come_from_the_sweeps():
    paper = published()
    assert paper["expressions"]["noun_chunk"] == (0.55, 22.6) and paper["expressions"][
        "attribute_binding alpha=0.9"
    ] == (0.5, 23.0)
    assert paper["images"]["baseline"] == (None, 37.9)


def test_without_a_folder_the_newest_report_is_named(tmp_path):
    for number, name in enumerate(("new", "old")):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "report.html").write_text("")
        os.utime(tmp_path / "outputs" / name / "report.html", (1000 - number, 1000 - number))
    code, out, _ = process(module="report", cwd=tmp_path)
    assert (code, out.strip()) == (0, "outputs/new/report.html")
    code, _, err = process(module="report", cwd=tmp_path / "outputs")
    assert code == 2 and "no report.html below 'outputs'" in err


def test_rows_with_pictures_are_always_chosen():
    change = np.arange(100.0) - 50
    chosen = choose(change, 20, always={40, 50, 60})
    assert len(chosen) == len(set(chosen)) == 20 and {40, 50, 60} <= set(chosen)
    assert {0, 1, 2, 3, 96, 97, 98, 99} <= set(chosen)  # (20 - 3) // 4 from both ends
    assert choose(change, 2, always={40, 50, 60}).tolist() == [40, 50]


def test_rows_are_cut_to_what_fits(run, monkeypatch):
    """Four rows of equal length: room for all and a byte, then for half of them."""
    (group,) = data_of(page_of(run))["groups"]
    size = sum(len(json.dumps(row, separators=(",", ":"))) + 1 for row in group["rows"])
    for room, count in ((size + 1, 4), (size // 2 + 1, 2)):
        monkeypatch.setattr("attrbind_exp.reporting.html.page.ROWS", room)
        (group,) = data_of(page_of(run))["groups"]
        assert (len(group["rows"]), group["total"]) == (count, 4)


def test_twenty_thousand_expressions_make_a_page_below_five_megabytes(tmp_path):
    """A row of six variants takes about 100 bytes, so all of them are there."""
    names = [BASE, *(("attribute_binding", a) for a in (0.1, 0.3, 0.5, 0.7, 0.9))]
    n, about = 20_000, [About(str(i), str(i // 3), f"the man number {i} with a red hat", "man") for i in range(20_000)]
    values = np.random.default_rng(0).random((n, 6)) * 100
    table = Table(about, values, values, 0.3, None, {a.sample_id: i for i, a in enumerate(about)})
    write_files(tmp_path, make_summary([variant_figures(v, 20.0, n) for v in names]))
    measured = replace(collect(tmp_path, {}), tables=[table])
    tracemalloc.start()
    page = make_page(measured)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (group,) = data_of(page)["groups"]
    assert len(group["rows"]) == group["total"] == n
    assert len(page.encode()) + 1.05 * PICTURES < 5_000_000  # the most that pictures add
    assert peak < 60_000_000  # pictures of 2.5 MB and what imports take, about 110 MB, come on top


def test_only_a_model_that_an_option_names_has_a_command_that_draws():
    known = make_summary([variant_figures(BASE, 15.0, 2)], overrides=["seed=3", "gallery=0"])
    assert draw_settings(known, 0.5) == "model=sd15 seed=3 threshold=0.50"
    mine = make_summary([variant_figures(BASE, 15.0, 2)], model_name="mine", overrides=["model.name=mine"])
    assert draw_settings(mine, 0.5) == ""
    told = make_summary(
        [variant_figures(BASE, 15.0, 2)], model_name="mine", overrides=["model=sd21", "model.name=mine"]
    )
    assert draw_settings(told, None) == "model=sd21 model.name=mine"
