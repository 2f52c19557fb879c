"""The runs of a sweep -> one table of the paper with ours beside it: thresholds best on the data itself (oracle), fixed
at 0.50, and chosen on another split (held out); differences with their intervals."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from attrbind_exp.reporting.tables import figure, interval
from attrbind_exp.runs import rows as run_rows
from attrbind_exp.runs import summary as run_summary
from attrbind_exp.runs.index import sweep_runs
from attrbind_exp.runs.rows import ExpressionRow, Row
from attrbind_exp.runs.summary import Summary, read_summary
from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.scoring.figures import Difference, VariantFigures
from attrbind_exp.types import UserError

PaperFigures = Mapping[str, tuple[float | None, float]]  # (threshold, None where it is not told; mIoU) by variant label


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and summary.json."""

    folder: Path
    summary: Summary

    @property
    def split(self) -> str:
        """The name of the data's split; "None" where it has none."""
        return str(self.summary.split)

    def rows(self) -> Iterator[Row]:
        """Its rows one by one; none where the folder has no such file. Raises UserError for a line that is no row."""
        file = self.folder / run_rows.NAME
        if file.is_file():
            with open(file, "rb") as stream:
                for row, _ in run_rows.read_rows(stream, file):
                    yield row


@dataclass(frozen=True)
class TableSpec:
    """What a table shows besides our own figures: its title, the paper's figures by variant label, and the mIoU of
    other methods by name."""

    title: str | None = None
    paper: PaperFigures = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)


def read_spec(report: object) -> TableSpec:
    """The `report` of a run's configuration. Raises UserError where it is none."""
    given = {k: v for k, v in report.items() if v is not None} if isinstance(report, Mapping) else report
    try:
        return msgspec.convert(given, TableSpec)
    except msgspec.ValidationError as error:
        raise UserError(
            f"report={report!r} describes no table ({error}); give title, paper ([threshold, mIoU] by variant), others"
        ) from error


def read_runs(folder: Path, splits: Sequence[str] = ()) -> list[Run]:
    """Every finished run below `folder`, in the order of `splits`; where the folder is a sweep's, only the runs that
    the sweep made, merged ones instead of their shards. Raises UserError where there is none."""
    folders = [f.parent for f in sorted(folder.glob(f"**/{run_summary.NAME}"))]
    if not folders:
        raise UserError(f"no finished run below '{folder}': no summary.json; run the sweep first")
    made = sweep_runs(folder)
    if made is not None:
        belonging = {f.resolve() for f in made}
        folders = [f for f in folders if f.resolve() in belonging]
    if not folders:
        raise UserError(f"no run of the sweep in '{folder}' is finished; start the sweep's command again")
    return in_order([Run(f, read_summary(f)) for f in folders], splits)


def in_order(runs: Sequence[Run], splits: Sequence[str]) -> list[Run]:
    """The runs in the order of their splits, those of no known split last."""
    return sorted(runs, key=lambda r: splits.index(r.split) if r.split in splits else len(splits))


def expression_scores(run: Run) -> pd.DataFrame:
    """IoU of every scored expression by variant label and threshold of the grid, mean over seeds.

    Columns: label, image_id, sample_id, and the thresholds "0.30" .. "0.75".
    """
    labels = {(v.text_processor, v.alpha): v.label for v in run.summary.variants}
    thresholds = list(run.summary.variants[0].mIoU_at)
    names: dict[str, list[str]] = {"label": [], "image_id": [], "sample_id": []}
    known: dict[str, str] = {}  # one string object for what many rows repeat
    values = array("d")
    for row in run.rows():
        if not isinstance(row, ExpressionRow) or row.iou_at is None:
            continue
        names["label"].append(labels[row.text_processor, row.alpha])
        names["image_id"].append(known.setdefault(row.image_id, row.image_id))
        names["sample_id"].append(known.setdefault(row.sample_id, row.sample_id))
        values.extend(row.iou_at[t] for t in thresholds)
    figures = pd.DataFrame(np.array(values).reshape(-1, len(thresholds)), columns=thresholds)
    frame = pd.concat([pd.DataFrame(names), figures], axis=1)
    return frame.groupby(list(names), sort=False).mean().reset_index()


def paper_table(runs: Sequence[Run], spec: TableSpec, selection: str | None) -> pd.DataFrame:
    """One row a variant and split: the paper's figure, ours at 0.50, oracle and held out, n, the difference.

    `selection` is the split that chooses thresholds for the others, None where there is none. Figures are numbers in
    percent, None where there is none.
    """
    chooser = next((r for r in runs if r.split == selection), None)
    rows = []
    for run in runs:
        held = chooser if run is not chooser else None
        by_expression = run.summary.scored == "expressions" and run.summary.n_scored
        scores = expression_scores(run) if held and by_expression else None
        first = run.summary.variants[0]
        for entry in run.summary.variants:
            threshold, paper = spec.paper.get(entry.label, (None, None))
            chosen = chosen_threshold(held, entry.label)
            row: dict[str, str | float | None] = {
                "split": run.split,
                "variant": entry.label,
                "alpha": entry.alpha,
                "n": entry.n,
                "paper": paper,
                "paper threshold": threshold,
                "mIoU at 0.50": entry.mIoU_at["0.50"],
                "mIoU oracle": entry.mIoU,
                "threshold oracle": entry.threshold,
                "spread": entry.mIoU_spread,
                "mIoU held out": entry.mIoU_at[f"{chosen:.2f}"] if chosen is not None else None,
                "threshold held out": chosen,
                "oIoU": entry.oIoU,
            }
            if entry is not first:
                row |= difference_columns(_difference(scores, first, entry, held))
            rows.append(row)
    return pd.DataFrame(rows)


def chosen_threshold(chooser: Run | None, label: str) -> float | None:
    """The best threshold of a variant on the split that chooses."""
    entry = chooser.summary.variant(label) if chooser else None
    if entry is None or entry.mIoU is None:
        return None
    scored = {threshold: value for threshold, value in entry.mIoU_at.items() if value is not None}
    return float(max(scored, key=lambda k: scored[k]))


def _difference(
    scores: pd.DataFrame | None, first: VariantFigures, entry: VariantFigures, chooser: Run | None
) -> Difference | None:
    """The difference to the first variant, at held-out thresholds where there are any, else as the run has it."""
    at = [chosen_threshold(chooser, e.label) for e in (first, entry)]
    if scores is None or scores.empty or None in at:
        return entry.difference
    mine = [scores[scores.label == e.label].set_index("sample_id") for e in (first, entry)]
    values = [100 * m[f"{t:.2f}"] for m, t in zip(mine, at, strict=True)]
    return paired_difference(values[0], values[1].loc[values[0].index], mine[0].image_id.tolist())


def difference_columns(d: Difference | None) -> dict[str, float | None]:
    """A difference as columns of the table; none where there is no difference."""
    if d is None:
        return {}
    return {"difference": d.mean, "low": d.low, "high": d.high, "better": d.better, "worse": d.worse, "same": d.same}


def readable(table: pd.DataFrame, spec: TableSpec, blank: str | None = None) -> pd.DataFrame:
    """The table for the eye, as text: thresholds after @, intervals beside differences. `blank` names an empty column
    beside the paper's, for what was not measured."""
    rows: list[dict[str, str]] = []
    for r in table.replace({np.nan: None}).to_dict("records"):
        shown = {
            "variant": r["variant"],
            "split": r["split"],
            "n": str(r["n"]),
            "paper": _at(r["paper"], r["paper threshold"]),
            **({blank: ""} if blank else {}),
            "at 0.50": figure(r["mIoU at 0.50"]),
            "oracle": _at(r["mIoU oracle"], r["threshold oracle"]),
            "held out": _at(r["mIoU held out"], r["threshold held out"]),
            "oIoU": figure(r["oIoU"]),
        }
        if r["spread"] is not None:
            shown["spread over seeds"] = figure(r["spread"], 2)
        if "difference" in table:
            none = r.get("difference") is None
            shown["difference [95 %]"] = "" if none else interval(r["difference"], r["low"], r["high"])
            shown["better / worse / same"] = "" if none else f"{r['better']:.0f} / {r['worse']:.0f} / {r['same']:.0f}"
        rows.append(shown)
    rows += [{"variant": name, "paper": figure(value)} for name, value in spec.others.items()]
    return pd.DataFrame(rows).fillna("")


def _at(value: float | None, threshold: float | None) -> str:
    return "" if value is None else figure(value) if threshold is None else f"{value:.1f} @{threshold:.2f}"
