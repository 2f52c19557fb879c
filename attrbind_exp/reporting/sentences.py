"""A table's figures -> what they say, in sentences."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.edits.variant import is_floor
from attrbind_exp.reporting.paper_tables import comparisons, leading
from attrbind_exp.reporting.references import without_floors
from attrbind_exp.reporting.tables import interval
from attrbind_exp.scoring.holm import survive

Row = Mapping[Hashable, Any]  # of paper_tables.paper_table


def sentences(table: pd.DataFrame) -> list[str]:
    """One sentence a split on how its other variants compare with its first: how many intervals lie above zero, below
    it and across it, how many survive Holm's correction over the whole table, the highest and the lowest difference. A
    floor is none of them. None for a split without differences."""
    ps = comparisons(table)
    n = sum(p is not None for p in ps)
    said = []
    for split, part in table.replace({np.nan: None}).assign(kept=survive(ps)).groupby("split", sort=False):
        rows = part.to_dict("records")
        variants = [row for row in rows if not is_floor(str(row["variant"]))]
        compared = [row for row in variants if leading(row, "difference") is not None]
        if compared:
            # Of several runs each is compared with its own.
            named = set(without_floors(part)["variant"])
            alone = [row["variant"] for row in variants if leading(row, "difference") is None]
            own = {str(name).partition(" · ")[0] for name in alone if name in named}
            first = own.pop() if len(own) == 1 else "the first of the same run"
            said.append(_sentence(str(split), first, compared, n))
    return said


def _sentence(split: str, first: str, rows: Sequence[Row], n: int) -> str:
    kind = "held-out" if rows[0].get("difference held out") is not None else "oracle"
    start = f"On {split}, at {kind} thresholds,"
    ends = [max(rows, key=_mean), min(rows, key=_mean)]
    if len(rows) == 1:
        return f"{start} {_named(rows[0])} against {first}{_survivors(rows, n)}."
    signs = [_sign(row) for row in rows]
    counts = [sum(sign == s for sign in signs) for s in (1, -1, 0)]
    return (
        f"{start} of {len(rows)} variants the difference to {first} has an interval above zero for {counts[0]}, "
        f"below it for {counts[1]}, across it for {counts[2]}{_survivors(rows, n)}; "
        f"the highest is {_named(ends[0])}, the lowest {_named(ends[1])}."
    )


def _survivors(rows: Sequence[Row], n: int) -> str:
    """How many of the rows survive Holm's correction over the n comparisons of the table; "" where n is below 2, and
    for rows of a summary of an earlier version, which has no p."""
    known = [row for row in rows if leading(row, "p") is not None]
    if n < 2 or not known:
        return ""
    kept = sum(bool(row["kept"]) for row in known)
    one = "which survives" if kept else "which does not survive"
    which = f"{kept} of {len(known)} survive" if len(rows) > 1 else one
    return f", {which} Holm's correction over the table's {n} comparisons"


def _mean(row: Row) -> float:
    return float(leading(row, "difference"))


def _named(row: Row) -> str:
    return f"{row['variant']} {interval(*(leading(row, name) for name in ('difference', 'low', 'high')))}"


def _sign(row: Row) -> int:
    """1 where a row's interval lies above zero, -1 below it; 0 where it spans zero, or there is none."""
    low, high = leading(row, "low"), leading(row, "high")
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)
