"""Headlines and tables of a report. Figures are those of summaries and of results.paper_table; nothing is scored anew
but differences between runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.reporting.html.comparison import Column, Group, read_config
from attrbind_exp.reporting.html.expressions import Table
from attrbind_exp.reporting.paper_tables import Run, paper_table, readable
from attrbind_exp.reporting.tables import figure, interval
from attrbind_exp.scoring.compare import paired_difference

SHADES = (0.5, 2, 5)  # differences in mIoU at which a cell of the slices is shaded more strongly


def results(groups: Sequence[Group], tables: Sequence[Table], spec: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """results.paper_table with one row a column of the groups, in their order, and where it has no difference for want
    of held-out thresholds, the one to `reference`. What the sweep has written (results.csv) is taken where it speaks of
    these runs."""
    runs = [_labelled(run, group) for group in groups for run in group.runs]
    table = _written(runs, folder / "results.csv")
    if table is None:
        table = paper_table(runs, spec, _selection(runs))
    columns = [(g, t, c) for g, t in zip(groups, tables, strict=True) for c in g.columns]
    lacking = table["mIoU held out"].isna() & table.get("difference", pd.Series(np.nan, table.index)).isna()
    for row, given in zip(table.index, columns, strict=True):
        if lacking[row]:
            for name, value in _difference(*given).items():
                table.loc[row, name] = value
    table["precision"] = [c.entry["precision"]["0.5"] for _, _, c in columns]
    table["group"] = [i for i, g in enumerate(groups) for _ in g.columns]
    return table.replace({np.nan: None})


def _selection(runs: Sequence[Run]) -> str | None:
    """The split that chooses thresholds for the others: the first that the dataset names, where one run has it."""
    named = str(read_config(runs[0].folder).get("dataset", {}).get("splits") or "").split(",")
    return named[0] if len(named) > 1 and [r.split for r in runs].count(named[0]) == 1 else None


def _labelled(run: Run, group: Group) -> Run:
    """A run with the variants and labels of its group's columns."""
    entries = [{**c.entry, "label": c.label} for c in group.columns if c.run is run]
    return Run(run.folder, {**run.summary, "variants": entries})


def _written(runs: Sequence[Run], file: Path) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    try:
        table = pd.read_csv(file, dtype={"split": str, "variant": str})
        theirs = list(zip(table["split"], table["variant"], table["n"], table["mIoU oracle"].round(6), strict=True))
    except (ValueError, KeyError):
        return None
    ours = [(r.split, e["label"], e["n"], round(e["mIoU"] or np.nan, 6)) for r in runs for e in r.summary["variants"]]
    return table if theirs == ours else None


def reference(group: Group, column: Column) -> Column | None:
    """What a column is compared to: its run's first variant, or the group's first column where a run has but one."""
    own = column.run.summary["variants"]
    if len(own) == 1:
        return group.columns[0] if column is not group.columns[0] else None
    if column.entry is own[0]:
        return None
    # Where an earlier run measured it alike, it stands there.
    shown = (c for c in group.columns if c.entry is own[0])
    return next(shown, Column(column.run, own[0], str(own[0]["label"])))


def _difference(group: Group, table: Table, column: Column) -> dict[str, Any]:
    """A column's difference to its reference: the summary's, and between runs a paired one over what both scored."""
    found = column.entry.get("difference")
    first = reference(group, column)
    if found is None and first in group.columns and group.scored == "expressions" and len(table.about):
        a, b = (table.iou[:, group.columns.index(c)] for c in (first, column))
        both = ~np.isnan(b - a)
        if both.any():
            images = [about.image_id for about, known in zip(table.about, both, strict=True) if known]
            found = asdict(paired_difference(a[both], b[both], images))
    return {"difference" if k == "mean" else k: v for k, v in (found or {}).items()}


def shown_results(groups: Sequence[Group], table: pd.DataFrame, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The table for the eye: `names` of its columns and `rows` of (group, cells, tone), empty columns left out. tone
    says whether the interval of the difference lies above, below or around zero: 1, -1, 0."""
    shown = readable(table, spec)
    shown["precision at 0.5"] = [figure(p) for p in table["precision"]] + [""] * (len(shown) - len(table))
    shown = shown.drop(columns="split")
    kept = [c for c in shown if shown[c].replace("-", "").any()]
    tones = [_tone(r.get("low"), r.get("high")) for r in table.to_dict("records")]
    numbers = [*table["group"], *[-1] * (len(shown) - len(table))]
    rows = zip(numbers, shown[kept].to_numpy().tolist(), [*tones, *[0] * (len(shown) - len(table))], strict=True)
    return {"names": kept, "rows": list(rows)}


def _tone(low: float | None, high: float | None) -> int:
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def head(group: Group, part: pd.DataFrame) -> int:
    """The column that speaks for a group: the one that heads its run's summary, of several runs the highest."""
    if len(group.runs) == 1:
        summary = group.runs[0].summary
        wanted = summary.get("text_processor"), summary.get("alpha")
        return next(
            (i for i, c in enumerate(group.columns) if (c.entry["text_processor"], c.entry["alpha"]) == wanted), 0
        )
    return int(np.argmax([-1.0 if value is None else value for value in part["mIoU oracle"]]))


def headline(group: Group, part: pd.DataFrame) -> dict[str, Any]:
    """A group in one figure and two sentences."""
    number = head(group, part)
    row, column = part.iloc[number], group.columns[number]
    held = row["mIoU held out"] is not None
    kind = "held out" if held else "oracle"
    value, at = row[f"mIoU {kind}"], row[f"threshold {kind}"]
    how = "chosen on another split" if held else "the best on this very data"
    if not held and column.entry["mIoU"] is not None and not _is_best(column):
        how = "as given"
    several = f", the highest of {len(group.columns)}" if len(group.runs) > 1 else ""
    said = {
        "data": group.name,
        "variant": column.label + several,
        "mIoU": figure(value),
        "threshold": "" if at is None else f"threshold {at:.2f}, {how}",
        "paper": figure(row["paper"]) if row["paper"] is not None else "",
        "n": f"{row['n']} {group.scored}",
        "difference": "",
    }
    d, first = row.get("difference"), reference(group, column)
    if d is None or first is None:
        return said
    tone = _tone(row["low"], row["high"])
    verdict = "" if row["low"] is None else "; the interval " + ("spans zero" if tone == 0 else "leaves out zero")
    return said | {
        "difference": interval(d, row["low"], row["high"]),
        "tone": tone,
        "against": f"against {first.label}{verdict}",
        "votes": f"{row['better']:.0f} better, {row['worse']:.0f} worse, {row['same']:.0f} same",
    }


def _is_best(column: Column) -> bool:
    """Whether a variant's threshold is the best of the grid, as it is unless one was given."""
    best = max(v for v in column.entry["mIoU_at"].values() if v is not None)
    return bool(np.isclose(column.entry["mIoU"], best))


def slices(group: Group) -> list[dict[str, Any]]:
    """One row a value of a slice label: n, and mIoU under each column with its difference to the first."""
    labels = ((k, v) for c in group.columns for k, values in c.entry["slices"].items() for v in values)
    rows = []
    for name, value in dict.fromkeys(labels):
        cells = [c.entry["slices"].get(name, {}).get(value) for c in group.columns]
        first = cells[0]["mIoU"] if cells[0] else None
        rows.append(
            {
                "name": name,
                "value": value,
                "n": next(c["n"] for c in cells if c),
                "cells": [
                    {"mIoU": figure(c["mIoU"] if c else None), "shade": _shade(c["mIoU"] - first if c and first else 0)}
                    for c in cells
                ],
            }
        )
    return rows


def _shade(change: float) -> int:
    """How strongly a cell is shaded: -3 .. 3."""
    strength = sum(abs(change) >= step for step in SHADES)
    return strength if change > 0 else -strength
