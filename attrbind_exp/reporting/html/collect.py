"""The runs below a folder -> all that their report shows, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from attrbind_exp.reporting.html import sections
from attrbind_exp.reporting.html.comparison import Group, make_groups, one_threshold
from attrbind_exp.reporting.html.expressions import Table, read_table
from attrbind_exp.reporting.html.folder import FolderRuns, read_config, read_folder, without_merged_shards
from attrbind_exp.reporting.paper_tables import PaperFigures, TableSpec, beside_paper, is_papers, read_spec

Paper = Mapping[str, PaperFigures]  # by what is scored: expressions or images


@dataclass(frozen=True)
class Measured:
    """A folder's runs; the groups that stand side by side, with a table of expressions each; `results`: a row a column
    of the groups, None where nothing is finished; `spec`: the table of the paper that the runs' configuration asks for;
    `published`: the paper's figures for what was scored, none where no run measures what the paper does."""

    folder: Path
    runs: FolderRuns
    groups: Sequence[Group]
    tables: Sequence[Table]
    results: pd.DataFrame | None
    spec: TableSpec
    published: PaperFigures

    @property
    def between(self) -> pd.DataFrame:
        """The results with the floors and the ceiling of each group, for the eye; none where nothing is finished."""
        return pd.DataFrame() if self.results is None else sections.between(self.results, self.groups)

    @property
    def parts(self) -> list[pd.DataFrame]:
        """The results of each group."""
        table = self.results
        return [] if table is None else [table[table["group"] == i] for i in range(len(self.groups))]


def collect(folder: Path, paper: Paper) -> Measured:
    """Read a run's or a sweep's folder.

    `paper`: the paper's figures, for runs whose configuration names no table of its own. Raises UserError where there
    is nothing to show, or a file is not what a run writes.
    """
    folder = folder.resolve()
    runs = read_folder(folder)
    groups = make_groups(without_merged_shards(runs.finished), folder)
    shown = [run for group in groups for run in group.runs]
    spec = beside_paper(shown, _spec(groups, paper))
    published = {**paper.get(groups[0].scored, {}), **spec.paper} if any(is_papers(r.summary) for r in shown) else {}
    tables = [read_table(g, one_threshold(g, groups)) for g in groups]
    results = sections.results(groups, tables, spec, folder) if groups else None
    return Measured(folder, runs, groups, tables, results, spec, published)


def _spec(groups: Sequence[Group], paper: Paper) -> TableSpec:
    """The table that the runs' configuration asks for, else the paper's figures for what they scored."""
    if not groups:
        return TableSpec()
    named = read_config(groups[0].runs[0].folder).get("report")
    return read_spec(named) if isinstance(named, dict) else TableSpec(paper=paper.get(groups[0].scored, {}))
