"""Headlines and tables of a report. Figures are those of summaries and of results.paper_table; nothing is scored anew
but differences between runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.runs.comparison import Column, Group
from attrbind_exp.runs.expressions import Table
from attrbind_exp.runs.results import Run, paper_table, readable
from attrbind_exp.runs.tables import figure, interval
from attrbind_exp.scoring.compare import paired_difference

SHADES = (0.5, 2, 5)  # differences in mIoU at which a cell of the slices is shaded more strongly


def results(groups: Sequence[Group], tables: Sequence[Table], spec: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """results.paper_table with one row a column of the groups, in their order; of columns of several runs also the
    difference to the group's first. What the sweep has written (results.csv) is taken where it speaks of these runs."""
    runs = [_labelled(run, group) for group in groups for run in group.runs]
    table = _written(runs, folder / "results.csv")
    if table is None:
        splits = [r.split for r in runs]
        several = len(set(splits)) > 1 and splits.count(splits[0]) == 1
        table = paper_table(runs, spec, splits[0] if several else None)
    extra = [d for group, t in zip(groups, tables, strict=True) for d in _differences(group, t)]
    for row, difference in zip(table.index, extra, strict=True):
        if difference and pd.isna(table.at[row, "mIoU held out"]):
            for name, value in difference.items():
                table.loc[row, name] = value
    table["precision"] = [c.entry["precision"]["0.5"] for g in groups for c in g.columns]
    table["group"] = [i for i, g in enumerate(groups) for _ in g.columns]
    return table.replace({np.nan: None}) if len(table) else table


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


def _differences(group: Group, table: Table) -> list[dict[str, Any]]:
    """For each column of another run than the group's first: the paired difference to it, over what both scored."""
    found: list[dict[str, Any]] = []
    for number, column in enumerate(group.columns):
        change = table.change(0, number) if len(table.about) else np.zeros(0)
        both = ~np.isnan(change)
        if column.run is group.columns[0].run or group.scored != "expressions" or not both.any():
            found.append({})
            continue
        images = [about.image_id for about, known in zip(table.about, both, strict=True) if known]
        d = asdict(paired_difference(table.iou[both, 0], table.iou[both, number], images))
        found.append({"difference": d.pop("mean"), **d})
    return found


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
    d = row.get("difference")
    if d is None or number == 0:
        return said
    tone = _tone(row["low"], row["high"])
    verdict = "" if row["low"] is None else "; the interval " + ("spans zero" if tone == 0 else "leaves out zero")
    return said | {
        "difference": interval(d, row["low"], row["high"]),
        "tone": tone,
        "against": f"against {group.columns[0].label}{verdict}",
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
        rows.append({
            "name": name, "value": value, "n": next(c["n"] for c in cells if c),
            "cells": [
                {"mIoU": figure(c["mIoU"] if c else None), "shade": _shade(c["mIoU"] - first if c and first else 0)}
                for c in cells
            ],
        })  # fmt: skip
    return rows


def _shade(change: float) -> int:
    """How strongly a cell is shaded: -3 .. 3."""
    strength = sum(abs(change) >= step for step in SHADES)
    return strength if change > 0 else -strength
