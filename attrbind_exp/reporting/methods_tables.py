"""The tables of a sweep that compares readings and edits, of six columns at most, from its results.csv."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.edits.variant import is_plain, plain_label
from attrbind_exp.reporting.paper_tables import Run, comparisons, expression_scores, leading, read_runs
from attrbind_exp.reporting.references import without_floors
from attrbind_exp.reporting.tables import figure, interval, markdown, marked, marks
from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.scoring.figures import Difference
from attrbind_exp.types import UserError

TABLE = "results.csv"
VOTES = "better / worse / same"


@dataclass(frozen=True)
class Compared:
    """A finished sweep: its folder, its whole table as paper_tables.paper_table has it, its runs in the order of their
    splits."""

    folder: Path
    table: pd.DataFrame
    runs: Sequence[Run]

    @property
    def data(self) -> str:
        """The name of its folder: dataset and model."""
        return self.folder.name

    @property
    def last(self) -> Run:
        """The run of the last split, whose thresholds are held out where there are several."""
        return self.runs[-1]

    @property
    def all_last(self) -> Sequence[Run]:
        """All runs of the last split, those whose latents were stepped on or whose maps were refined behind the plain
        one."""
        of_it = [run for run in self.runs if run.split == self.last.split]
        return sorted(of_it, key=lambda run: not is_plain(run.summary.variants[0].label))


def thresholds(compared: Compared) -> dict[str, float]:
    """The threshold of each variant of the last split, held out where it has that; floors have none."""
    rows = without_floors(compared.table)
    rows = rows[rows["split"] == compared.last.split]
    found = {str(row["variant"]): leading(row, "threshold") for row in rows.to_dict("records")}
    return {label: float(threshold) for label, threshold in found.items() if threshold is not None}


def read_compared(folder: Path) -> Compared:
    """A sweep from its folder. Raises UserError where it left no table or no run."""
    file = folder / TABLE
    if not file.is_file():
        raise UserError(f"no {TABLE} in '{folder}'; start the sweep's command again, which makes it of finished runs")
    # A split may be called None, and figures come back with all their digits.
    table = pd.read_csv(file, keep_default_na=False, na_values=[""], float_precision="round_trip")
    splits = [str(split) for split in table["split"].unique()]
    return Compared(folder, table, read_runs(folder, splits))


def marked_rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of a table, None for what they lack, each with its `mark`: " *" where its difference survives Holm's
    correction over all comparisons of the table."""
    records = table.replace({np.nan: None}).to_dict("records")
    return [row | {"mark": mark} for row, mark in zip(records, marks(comparisons(table)), strict=True)]


def at_threshold(row: dict[Any, Any]) -> str:
    """Such as "46.1 @0.60": mIoU and the threshold that it stands at, held out where it has that."""
    value, threshold = leading(row, "mIoU"), leading(row, "threshold")
    return figure(value) if value is None or threshold is None else f"{value:.1f} @{threshold:.2f}"


def difference(row: dict[Any, Any]) -> str:
    """Such as "+0.6 [+0.2, +1.0] *"; "" where the row is compared with nothing."""
    mean = leading(row, "difference")
    return "" if mean is None else interval(mean, leading(row, "low"), leading(row, "high")) + str(row["mark"])


def votes(row: dict[Any, Any]) -> str:
    """Such as "955 / 487 / 268", "" where the row is compared with nothing."""
    counts = [row.get(name) for name in ("better", "worse", "same")]
    return "" if None in counts else " / ".join(f"{count:.0f}" for count in counts)


def split_tables(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(heading, Markdown) of every split, floors and ceiling among its rows, and of what last edits add."""
    rows = marked_rows(table)
    found = []
    for split in table["split"].unique():
        part = [row for row in rows if row["split"] == split]
        held = any(row.get("mIoU held out") is not None for row in part)
        kind = "thresholds chosen on another split" if held else "each at the threshold that is best here"
        shown = pd.DataFrame([_row(row, held) for row in part])
        found.append((f"{split}: {part[0]['n']:.0f} expressions, {kind}", markdown(shown)))
    if any(row.get("beyond") is not None for row in rows):
        found.append(("what the last edit adds", markdown(pd.DataFrame(_added(rows)))))
    return found


def _row(row: dict[Any, Any], held: bool) -> dict[str, str]:
    other = {"oracle": _oracle(row)} if held else {"at 0.50": figure(row["mIoU at 0.50"])}
    shown = {"variant": row["variant"], "mIoU": at_threshold(row)}
    return shown | other | {"oIoU": figure(row["oIoU"]), "difference [95 %]": difference(row), VOTES: votes(row)}


def _oracle(row: dict[Any, Any]) -> str:
    value, threshold = row.get("mIoU oracle"), row.get("threshold oracle")
    return figure(value) if value is None or threshold is None else f"{value:.1f} @{threshold:.2f}"


def _added(rows: Sequence[dict[Any, Any]]) -> list[dict[str, str]]:
    """A line a variant of several edits: by how much it is better than the same one without its last edit."""
    return [
        {
            "variant": row["variant"],
            "split": str(row["split"]),
            "beyond": row["beyond"],
            "adds [95 %]": interval(*(leading(row, f"added{end}") for end in ("", " low", " high"))),
        }
        for row in rows
        if row.get("beyond") is not None
    ]


def beside(table: pd.DataFrame, authors: pd.DataFrame) -> str:
    """Markdown of the last split of a sweep with tuned constants; the same variants with their authors' constants, from
    another sweep's table on the same data, stand beside them ("" where that has none). "iseg_tuned_on_shapes" is
    read as "iseg"."""
    known = {(row["split"], row["variant"]): row for row in marked_rows(authors)}
    split = table["split"].iloc[-1]
    rows = [row for row in marked_rows(table) if row["split"] == split]
    shown = [
        {
            "variant": row["variant"],
            "tuned": at_threshold(row),
            "authors' constants": at_threshold(of) if (of := known.get((split, untuned(row["variant"])))) else "",
            "oIoU": figure(row["oIoU"]),
            "difference [95 %]": difference(row),
            VOTES: votes(row),
        }
        for row in rows
    ]
    return markdown(pd.DataFrame(shown))


def untuned(label: str) -> str:
    """A variant's label, its reading under the name that it has with its authors' constants."""
    return re.sub(r"(heatmap=\w+?)_tuned_on_\w+", r"\1", label)


def more_than_plain(runs: Sequence[Run], thresholds: Mapping[str, float]) -> pd.DataFrame:
    """One line a variant whose latents were stepped on or whose heat maps were refined: by how much it is better than
    the same variant without that, of another run on the same data, over the expressions that both have scored.
    `thresholds`: of each variant by label; expressions are counted as better or worse at the plain one's."""
    scores = {str(label): part for run in runs for label, part in expression_scores(run).groupby("label", sort=False)}
    found = {
        label: _difference(scores[plain], ours, thresholds[plain], thresholds[label])
        for label, ours in scores.items()
        if (plain := plain_label(label)) != label and plain in scores and {plain, label} <= set(thresholds)
    }
    votes = [f"{d.better} / {d.worse} / {d.same}" for d in found.values()]
    cells = marked(list(found.values()))
    return pd.DataFrame({"variant": list(found), "more than plain [95 %]": cells, VOTES: votes})


def _difference(base: pd.DataFrame, ours: pd.DataFrame, at: float, ours_at: float) -> Difference:
    """Of a stepped or refined variant to the plain one, each at its own threshold."""
    one, other = (scores.set_index("sample_id") for scores in (base, ours))
    both = one.index.intersection(other.index, sort=False)
    one, other = one.loc[both], other.loc[both]
    counted = 100 * (other[f"{at:.2f}"] - one[f"{at:.2f}"]).to_numpy()
    return paired_difference(
        100 * one[f"{at:.2f}"], 100 * other[f"{ours_at:.2f}"], one["image_id"].tolist(), counted=counted
    )
