"""expressions.jsonl -> IoU by expression and variant. Read line by line: the file may be larger than memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.reporting.paper_tables import Run
from attrbind_exp.scoring import classes, metrics
from attrbind_exp.types import UserError


@dataclass(frozen=True)
class About:
    """What one row of the table says besides its figures; of a class-wise run it is an image."""

    sample_id: str
    image_id: str
    text: str
    target: str
    slices: Sequence[str]


@dataclass
class Table:
    """Expressions (or images) of a group: `iou` (n, columns) in percent, each column at its own threshold and mean over
    noise seeds, NaN where a run lacks the expression; `curves` (columns, K) are mIoU in percent at all thresholds, None
    for class-wise runs, whose pixels are pooled; `rows`: row numbers by sample."""

    about: list[About] = field(default_factory=list)
    iou: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    curves: np.ndarray | None = None
    rows: dict[str, int] = field(default_factory=dict)

    def change(self, first: int, second: int) -> np.ndarray:
        """IoU under column `second` less that under `first`, (n,); NaN where one of them lacks."""
        return self.iou[:, second] - self.iou[:, first]


def read_table(group: Group) -> Table:
    """All rows of a group's runs. Raises UserError for a line that is none of this run's rows."""
    table = Table()
    width = len(group.columns)
    sums: list[list[float]] = []
    counts: list[list[int]] = []
    curves = np.zeros((width, len(metrics.THRESHOLDS)))
    for run in group.runs:
        columns = {
            (c.entry["text_processor"], c.entry["alpha"]): (i, round(100 * (c.entry["threshold"] or 0)))
            for i, c in enumerate(group.columns)
            if c.run is run
        }
        for row in _read(run):
            place = columns.get((row["text_processor"], row["alpha"]))
            if place is None or row.get("intersection", 0) is None:
                continue  # stands in another run's column; or has no ground truth
            key = str(row.get("sample_id", row["image_id"]))
            number = table.rows.setdefault(key, len(table.rows))
            if number == len(sums):
                table.about.append(_about(key, row))
                sums.append([0.0] * width)
                counts.append([0] * width)
            column, threshold = place
            sums[number][column] += _iou(row, threshold)
            counts[number][column] += 1
            if "iou_at" in row:
                curves[column] += metrics.iou(np.array(row["intersection"]), np.array(row["union"]))
    n = np.array(counts, float).reshape(-1, width)
    with np.errstate(invalid="ignore"):
        table.iou = 100 * np.array(sums).reshape(-1, width) / n
    if group.scored == "expressions" and len(n):
        table.curves = 100 * curves / np.maximum(n.sum(0), 1)[:, None]
    return table


def _read(run: Run) -> Iterator[dict[str, Any]]:
    file = run.folder / "expressions.jsonl"
    if not file.is_file():
        return
    with open(file, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
                row["text_processor"], row["alpha"], row["image_id"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"'{file}', line {number}, is no row of a run; start the run again") from error
            yield row


def _about(key: str, row: Mapping[str, Any]) -> About:
    if "looked_for" in row:
        return About(key, row["image_id"], ", ".join(row["looked_for"]), "", ())
    labels = [
        f"{name}={value}"
        for name, values in row["slices"].items()
        for value in ([values] if isinstance(values, str) else values or ["none"])
    ]
    return About(key, row["image_id"], row["expression"], row["target"], labels)


def _iou(row: Mapping[str, Any], threshold: int) -> float:
    """IoU of an expression, or mean over its classes of an image, at a row of THRESHOLDS."""
    if "iou_at" in row:
        return row["intersection"][threshold] / max(1, row["union"][threshold])
    hit = np.array([h[threshold] for h in row["hit"]])[:, None]
    called = np.array([p[threshold] for p in row["predicted"]])[:, None]
    return float(classes.mean_iou(hit, np.array(row["truth"])[:, None] + called - hit)[0])


def choose(change: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """Row numbers, ascending, of at most `limit` rows: all where they are that few, else a quarter of the most
    improved, a quarter of the most harmed and a seeded random half of the rest. `change` (n,) may hold NaN."""
    n = len(change)
    if n <= limit:
        return np.arange(n)
    known = np.nan_to_num(change)
    order = np.argsort(-known, kind="stable")
    quarter = limit // 4
    improved = order[:quarter][known[order[:quarter]] > 0]
    harmed = order[n - quarter :][known[order[n - quarter :]] < 0]
    rest = np.setdiff1d(np.arange(n), np.concatenate([improved, harmed]))
    drawn = np.random.default_rng(seed).choice(rest, limit - len(improved) - len(harmed), replace=False)
    return np.sort(np.concatenate([improved, harmed, drawn]))
