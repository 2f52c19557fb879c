"""Figures and tables of finished runs for a paper: made of what their folders hold, nothing is scored."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from attrbind_exp.paths import SWEEPS
from attrbind_exp.reporting import plots
from attrbind_exp.reporting.html.collect import Measured, collect
from attrbind_exp.reporting.html.comparison import selection
from attrbind_exp.reporting.paper_tables import Run, TableSpec, beside_paper, paper_table, read_spec
from attrbind_exp.reporting.printed_gallery import gallery_figure
from attrbind_exp.reporting.readable_tables import notes, readable
from attrbind_exp.reporting.references import with_references, without_floors
from attrbind_exp.reporting.style import FORMS, Style, Width
from attrbind_exp.reporting.tables import ablation
from attrbind_exp.reporting.write import published
from attrbind_exp.runs.store import picture_folder, write_text
from attrbind_exp.types import UserError
from attrbind_exp.work import each

FOLDER = "figures"
TABLES = ("tex", "csv")
# The paper's figure and tables, by the sweeps that describe them.
SPECS = {
    "7": "figure7_alpha_curve",
    "table1": "table1_coco",
    "table2": "table2_refcoco",
    "table3": "table3_alpha",
    "table4": "table4_ablation",
}
GALLERIES = ("gallery", "improved", "harmed")
# What can be made, and in which forms; the first is the one that is made where none is asked for.
CHOICES: dict[str, Sequence[str]] = {
    "7": (*FORMS[1:], "png", *TABLES),
    **dict.fromkeys((*list(SPECS)[1:], "results"), (*TABLES, *FORMS)),
    "ablation": TABLES,
    "threshold": ("pdf", "svg", "png", "csv"),
    **dict.fromkeys(GALLERIES, ("pdf", "svg", "png")),
}
WIDE = ("results", *list(SPECS)[1:], *GALLERIES)  # too much for one column, unless it is asked for


def read_measured(folder: Path) -> Measured:
    """The finished runs below `folder`. Raises UserError where there is none."""
    found = collect(folder, published())
    if not found.groups:
        raise UserError(f"no finished run below '{folder}'; start the same command again, it goes on")
    return found


def write_figure(measured: Measured, name: str, form: str | None = None, width: Width | None = None) -> Path:
    """Write a figure or table into the folder's figures/ and return its file. `form`: None = the usual one; `width`:
    None = as wide as it needs. Raises UserError for what there is not."""
    name = re.sub(r"^figure", "", name.lower().replace(" ", ""))
    kind = re.sub(r"_\d{3}$", "", name) if name.startswith(GALLERIES) else name
    if kind not in CHOICES:
        picture = ", or one picture as gallery_003"
        raise UserError(f"no figure '{name}'; choose from {', '.join(CHOICES)} (7 is the alpha curve){picture}")
    form = form or CHOICES[kind][0]
    if form not in CHOICES[kind]:
        raise UserError(f"{kind} cannot be made as '{form}'; choose from {', '.join(CHOICES[kind])}")
    width = width or ("double" if kind in WIDE else "single")
    stem = f"figure{name}" if name == "7" else name
    to = picture_folder(measured.folder / FOLDER) / (f"{stem}.{form}" if form in TABLES else f"{stem}_{width}.{form}")
    if kind in GALLERIES:
        return _gallery(measured, name, to, _style(form, width))
    if kind == "threshold":
        return _thresholds(measured, to, form, width)
    if kind == "ablation":
        return _table(ablation(_only(measured).summary), _about(measured, "mIoU by slice"), to, form)
    return _paper(measured, kind, to, form, width)


def write_all(measured: Measured, width: Width | None = None, form: str | None = None) -> list[Path]:
    """Write all that these runs have: plots and pictures as PDF and SVG, tables for LaTeX and as CSV; or what can be
    had in one `form`. Raises UserError where that is nothing."""
    names = list(_available(measured))
    if form is not None:
        wanted = [(name, form) for name in names if form in CHOICES[name]]
        if not wanted:
            raise UserError(f"nothing can be made as '{form}'; choose from {', '.join((*FORMS, *TABLES))}")
    else:
        every = [(name, one) for name in names for one in (*FORMS[1:], *TABLES) if one in CHOICES[name]]
        wanted = [(name, one) for name, one in every if not (one in FORMS and name == "results")]
    return [write_figure(measured, name, one, width) for name, one in each(wanted, "figures for a paper", "files")]


def write_asked(folder: Path, width: Width) -> str:
    """Write all that the runs below `folder` have, as their configuration asks for it, and return a line that says
    where."""
    files = write_all(read_measured(folder), width)
    return f"figures for a paper: {len(files)} files in {files[0].parent}"


def _available(measured: Measured) -> Iterator[str]:
    yield "results"
    if len(_runs(measured)) == 1:
        yield "ablation"
    if any(v.mIoU is not None for run in _runs(measured) for v in run.summary.variants):
        yield "threshold"
    if len({v.alpha for run in _runs(measured) for v in run.summary.variants} - {None}) > 2:
        yield "7"
    yield from (name for name in GALLERIES if _pictures(measured, name))


def _runs(measured: Measured) -> list[Run]:
    """The finished runs, merged ones instead of their shards."""
    return [run for group in measured.groups for run in group.runs]


def _only(measured: Measured) -> Run:
    runs = _runs(measured)
    if len(runs) > 1:
        raise UserError(f"'{measured.folder}' holds {len(runs)} runs; give the folder of one, such as {runs[0].folder}")
    return runs[0]


def _style(form: str, width: Width) -> Style:
    return Style(next(known for known in FORMS if known == form), width)


def _about(measured: Measured, title: str) -> str:
    return f"{title}; data {_data(measured)}; model {_model(measured)}"


def _data(measured: Measured) -> str:
    return ", ".join(dict.fromkeys(run.summary.dataset for run in _runs(measured)))


def _model(measured: Measured) -> str:
    return ", ".join(dict.fromkeys(run.summary.model_name for run in _runs(measured)))


def _paper(measured: Measured, name: str, to: Path, form: str, width: Width) -> Path:
    """One of the paper's tables or its Figure 7, with our figures in it; "results": the page's own table, in which runs
    of one variant are compared with the baseline of another."""
    runs = _runs(measured)
    if name == "results":
        spec, table = measured.spec, measured.between.drop(columns=["group", "precision"])
    else:
        spec, chooser = _read_spec(SPECS[name]), selection(runs)
        table = with_references(paper_table(runs, spec, chooser), runs, chooser)
    title = spec.title or measured.folder.name
    alphas = sorted(table["alpha"].dropna().unique())
    if name == "7" and len(alphas) < 3:
        there = ", ".join(f"{alpha:g}" for alpha in alphas) or "none"
        raise UserError(
            f"figure 7 needs three alphas, '{measured.folder}' has {there}; run alpha=grid or sweep=figure7_alpha_curve"
        )
    if form == "csv":
        return write_text(to, table.to_csv(index=False))
    if form == "tex":
        about = "; ".join(filter(None, [_about(measured, title), *notes(table)]))
        return _table(readable(table, beside_paper(runs, spec)), about, to, form)
    style = _style(form, width)
    draw = plots.differences if spec.figure == "differences" else plots.paper_figure
    return draw(without_floors(table), title, _data(measured), _model(measured), to, style)


def _read_spec(sweep: str) -> TableSpec:
    found: dict[str, Any] = yaml.safe_load((SWEEPS / f"{sweep}.yaml").read_text(encoding="utf-8"))
    return read_spec(found["report"])


def _thresholds(measured: Measured, to: Path, form: str, width: Width) -> Path:
    """mIoU over thresholds: all 101, class-wise those of the paper's grid."""
    several = len(measured.groups) > 1
    lines = {}
    grid = [float(k) for k in measured.groups[0].columns[0].entry.mIoU_at]
    for group, table in zip(measured.groups, measured.tables, strict=True):
        found = table.curves if table.curves is not None else [list(c.entry.mIoU_at.values()) for c in group.columns]
        for column, values in zip(group.columns, found, strict=True):
            lines[f"{column.label} ({group.name})" if several else column.label] = values
    at = plots.HUNDREDTHS if all(len(values) == len(plots.HUNDREDTHS) for values in lines.values()) else grid
    if form == "csv":
        return write_text(to, pd.DataFrame({"threshold": at, **lines}).to_csv(index=False))
    return plots.threshold_curve(lines, to, _about(measured, "mIoU by threshold"), _style(form, width), at)


def _pictures(measured: Measured, name: str) -> list[Path]:
    """The files of a gallery of the first run that has it, or a single picture."""
    pattern = f"{name}_[0-9][0-9][0-9].png" if name in GALLERIES else f"{name}.png"
    found = (sorted((run.folder / "gallery").glob(pattern)) for run in _runs(measured))
    return next(filter(None, found), [])


def _gallery(measured: Measured, name: str, to: Path, style: Style) -> Path:
    files = _pictures(measured, name)
    if not files:
        raise UserError(f"no picture '{name}' of the runs below '{measured.folder}'; run with gallery=12 changed=20")
    return gallery_figure(files, to, _about(measured, name), style)


def _table(table: pd.DataFrame, about: str, to: Path, form: str) -> Path:
    """A table of text for LaTeX, by booktabs, its first column to the left; or as CSV."""
    if form == "csv":
        return write_text(to, table.to_csv(index=False))
    columns = "l" + "r" * (len(table.columns) - 1)
    body = table.astype(str).to_latex(index=False, escape=True, column_format=columns)
    body = re.sub(r"(?<![\w-])-(?=\d)", "$-$", body)  # a minus, no hyphen
    body = re.sub(r"^([\[*])", r"{\1}", body, flags=re.MULTILINE)  # behind the \\ of a row they would be its arguments
    needs = r"needs \usepackage{booktabs}; \resizebox{\linewidth}{!}{..} of graphicx makes a wide one fit"
    return write_text(to, f"% {' '.join(about.split())}\n% {needs}\n{body}")
