"""The table of a sweep for the eye: figures as text, and what stands under it."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.reporting.paper_tables import KINDS, TableSpec, comparisons, leading
from attrbind_exp.reporting.tables import few_line, figure, interval, mark_line, markdown, marks, way_from

VOTES = "better / worse / same"


def notes(table: pd.DataFrame) -> list[str]:
    """The lines under the table: what its marks say, and where its intervals are rough; none, one or both."""
    images = table["images"].replace({np.nan: None}).tolist() if "images" in table else []
    return [line for line in (mark_line(comparisons(table)), few_line(images)) if line]


def readable(table: pd.DataFrame, spec: TableSpec) -> pd.DataFrame:
    """The table for the eye, as text: thresholds after @, intervals beside differences, marked where they survive
    Holm's correction over all `comparisons`; held-out figures before oracle ones. What no row has, the paper's figures
    among it, has no column."""
    records = table.replace({np.nan: None}).to_dict("records")
    way = share_column(records)
    rows = [_readable_row(r, way, mark) for r, mark in zip(records, marks(comparisons(table)), strict=True)]
    rows += [{"variant": name, "paper": figure(value)} for name, value in spec.others.items()]
    shown = pd.DataFrame(rows).fillna("")
    return shown[[name for name in shown if shown[name].any()]]


def table_page(table: pd.DataFrame, spec: TableSpec) -> str:
    """The same as Markdown, and under it what its marks say and where its intervals are rough."""
    return "\n\n".join(filter(None, [markdown(readable(table, spec)), *notes(table)]))


def _readable_row(r: Mapping[Hashable, Any], way: str, mark: str) -> dict[str, str]:
    differences = {kind: r.get(f"difference {kind}") for kind in KINDS}
    marked = next((kind for kind, d in differences.items() if d is not None), None)
    counts = [r.get(name) for name in ("better", "worse", "same")]
    return {
        "variant": r["variant"],
        "split": r["split"],
        "n": str(r["n"]),
        "paper": _at(r.get("paper"), r.get("paper threshold")),
        "at 0.50": figure(r["mIoU at 0.50"]),
        **{kind: _at(r[f"mIoU {kind}"], r[f"threshold {kind}"]) for kind in KINDS},
        way: "" if r.get("share") is None else figure(r["share"]),
        "oIoU": figure(r["oIoU"]),
        "spread over seeds": "" if r["spread"] is None else figure(r["spread"], 2),
        **{
            f"difference {kind} [95 %]": ""
            if d is None
            else interval(d, r.get(f"low {kind}"), r.get(f"high {kind}")) + (mark if kind == marked else "")
            for kind, d in differences.items()
        },
        VOTES: "" if None in counts else _counts(counts, r.get("counted at")),
        "last edit adds [95 %]": _added(r),
    }


def _added(r: Mapping[Hashable, Any]) -> str:
    """Such as "+0.2 [-0.1, +0.6] beyond noun_chunk"."""
    mean, low, high = (leading(r, name) for name in ("added", "added low", "added high"))
    return "" if mean is None else f"{interval(mean, low, high)} beyond {r['beyond']}"


def share_column(records: Sequence[Mapping[Hashable, Any]]) -> str:
    """What the shares of a table are called: after their floor where all have the same."""
    names = {r["share from"] for r in records if r.get("share from") is not None}
    return way_from(names.pop() if len(names) == 1 else "the highest floor")


def _counts(counts: Sequence[float | None], threshold: float | None) -> str:
    text = " / ".join(f"{count:.0f}" for count in counts)
    return text if threshold is None else f"{text} @{threshold:.2f}"


def _at(value: float | None, threshold: float | None) -> str:
    return "" if value is None else figure(value) if threshold is None else f"{value:.1f} @{threshold:.2f}"
