"""Floors and the ceiling in tables of runs: rows of their own, and how far each variant is on the way between them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from attrbind_exp.edits.variant import is_floor, refinement_in
from attrbind_exp.reporting.paper_tables import Run, leading
from attrbind_exp.reporting.refined import refinement_of
from attrbind_exp.scoring.figures import Reference
from attrbind_exp.scoring.metrics import key
from attrbind_exp.scoring.references import CEILING, CENTRE, OBJECTS, PROPOSALS, highest, share

NAMES = (OBJECTS, CENTRE, CEILING, PROPOSALS)


def with_references(table: pd.DataFrame, runs: Sequence[Run], selection: str | None) -> pd.DataFrame:
    """paper_tables.paper_table of these runs with floors and ceiling below the variants of each split, and the columns
    that `with_shares` adds. `selection`: the split that chooses thresholds for the others, None where there is none.

    Where heat maps were refined, each refinement has rows of its own, and a column `refine` says of every row which.
    """
    kinds = sorted(dict.fromkeys(map(refinement_of, runs)), key=lambda kind: kind is not None)
    refined, parts = table["variant"].map(refinement_in), []
    for split in table["split"].unique():
        for kind in kinds:
            alike = [run for run in runs if refinement_of(run) == kind]
            chooser = next((run for run in alike if run.split == selection), None)
            part = table[(table["split"] == split) & (refined.isna() if kind is None else refined == kind)]
            found = reference_rows([run for run in alike if run.split == split], chooser)
            part = with_shares(pd.concat([part, pd.DataFrame(found)]) if found else part)
            parts.append(part if kinds == [None] else part.assign(refine=kind))
    return pd.concat(parts, ignore_index=True)


def reference_rows(runs: Sequence[Run], chooser: Run | None) -> list[dict[str, str | float | None]]:
    """Rows as paper_tables.paper_table has them, of the floors and the ceiling of runs on the same data. `chooser`: the
    run that chooses thresholds for the others."""
    run = next((run for run in runs if run.summary.references), None)
    if run is None:
        return []
    held = None if chooser is None or chooser in runs else {r.name: r for r in chooser.summary.references}
    return [_row(run.split, reference, held) for reference in run.summary.references]


def _row(split: str, found: Reference, held: Mapping[str, Reference] | None) -> dict[str, str | float | None]:
    row: dict[str, str | float | None] = {
        "split": split,
        "variant": found.name,
        "n": found.n,
        "mIoU at 0.50": found.mIoU_at.get("0.50", found.mIoU),
        "mIoU oracle": found.mIoU,
        "threshold oracle": found.threshold,
    }
    if held is None or found.name not in held:
        return row
    chosen = held[found.name].threshold
    at = found.mIoU if chosen is None else found.mIoU_at[key(round(100 * chosen))]
    return row | {"mIoU held out": at, "threshold held out": chosen}


def with_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one table on the same data with two more columns: `share` in percent of the way from the highest floor to
    the ceiling, at held-out thresholds where there are any, and `share from`, that floor's name; None without both."""
    records = rows.replace({np.nan: None}).to_dict("records")
    heights = {str(r["variant"]): leading(r, "mIoU") for r in records}
    floor = highest({name: value for name, value in heights.items() if is_floor(name) or name in NAMES[:2]})
    ceiling = heights.get(CEILING)
    name, height = floor or (None, None)
    found = [None if r["variant"] in NAMES else share(leading(r, "mIoU"), height, ceiling) for r in records]
    return rows.assign(**{"share": found, "share from": [None if s is None else name for s in found]})


def without_floors(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that are rivals or the baseline: no floor, no ceiling."""
    return table[[not is_floor(name) and name not in NAMES for name in table["variant"]]]
