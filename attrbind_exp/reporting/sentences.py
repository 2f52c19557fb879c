"""A table's figures -> what they say, in sentences."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.edits.variant import is_floor
from attrbind_exp.reporting.paper_tables import leading
from attrbind_exp.reporting.tables import interval

Row = Mapping[Hashable, Any]  # of paper_tables.paper_table


def sentences(table: pd.DataFrame) -> list[str]:
    """One sentence a split on how its other variants compare with its first: how many intervals lie above zero, below
    it and across it, and the highest and the lowest difference. A floor is none of them. None for a split without
    differences."""
    said = []
    for split, part in table.replace({np.nan: None}).groupby("split", sort=False):
        rows = part.to_dict("records")
        variants = [row for row in rows if not is_floor(str(row["variant"]))]
        compared = [row for row in variants if leading(row, "difference") is not None]
        if compared:
            said.append(_sentence(str(split), str(rows[0]["variant"]), compared))
    return said


def _sentence(split: str, first: str, rows: Sequence[Row]) -> str:
    kind = "held-out" if rows[0].get("difference held out") is not None else "oracle"
    start = f"On {split}, at {kind} thresholds,"
    ends = [max(rows, key=_mean), min(rows, key=_mean)]
    if len(rows) == 1:
        return f"{start} {_named(rows[0])} against {first}."
    signs = [_sign(row) for row in rows]
    counts = [sum(sign == s for sign in signs) for s in (1, -1, 0)]
    return (
        f"{start} of {len(rows)} variants the difference to {first} has an interval above zero for {counts[0]}, "
        f"below it for {counts[1]}, across it for {counts[2]}; "
        f"the highest is {_named(ends[0])}, the lowest {_named(ends[1])}."
    )


def _mean(row: Row) -> float:
    return float(leading(row, "difference"))


def _named(row: Row) -> str:
    return f"{row['variant']} {interval(*(leading(row, name) for name in ('difference', 'low', 'high')))}"


def _sign(row: Row) -> int:
    """1 where a row's interval lies above zero, -1 below it; 0 where it spans zero, or there is none."""
    low, high = leading(row, "low"), leading(row, "high")
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)
