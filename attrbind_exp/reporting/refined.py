"""Refined heat maps in tables: a part for each refinement, since their figures stand apart from plain ones."""

import pandas as pd

from attrbind_exp.edits.variant import refinement_in
from attrbind_exp.reporting.paper_tables import Run

PLAIN = "as they were read"


def refinement_of(run: Run) -> str | None:
    """What a run does to its heat maps, such as "refine=guided_filter"; None where it scores them as they were read."""
    return refinement_in(run.summary.variants[0].label)


def by_refinement(table: pd.DataFrame) -> dict[str | None, pd.DataFrame]:
    """The rows of references.with_references by refinement, those of plain heat maps (None) first, since refined
    figures stand apart. The whole table where nothing is refined."""
    if "refine" not in table:
        return {None: table}
    kinds = table["refine"].fillna("")
    return {kind or None: table[kinds == kind].drop(columns="refine") for kind in sorted(kinds.unique(), key=bool)}
