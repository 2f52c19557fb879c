"""Headlines and tables of a report. Figures are those of summaries and of paper_tables; nothing is scored anew but
differences between runs."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from attrbind_exp.reporting.html.comparison import Column, Group, reference, selection
from attrbind_exp.reporting.html.expressions import Table
from attrbind_exp.reporting.paper_tables import KINDS, Run, TableSpec, difference_columns, leading, paper_table
from attrbind_exp.reporting.readable_tables import notes, readable
from attrbind_exp.reporting.references import reference_rows, with_shares
from attrbind_exp.reporting.tables import figure, interval
from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.scoring.figures import VariantFigures
from attrbind_exp.scoring.references import NAMES
from attrbind_exp.work import each


@dataclass(frozen=True)
class ResultRow:
    """A row of the results: the number of its group (-1: quoted in the paper), its cells, and for each whether it is a
    difference whose interval lies above or below zero: 1, -1, else 0."""

    group: int
    cells: Sequence[str]
    tones: Sequence[int]


@dataclass(frozen=True)
class Results:
    """The results for the eye: the names of the columns that are not empty, the rows, and the notes under them in one
    line, "" where there are none."""

    names: Sequence[str]
    rows: Sequence[ResultRow]
    notes: str


@dataclass(frozen=True)
class Headline:
    """A group in one figure and two sentences."""

    data: str
    variant: str
    mIoU: str
    threshold: str
    paper: str
    n: str
    difference: str = ""
    tone: int = 0
    against: str = ""
    oracle: str = ""
    votes: str = ""


def results(groups: Sequence[Group], tables: Sequence[Table], spec: TableSpec, folder: Path) -> pd.DataFrame:
    """paper_tables.paper_table with one row a column of the groups, in their order, and where it has no difference, the
    one to `reference`. What the sweep has written (results.csv) is taken where it speaks of these runs."""
    columns = [(g, t, c) for g, t in zip(groups, tables, strict=True) for c in g.columns]
    table = _written([c for _, _, c in columns], folder / "results.csv")
    if table is None:
        runs, shown = _labelled(groups)
        table = paper_table(runs, spec, selection(runs))[shown].reset_index(drop=True)
    for row, given in each(list(zip(table.index, columns, strict=True)), "comparing", "variants"):
        if leading(table.loc[row], "difference") is None:
            for name, value in _difference_columns(*given).items():
                table.loc[row, name] = value
    table["precision"] = [c.entry.precision["0.5"] for _, _, c in columns]
    table["group"] = [i for i, g in enumerate(groups) for _ in g.columns]
    return table.replace({np.nan: None})


def between(table: pd.DataFrame, groups: Sequence[Group]) -> pd.DataFrame:
    """The results with the floors and the ceiling of each group behind its columns, and the share of the way between
    them that each has come."""
    runs = [run for g in groups for run in g.runs]
    chooser = next((run for run in runs if run.split == selection(runs)), None)
    parts = []
    for number, group in enumerate(groups):
        part = table[table["group"] == number]
        rows = [{**row, "group": number} for row in reference_rows(group.runs, chooser)]
        parts.append(with_shares(pd.concat([part, pd.DataFrame(rows)]) if rows else part))
    return pd.concat(parts, ignore_index=True).replace({np.nan: None})


def _labelled(groups: Sequence[Group]) -> tuple[list[Run], list[bool]]:
    """The runs under the labels of their groups' columns, and whether each of their variants is a column: one that an
    earlier run measured alike is none, but its run's differences are to it."""
    runs, shown = [], []
    for group in groups:
        for run in group.runs:
            variants = run.summary.variants
            own = [next((c for c in group.columns if c.entry is e), None) for e in variants]
            labels = {e.label: c.label if c else e.label for e, c in zip(variants, own, strict=True)}
            entries = [_renamed(e, labels) for e in variants]
            runs.append(Run(run.folder, msgspec.structs.replace(run.summary, variants=entries)))
            shown += [c is not None for c in own]
    return runs, shown


def _renamed(entry: VariantFigures, labels: Mapping[str, str]) -> VariantFigures:
    """A variant and the one that it goes beyond under other labels."""
    beyond = entry.beyond and replace(entry.beyond, than=labels[entry.beyond.than])
    return replace(entry, label=labels[entry.label], beyond=beyond)


def _written(columns: Sequence[Column], file: Path) -> pd.DataFrame | None:
    """The table that the sweep has written, None where it is not that of these columns."""
    if not file.is_file():
        return None
    try:
        table = pd.read_csv(file, dtype={"split": str, "variant": str})
        table = table[~table["variant"].isin(NAMES.values())].reset_index(drop=True)
        theirs = list(zip(table["split"], table["variant"], table["n"], table["mIoU oracle"].round(6), strict=True))
        if "difference" in table:
            return None  # of an earlier version, which gave one difference of two kinds
    except (ValueError, KeyError):
        return None
    ours = [(c.run.split, c.label, c.entry.n, round(c.entry.mIoU or np.nan, 6)) for c in columns]
    return table if theirs == ours else None


def _difference_columns(group: Group, table: Table, column: Column) -> dict[str, float | None]:
    """A column's difference to its reference, as columns: the summary's, and between runs a paired one over what both
    scored, each at its own threshold; its counts are at the one threshold of the table."""
    first = reference(group, column)
    if column.entry.difference is not None:
        return difference_columns(None, column.entry.difference, None if first is None else first.entry.threshold)
    if first is None or first not in group.columns or group.scored != "expressions" or not table.about:
        return {}
    places = [group.columns.index(c) for c in (first, column)]
    a, b = table.iou[:, places].T
    both = ~np.isnan(b - a)
    if not both.any():
        return {}
    images = [about.image_id for about, known in zip(table.about, both, strict=True) if known]
    found = paired_difference(a[both], b[both], images, counted=table.change(*places)[both])
    return difference_columns(None, found, table.threshold)


def shown_results(table: pd.DataFrame, spec: TableSpec) -> Results:
    """The table that `between` makes for the eye, empty columns left out."""
    shown = readable(table, spec)
    others = len(shown) - len(table)  # rows that the paper quotes
    shown["precision at 0.5"] = [figure(p) for p in table["precision"]] + [""] * others
    shown = shown.drop(columns="split")
    kept = [c for c in shown if shown[c].replace("-", "").any()]
    records, numbers = table.to_dict("records"), [*table["group"], *[-1] * others]
    tones = [[_tone_of(r, name) for name in kept] for r in records] + [[0] * len(kept)] * others
    rows = [ResultRow(*r) for r in zip(numbers, shown[kept].to_numpy().tolist(), tones, strict=True)]
    return Results(kept, rows, ". ".join(notes(table)))


def _tone_of(row: Mapping[Hashable, Any], name: str) -> int:
    """The tone of a row's cell in the column `name`: of its difference, 0 in any other column."""
    kind = next((kind for kind in KINDS if name == f"difference {kind} [95 %]"), None)
    return 0 if kind is None else tone(row.get(f"low {kind}"), row.get(f"high {kind}"))


def tone(low: float | None, high: float | None) -> int:
    """1 where an interval lies above zero, -1 below it; 0 where it holds zero, or there is none."""
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def head(group: Group, part: pd.DataFrame) -> int:
    """The column that speaks for a group: the one that heads its run's summary, of several runs the highest that edits
    anything."""
    if len(group.runs) == 1:
        summary = group.runs[0].summary
        wanted = summary.text_processor, summary.alpha
        return next((i for i, c in enumerate(group.columns) if (c.entry.text_processor, c.entry.alpha) == wanted), 0)
    heights = [leading(row, "mIoU") for row in part.to_dict("records")]
    rivals = [i for i, c in enumerate(group.columns) if c.is_rival] or range(len(group.columns))
    return max(rivals, key=lambda i: -1.0 if heights[i] is None else heights[i])


def headline(group: Group, part: pd.DataFrame) -> Headline:
    """A group's headline; `part` are its rows of the results."""
    number = head(group, part)
    row, column = part.iloc[number], group.columns[number]
    held = row["mIoU held out"] is not None
    value, at = leading(row, "mIoU"), leading(row, "threshold")
    how = choice_of_threshold(column, held)
    rivals = sum(c.is_rival for c in group.columns) or len(group.columns)
    several = f", the highest of {rivals}" if len(group.runs) > 1 and rivals > 1 else ""
    said = Headline(
        data=group.name,
        variant=column.label + several,
        mIoU=figure(value),
        threshold="" if at is None else f"threshold {at:.2f}, {how}",
        paper=figure(row["paper"]) if row["paper"] is not None else "",
        n=f"{row['n']} {group.scored}",
    )
    first = reference(group, column)
    d, low, high = (leading(row, name) for name in ("difference", "low", "high"))
    if d is None or first is None:
        return said
    sign = tone(low, high)
    verdict = "" if low is None else "; the interval " + ("spans zero" if sign == 0 else "leaves out zero")
    both = row.get("difference held out") is not None and row.get("difference oracle") is not None
    at_one = "" if row.get("counted at") is None else f", both at {row['counted at']:.2f}"
    return replace(
        said,
        difference=interval(d, low, high),
        tone=sign,
        against=f"against {first.label}{verdict}",
        oracle=interval(*(row[f"{x} oracle"] for x in ("difference", "low", "high"))) if both else "",
        votes=f"{row['better']:.0f} better, {row['worse']:.0f} worse, {row['same']:.0f} same{at_one}",
    )


def choice_of_threshold(column: Column, held: bool) -> str:
    """Who chose the threshold of a column: another split, where it is held out; its own data; or the user. Of masks
    nobody does."""
    if column.run.summary.command == "score" and len(set(column.entry.mIoU_at.values())) == 1:
        return "the same at any"
    if held:
        return "chosen on another split"
    return "the best on this very data" if column.entry.mIoU is None or _is_best(column) else "as given"


def _is_best(column: Column) -> bool:
    """Whether a variant's threshold is the best of the grid, as it is unless one was given."""
    best = max(v for v in column.entry.mIoU_at.values() if v is not None)
    return bool(np.isclose(column.entry.mIoU or 0, best))
