"""Headlines and tables of a report. Figures are those of summaries and of paper_tables; nothing is scored anew but
differences between runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from attrbind_exp.reporting.html.comparison import Column, Group
from attrbind_exp.reporting.html.expressions import Table
from attrbind_exp.reporting.html.folder import named_splits
from attrbind_exp.reporting.paper_tables import Run, TableSpec, difference_columns, paper_table, readable
from attrbind_exp.reporting.tables import bounded, figure, interval, own_metrics
from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.scoring.figures import Difference, SliceFigures

SHADES = (0.5, 2, 5)  # differences in mIoU at which a cell of the slices is shaded more strongly


@dataclass(frozen=True)
class ResultRow:
    """A row of the results: the number of its group (-1: quoted in the paper), its cells, and whether the interval of
    its difference lies above, below or around zero: 1, -1, 0."""

    group: int
    cells: Sequence[str]
    tone: int


@dataclass(frozen=True)
class Results:
    """The results for the eye: the names of the columns that are not empty, and the rows."""

    names: Sequence[str]
    rows: Sequence[ResultRow]


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
    votes: str = ""


@dataclass(frozen=True)
class Cell:
    """A figure of the slices, and how strongly it is shaded: -3 .. 3."""

    text: str
    shade: int = 0


@dataclass(frozen=True)
class SliceRow:
    """A value of a slice label, or one of the user's metrics (`value` None), under every column."""

    name: str
    value: str | None
    n: int
    cells: Sequence[Cell]

    @property
    def label(self) -> str:
        """pair = rare."""
        return self.name if self.value is None else f"{self.name} = {self.value}"


def results(groups: Sequence[Group], tables: Sequence[Table], spec: TableSpec, folder: Path) -> pd.DataFrame:
    """paper_tables.paper_table with one row a column of the groups, in their order, and where it has no difference for
    want of held-out thresholds, the one to `reference`. What the sweep has written (results.csv) is taken where it
    speaks of these runs."""
    columns = [(g, t, c) for g, t in zip(groups, tables, strict=True) for c in g.columns]
    table = _written([c for _, _, c in columns], folder / "results.csv")
    if table is None:
        runs, shown = _labelled(groups)
        table = paper_table(runs, spec, _selection(runs))[shown].reset_index(drop=True)
    lacking = table["mIoU held out"].isna() & table.get("difference", pd.Series(np.nan, table.index)).isna()
    for row, given in zip(table.index, columns, strict=True):
        if lacking[row]:
            for name, value in difference_columns(_difference(*given)).items():
                table.loc[row, name] = value
    table["precision"] = [c.entry.precision["0.5"] for _, _, c in columns]
    table["group"] = [i for i, g in enumerate(groups) for _ in g.columns]
    return table.replace({np.nan: None})


def _selection(runs: Sequence[Run]) -> str | None:
    """The split that chooses thresholds for the others: the first that the dataset names, where one run has it."""
    named = named_splits(runs[0])
    return named[0] if len(named) > 1 and [r.split for r in runs].count(named[0]) == 1 else None


def _labelled(groups: Sequence[Group]) -> tuple[list[Run], list[bool]]:
    """The runs under the labels of their groups' columns, and whether each of their variants is a column: one that an
    earlier run measured alike is none, but its run's differences are to it."""
    runs, shown = [], []
    for group in groups:
        for run in group.runs:
            variants = run.summary.variants
            own = [next((c for c in group.columns if c.entry is e), None) for e in variants]
            entries = [replace(e, label=c.label) if c else e for e, c in zip(variants, own, strict=True)]
            runs.append(Run(run.folder, msgspec.structs.replace(run.summary, variants=entries)))
            shown += [c is not None for c in own]
    return runs, shown


def _written(columns: Sequence[Column], file: Path) -> pd.DataFrame | None:
    """The table that the sweep has written, None where it is not that of these columns."""
    if not file.is_file():
        return None
    try:
        table = pd.read_csv(file, dtype={"split": str, "variant": str})
        theirs = list(zip(table["split"], table["variant"], table["n"], table["mIoU oracle"].round(6), strict=True))
    except (ValueError, KeyError):
        return None
    ours = [(c.run.split, c.label, c.entry.n, round(c.entry.mIoU or np.nan, 6)) for c in columns]
    return table if theirs == ours else None


def reference(group: Group, column: Column) -> Column | None:
    """What a column is compared to: its run's first variant, or the group's first column where a run has but one."""
    own = column.run.summary.variants
    if len(own) == 1:
        return group.columns[0] if column is not group.columns[0] else None
    if column.entry is own[0]:
        return None
    # Where an earlier run measured it alike, it stands there.
    shown = (c for c in group.columns if c.entry is own[0])
    return next(shown, Column(column.run, own[0], own[0].label))


def _difference(group: Group, table: Table, column: Column) -> Difference | None:
    """A column's difference to its reference: the summary's, and between runs a paired one over what both scored."""
    found, first = column.entry.difference, reference(group, column)
    if found is None and first in group.columns and group.scored == "expressions" and len(table.about):
        a, b = (table.iou[:, group.columns.index(c)] for c in (first, column))
        both = ~np.isnan(b - a)
        if both.any():
            images = [about.image_id for about, known in zip(table.about, both, strict=True) if known]
            return paired_difference(a[both], b[both], images)
    return found


def shown_results(table: pd.DataFrame, spec: TableSpec) -> Results:
    """The table for the eye, empty columns left out."""
    shown = readable(table, spec)
    others = len(shown) - len(table)  # rows that the paper quotes
    shown["precision at 0.5"] = [figure(p) for p in table["precision"]] + [""] * others
    shown = shown.drop(columns="split")
    kept = [c for c in shown if shown[c].replace("-", "").any()]
    tones = [_tone(r.get("low"), r.get("high")) for r in table.to_dict("records")]
    numbers = [*table["group"], *[-1] * others]
    rows = zip(numbers, shown[kept].to_numpy().tolist(), [*tones, *[0] * others], strict=True)
    return Results(kept, [ResultRow(*row) for row in rows])


def _tone(low: float | None, high: float | None) -> int:
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def head(group: Group, part: pd.DataFrame) -> int:
    """The column that speaks for a group: the one that heads its run's summary, of several runs the highest."""
    if len(group.runs) == 1:
        summary = group.runs[0].summary
        wanted = summary.text_processor, summary.alpha
        return next((i for i, c in enumerate(group.columns) if (c.entry.text_processor, c.entry.alpha) == wanted), 0)
    return int(np.argmax([-1.0 if value is None else value for value in part["mIoU oracle"]]))


def headline(group: Group, part: pd.DataFrame) -> Headline:
    """A group's headline; `part` are its rows of the results."""
    number = head(group, part)
    row, column = part.iloc[number], group.columns[number]
    held = row["mIoU held out"] is not None
    kind = "held out" if held else "oracle"
    value, at = row[f"mIoU {kind}"], row[f"threshold {kind}"]
    how = "chosen on another split" if held else "the best on this very data"
    if not held and column.entry.mIoU is not None and not _is_best(column):
        how = "as given"
    several = f", the highest of {len(group.columns)}" if len(group.runs) > 1 else ""
    said = Headline(
        data=group.name,
        variant=column.label + several,
        mIoU=figure(value),
        threshold="" if at is None else f"threshold {at:.2f}, {how}",
        paper=figure(row["paper"]) if row["paper"] is not None else "",
        n=f"{row['n']} {group.scored}",
    )
    d, first = row.get("difference"), reference(group, column)
    if d is None or first is None:
        return said
    tone = _tone(row["low"], row["high"])
    verdict = "" if row["low"] is None else "; the interval " + ("spans zero" if tone == 0 else "leaves out zero")
    return replace(
        said,
        difference=interval(d, row["low"], row["high"]),
        tone=tone,
        against=f"against {first.label}{verdict}",
        votes=f"{row['better']:.0f} better, {row['worse']:.0f} worse, {row['same']:.0f} same",
    )


def _is_best(column: Column) -> bool:
    """Whether a variant's threshold is the best of the grid, as it is unless one was given."""
    best = max(v for v in column.entry.mIoU_at.values() if v is not None)
    return bool(np.isclose(column.entry.mIoU or 0, best))


def slices(group: Group) -> list[SliceRow]:
    """One row a value of a slice label: n, and mIoU under each column, shaded by its difference to the first; then one
    row a metric that the user added, each figure with its interval."""
    entries = [c.entry for c in group.columns]
    labels = dict.fromkeys((k, v) for e in entries for k, values in e.slices.items() for v in values)
    rows = [_slice_row(name, value, [e.slices.get(name, {}).get(value) for e in entries]) for name, value in labels]
    for name, found in own_metrics(entries).items():
        n = next(f.n for f in found if f is not None)
        rows.append(SliceRow(name, None, n, [Cell(bounded(f)) for f in found]))
    return rows


def _slice_row(name: str, value: str, found: Sequence[SliceFigures | None]) -> SliceRow:
    first = found[0].mIoU if found[0] else None
    cells = [Cell(figure(f.mIoU if f else None), _shade(f.mIoU - first if f and first else 0)) for f in found]
    return SliceRow(name, value, next(f.n for f in found if f), cells)


def _shade(change: float) -> int:
    strength = sum(abs(change) >= step for step in SHADES)
    return strength if change > 0 else -strength
