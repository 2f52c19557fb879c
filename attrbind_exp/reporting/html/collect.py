"""The runs below a folder -> all that their report shows, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attrbind_exp.reporting.html import sections
from attrbind_exp.reporting.html.comparison import (
    Group,
    Unfinished,
    make_groups,
    read_config,
    read_folder,
    without_merged_shards,
)
from attrbind_exp.reporting.html.expressions import Table, read_table
from attrbind_exp.reporting.paper_tables import Run

Paper = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measured:
    """A folder's runs, finished or not; the groups that stand side by side with a table of expressions each; `results`:
    a row a column of the groups, None where nothing is finished; `spec`: the table of the paper that the runs'
    configuration asks for; `published`: the paper's [threshold, mIoU] by variant label."""

    folder: Path
    found: Sequence[Run]
    unfinished: Sequence[Unfinished]
    groups: Sequence[Group]
    tables: Sequence[Table]
    results: pd.DataFrame | None
    spec: Mapping[str, Any]
    published: Mapping[str, Any]

    @property
    def parts(self) -> list[pd.DataFrame]:
        """The results of each group."""
        table = self.results
        return [] if table is None else [table[table["group"] == i] for i in range(len(self.groups))]


def collect(folder: Path, paper: Paper) -> Measured:
    """Read a run's or a sweep's folder.

    `paper`: the paper's [threshold, mIoU] by what is scored and by variant label, for runs whose configuration names no
    table of its own. Raises UserError where there is nothing to show, or a file is not what a run writes.
    """
    folder = folder.resolve()
    found, unfinished = read_folder(folder)
    groups = make_groups(without_merged_shards(found), folder)
    spec = _spec(groups, paper)
    published = {**paper.get(groups[0].scored, {}), **(spec.get("paper") or {})} if groups else {}
    tables = [read_table(g) for g in groups]
    results = sections.results(groups, tables, spec, folder) if groups else None
    return Measured(folder, found, unfinished, groups, tables, results, spec, published)


def _spec(groups: Sequence[Group], paper: Paper) -> dict[str, Any]:
    """The table that the runs' configuration asks for, else the paper's figures for what they scored."""
    if not groups:
        return {}
    named = read_config(groups[0].runs[0].folder).get("report")
    return named if isinstance(named, dict) else {"paper": paper.get(groups[0].scored, {})}
