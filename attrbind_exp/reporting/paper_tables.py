"""The runs of a sweep -> one table of the paper with ours beside it: thresholds best on the data itself (oracle), fixed
at 0.50, and chosen on another split (held out); differences with their intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.reporting.tables import figure, interval
from attrbind_exp.runs.index import sweep_runs
from attrbind_exp.scoring.compare import Difference, paired_difference
from attrbind_exp.types import UserError


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and summary.json."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def split(self) -> str:
        return str(self.summary["split"])

    def variant(self, label: str) -> Mapping[str, Any] | None:
        """The summary's entry of a variant."""
        return next((v for v in self.summary["variants"] if v["label"] == label), None)


def read_runs(folder: Path, splits: Sequence[str] = ()) -> list[Run]:
    """The finished runs of the sweep in `folder`, or all below it where no sweep was launched there; in the order of
    `splits`. Raises UserError where there is none."""
    listed = sweep_runs(folder)
    found = [f.parent for f in folder.glob("**/summary.json")] if listed is None else listed
    folders = sorted(f for f in found if (f / "summary.json").is_file())
    if not folders:
        raise UserError(f"no finished run below '{folder}': no summary.json; run the sweep first")
    runs = [Run(f, json.loads((f / "summary.json").read_text(encoding="utf-8"))) for f in folders]
    return sorted(runs, key=lambda r: splits.index(r.split) if r.split in splits else len(splits))


def expression_scores(run: Run) -> pd.DataFrame:
    """IoU of every expression by variant label and threshold of the grid, mean over seeds; from expressions.jsonl.

    Columns: label, image_id, sample_id, and the thresholds "0.30" .. "0.75".
    """
    labels = {(v["text_processor"], v["alpha"]): v["label"] for v in run.summary["variants"]}
    rows = []
    with open(run.folder / "expressions.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            names = (labels[row["text_processor"], row["alpha"]], row["image_id"], row["sample_id"])
            rows.append((*names, *row["iou_at"].values()))
    columns = ["label", "image_id", "sample_id", *run.summary["mIoU_at"]]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.groupby(["label", "image_id", "sample_id"], sort=False).mean().reset_index()


def paper_table(runs: Sequence[Run], spec: Mapping[str, Any], selection: str | None) -> pd.DataFrame:
    """One row a variant and split: the paper's figure, ours at 0.50, oracle and held out, n, the difference.

    `spec["paper"]` maps variant labels to [threshold, mIoU]; `selection` is the split that chooses thresholds for the
    others, None where there is none. Figures are numbers in percent, None where there is none.
    """
    chooser = next((r for r in runs if r.split == selection), None)
    rows = []
    for run in runs:
        held = chooser if run is not chooser else None
        by_expression = run.summary["scored"] == "expressions" and run.summary["n_scored"]
        scores = expression_scores(run) if held and by_expression else None
        first = run.summary["variants"][0]
        for entry in run.summary["variants"]:
            threshold, paper = (spec.get("paper") or {}).get(entry["label"], (None, None))
            chosen = chosen_threshold(held, entry["label"])
            row = {
                "split": run.split,
                "variant": entry["label"],
                "alpha": entry["alpha"],
                "n": entry["n"],
                "paper": paper,
                "paper threshold": threshold,
                "mIoU at 0.50": entry["mIoU_at"]["0.50"],
                "mIoU oracle": entry["mIoU"],
                "threshold oracle": entry["threshold"],
                "spread": entry.get("mIoU_spread"),
                "mIoU held out": entry["mIoU_at"][f"{chosen:.2f}"] if chosen is not None else None,
                "threshold held out": chosen,
                "oIoU": entry["oIoU"],
            }
            if entry is not first:
                row |= _difference(run, scores, first, entry, held)
            rows.append(row)
    return pd.DataFrame(rows)


def chosen_threshold(chooser: Run | None, label: str) -> float | None:
    """The best threshold of a variant on the split that chooses."""
    entry = chooser.variant(label) if chooser else None
    if entry is None or entry["mIoU"] is None:
        return None
    return float(max(entry["mIoU_at"], key=lambda k: entry["mIoU_at"][k]))


def _difference(
    run: Run, scores: pd.DataFrame | None, first: Mapping[str, Any], entry: Mapping[str, Any], chooser: Run | None
) -> dict[str, Any]:
    """The difference to the first variant, at held-out thresholds where there are any, else as the run has it."""
    at = [chosen_threshold(chooser, e["label"]) for e in (first, entry)]
    if scores is None or None in at:
        stored = entry.get("difference")
        return _columns(Difference(**stored)) if stored else {}
    mine = [scores[scores.label == e["label"]].set_index("sample_id") for e in (first, entry)]
    values = [100 * m[f"{t:.2f}"] for m, t in zip(mine, at, strict=True)]
    found = paired_difference(values[0], values[1].loc[values[0].index], mine[0].image_id.tolist())
    return _columns(found)


def _columns(d: Difference) -> dict[str, Any]:
    return {"difference": d.mean, "low": d.low, "high": d.high, "better": d.better, "worse": d.worse, "same": d.same}


def readable(table: pd.DataFrame, spec: Mapping[str, Any], blank: str | None = None) -> pd.DataFrame:
    """The table for the eye, as text: thresholds after @, intervals beside differences. `blank` names an empty column
    beside the paper's, for what was not measured."""
    rows = []
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
    for name, value in (spec.get("others") or {}).items():
        rows.append({"variant": name, "paper": figure(value)})
    return pd.DataFrame(rows).fillna("")


def _at(value: float | None, threshold: float | None) -> str:
    return "" if value is None else figure(value) if threshold is None else f"{value:.1f} @{threshold:.2f}"
