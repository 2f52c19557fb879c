"""Figures and tables for a paper, made of finished runs."""

import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attrbind_exp.reporting import plots
from attrbind_exp.reporting.paper_figures import CHOICES, GALLERIES, _table, read_measured, write_figure
from attrbind_exp.reporting.style import WIDTHS, Style
from attrbind_exp.runs.summary import read_summary
from attrbind_exp.types import UserError
from tests.made_runs import expression_row, make_summary, variant_figures, write_files
from tests.test_command import command

SVG = "{http://www.w3.org/2000/svg}"
ALPHAS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of three alphas with pictures, which was asked for its figures."""
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    given = [
        "dataset=shapes",
        "dataset.limit=8",
        "text_processor=paper",
        "alpha=[0.1,0.5,0.9]",
        "gallery=2",
        "changed=1",
    ]
    code, out, err = command(*given, "tracker=none", "figure.width=single", f"hydra.run.dir={folder}")
    assert code == 0 and re.search(rf"figures for a paper: \d+ files in {folder}/figures", out), err
    return folder


@pytest.fixture
def measured(run):
    return read_measured(run)


def page_size(file):
    """Width and height in inches of the only page of a PDF."""
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", file.read_bytes())
    return tuple(float(n) / 72 for n in box)


def texts(file):
    """The texts of an SVG; none of them is drawn as a shape."""
    root = ElementTree.parse(file).getroot()
    return root, ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def test_a_run_that_is_asked_leaves_plots_pictures_and_tables(run):
    there = {f.name for f in (run / "figures").iterdir()}
    galleries = {f.stem for f in run.glob("*.png")} & set(GALLERIES)
    drawn = {f"{n}_single.{form}" for n in ("threshold", "figure7", *galleries) for form in ("pdf", "svg")}
    tables = {f"{n}.{form}" for n in ("figure7", "results", "ablation") for form in ("tex", "csv")}
    assert "gallery" in galleries and there == drawn | tables | {"threshold.csv"}


@pytest.mark.parametrize(("name", "width"), [("7", "single"), ("results", "double"), ("gallery", "double")])
def test_a_figure_is_as_wide_as_its_column_and_its_text_is_text(measured, name, width):
    file = write_figure(measured, name, "pdf", width)
    assert page_size(file)[0] == pytest.approx(WIDTHS[width], abs=1e-3) and page_size(file)[1] <= 9
    assert b"/Type3" not in file.read_bytes() and b"/FontFile2" in file.read_bytes()  # type 42: letters, no drawings
    file = write_figure(measured, name, "svg", width)
    root, said = texts(file)
    assert float(root.get("width").removesuffix("pt")) / 72 == pytest.approx(WIDTHS[width], abs=1e-3)
    sizes = [float(n) for n in re.findall(r"font(?:-size)?: (?:italic )?([\d.]+)px", file.read_text())]
    assert said and sizes and min(sizes) >= 6  # points as printed
    assert ("ground truth" if name == "gallery" else "mIoU (%)") in said
    if name == "gallery":
        with Image.open(write_figure(measured, name, "png", width)) as opened:
            assert abs(opened.width - 300 * WIDTHS[width]) <= 1
        assert len([about for about in measured.tables[0].about if about.text in said]) == 2  # gallery=2


def test_the_same_run_makes_the_same_files_again(run):
    for name, form in (("threshold", "pdf"), ("threshold", "svg"), ("gallery", "pdf"), ("results", "tex")):
        file = run / "figures" / (f"{name}.tex" if form == "tex" else f"{name}_single.{form}")
        before = file.read_bytes()
        assert write_figure(read_measured(run), name, form, "single") == file and file.read_bytes() == before


def test_numbers_are_those_of_the_run(measured):
    summary = read_summary(measured.folder)
    curve = pd.read_csv(write_figure(measured, "threshold", "csv"))
    assert curve["threshold"].tolist() == list(plots.HUNDREDTHS)
    for v in summary.variants:
        assert curve[v.label][round(100 * v.threshold)] == pytest.approx(v.mIoU, abs=1e-9)
    table = pd.read_csv(write_figure(measured, "7", "csv"))
    assert table["alpha"].dropna().tolist() == list(ALPHAS)
    measured_there = [v.mIoU for v in (*summary.variants, *summary.references)]
    assert table["mIoU oracle"].tolist() == pytest.approx(measured_there)


def test_a_plot_for_a_paper_draws_the_same_lines_as_one_for_the_screen(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(plots.plt, "close", kept.append)
    curves = {"a": np.linspace(0, 50, 101), "b": np.linspace(50, 0, 101)}
    for style in (Style(), Style("pdf", "single"), Style("svg", "double")):
        plots.threshold_curve(curves, tmp_path / f"t.{style.form}", "data d; model m", style)
    drawn = [[line.get_xydata().tolist() for line in figure.axes[0].lines] for figure in kept]
    assert drawn[0] == drawn[1] == drawn[2]
    titles = [figure.axes[0].get_title() for figure in kept]
    assert titles == ["data d; model m", "", ""]  # papers have captions
    assert (
        b"data d; model m" in (tmp_path / "t.pdf").read_bytes()
        and "data d; model m" in (tmp_path / "t.svg").read_text()
    )
    monkeypatch.undo()
    for figure in kept:
        plots.plt.close(figure)


def made(folder, label):
    """A run of two variants whose second is called `label`, 60 and 40 of whose expressions are right."""
    names = [("baseline", None), (label, None)]
    figures = [variant_figures(names[0], 60.0, 1), variant_figures(names[1], 40.0, 1, slices={})]
    rows = [expression_row(name, "1", iou) for name, iou in zip(names, (0.6, 0.4), strict=True)]
    return write_files(folder, make_summary(figures, dataset="100 % & more_shapes"), rows)


def test_latex_is_escaped_and_by_booktabs(tmp_path):
    file = write_figure(read_measured(made(tmp_path / "odd", "50%_a&b#{c}")), "results", "tex")
    lines = file.read_text().splitlines()
    assert lines[0].startswith("% ") and lines[1].startswith(r"% needs \usepackage{booktabs}; ")
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    (row,) = (line for line in lines[2:] if line.startswith("50"))
    assert row.startswith(r"50\%\_a\&b\#\{c\} & ") and row.endswith(r" \\")
    cells = {len(re.split(r"(?<!\\)&", line)) for line in lines if line.endswith(r"\\")}
    assert len(cells) == 1 and lines[2] == rf"\begin{{tabular}}{{l{'r' * (cells.pop() - 1)}}}"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_every_table_compiles_and_fits_as_its_head_says(run, tmp_path):
    names = [name for name, forms in CHOICES.items() if "tex" in forms]
    measured = read_measured(run), read_measured(made(tmp_path / "odd", r"[0.5]_50%&é#{c}~^\\ x$"))
    files = [write_figure(m, name, "tex") for m in measured for name in names if m is measured[0] or name != "7"]
    assert len(files) == 2 * len(names) - 1
    wide = "".join(rf"\noindent\resizebox{{\linewidth}}{{!}}{{\input{{{file}}}}}\par " for file in files)
    text = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{wide}\end{{document}}"
    (tmp_path / "all.tex").write_text(text)
    typed = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0 and (tmp_path / "all.pdf").is_file(), done.stdout[-2000:]
    assert "Missing character" not in done.stdout and r"Overfull \hbox" not in done.stdout


def test_a_row_that_begins_with_a_bracket_is_no_argument_of_the_row_above(tmp_path):
    file = _table(pd.DataFrame({"a": ["x", "[1]", "*"], "b": ["[2]", "", ""]}), "t", tmp_path / "t.tex", "tex")
    rows = [line for line in file.read_text().splitlines() if line.endswith(r"\\")]
    assert rows == [r"a & b \\", r"x & [2] \\", r"{[}1] &  \\", r"{*} &  \\"]


def test_a_negative_number_has_a_minus(tmp_path):
    file = _table(pd.DataFrame({"a": ["-0.5 [-1.0, +0.1]", "no-2", "-"]}), "t", tmp_path / "minus.tex", "tex")
    body = file.read_text()
    assert "$-$0.5 [$-$1.0, +0.1]" in body and "no-2" in body and "\n- \\\\" in body


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["--figure", "9"],
            "no figure '9'; choose from 7, table1, table2, table3, table4, results, ablation, threshold",
        ),
        (["--figure", "7", "--format", "jpg"], "7 cannot be made as 'jpg'; choose from pdf, svg, png, tex, csv"),
        (["--figure", "gallery_777"], "no picture 'gallery_777'"),
        (["--figure", "all", "--format", "jpg"], "nothing can be made as 'jpg'; choose from png, pdf, svg, tex, csv"),
        (["--format", "pdf"], "say which: --figure 7"),
    ],
)
def test_what_there_is_not_is_said_in_a_line(run, typed, said):
    code, _, err = command(str(run), *typed, module="report")
    assert code == 2 and said in err and "Traceback" not in err


def test_the_command_prints_where_a_figure_is(run):
    code, out, err = command(str(run), "--figure", "table 3", "--format", "tex", module="report")
    assert code == 0 and out.strip() == str(run / "figures/table3.tex"), err
    code, out, _ = command(str(run), "--figure", "all", "--format", "csv", module="report")
    assert {line.rpartition("/")[2] for line in out.split()} == {
        f"{n}.csv" for n in ("figure7", "results", "ablation", "threshold")
    }
    code, out, _ = command(str(run), "--figure", "gallery_001", "--width", "single", module="report")
    assert code == 0 and out.strip() == str(run / "figures/gallery_001_single.pdf")


def test_an_alpha_curve_needs_alphas(tmp_path):
    measured = read_measured(made(tmp_path / "two", "other"))
    with pytest.raises(UserError, match=r"figure 7 needs three alphas, .* has none; run alpha=grid"):
        write_figure(measured, "figure 7")
    with pytest.raises(UserError, match="no picture 'improved'"):
        write_figure(measured, "improved")
    assert set(CHOICES["7"]) == {"pdf", "svg", "png", "tex", "csv"}
