"""The short tables of a comparison: a line a reading under the plain prompt, a line an edit under the first reading."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from attrbind_exp.edits.variant import BASELINE, split_reading
from attrbind_exp.reporting.costs import Cost
from attrbind_exp.reporting.methods_tables import VOTES, at_threshold, difference, marked_rows, votes
from attrbind_exp.reporting.paper_tables import leading
from attrbind_exp.reporting.references import without_floors
from attrbind_exp.reporting.tables import figure

NOT_MEASURED = "not measured"
WAY = "% of the way"  # from the highest floor to the ceiling
Rows = list[dict[Any, Any]]


def readings(table: pd.DataFrame, costs: Mapping[str, Cost]) -> pd.DataFrame:
    """One line a reading of the last split's baseline, from the table of the sweep `methods`, the best first."""
    rows = [row for row in _last(table) if _parts(row)[0] == BASELINE]
    return pd.DataFrame(
        {
            "reading": _parts(row)[1] or "",
            "mIoU": at_threshold(row),
            WAY: figure(row.get("share")),
            "difference [95 %]": difference(row),
            "passes, measured": _passes(costs.get(_parts(row)[1] or ""), "measured"),
            "passes, counted": _passes(costs.get(_parts(row)[1] or ""), "counted"),
        }
        for row in _best_first(rows)
    )


def edits(table: pd.DataFrame) -> pd.DataFrame:
    """One line an edit of the last split under the reading of the first row, the best first."""
    rows = _last(table)
    first = _parts(rows[0])[1]
    return pd.DataFrame(
        {
            "edit": _parts(row)[0],
            "mIoU": at_threshold(row),
            WAY: figure(row.get("share")),
            "difference [95 %]": difference(row),
            VOTES: votes(row),
        }
        for row in _best_first([row for row in rows if _parts(row)[1] == first])
    )


def _last(table: pd.DataFrame) -> Rows:
    """The last split's rows without floors and ceiling; marks are those of the whole table."""
    kept = set(without_floors(table)["variant"])
    split = table["split"].iloc[-1]
    return [row for row in marked_rows(table) if row["split"] == split and row["variant"] in kept]


def _best_first(rows: Rows) -> Rows:
    """By mIoU; equal ones in the order of the table."""
    return sorted(rows, key=lambda row: -(leading(row, "mIoU") or 0))


def _parts(row: dict[Any, Any]) -> tuple[str, str | None]:
    return split_reading(str(row["variant"]))


def _passes(cost: Cost | None, name: str) -> str:
    """ "" where nothing is known of a reading's cost."""
    if cost is None:
        return ""
    passes = getattr(cost, name)
    return NOT_MEASURED if passes is None else figure(passes, 2)
