"""Rows of runs -> IoU by expression and variant. They are read one by one: a file may be larger than memory."""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.runs.rows import ExpressionRow, ImageRow, Row
from attrbind_exp.scoring import classes, metrics


@dataclass(frozen=True, slots=True)
class About:
    """What one row of the table says besides its figures; of a class-wise run it is an image."""

    sample_id: str
    image_id: str
    text: str
    target: str = ""
    chunk: str = ""
    fallbacks: Sequence[str] = ()
    slices: Sequence[str] = ()


@dataclass
class Table:
    """Expressions (or images) of a group, means over noise seeds.

    `iou` (n, columns): IoU in percent, each column at its own threshold, NaN where a run lacks the expression;
    `iou_at_one`: the same, all columns at one `threshold`, so that equal heat maps have equal figures; `curves`
    (columns, K): mIoU in percent at all thresholds, None for class-wise runs, whose pixels are pooled; `rows`: row
    numbers by sample.
    """

    about: list[About] = field(default_factory=list)
    iou: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    iou_at_one: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    threshold: float | None = None
    curves: np.ndarray | None = None
    rows: dict[str, int] = field(default_factory=dict)

    def change(self, first: int, second: int) -> np.ndarray:
        """IoU under column `second` less that under `first`, both at the one threshold, (n,); NaN where one lacks."""
        return self.iou_at_one[:, second] - self.iou_at_one[:, first]


def read_table(group: Group, threshold: float | None = None) -> Table:
    """All rows of a group's runs; `threshold`: the one for all columns, None = the first column's. Raises UserError for
    a line that is no row."""
    one = group.columns[0].entry.threshold if threshold is None else threshold
    table, describer = Table(threshold=one), _Describer()
    width = len(group.columns)
    none = array("d", [0.0] * width)
    sums, at_one, counts = array("d"), array("d"), array("d")  # (n, columns), row after row
    curves = np.zeros((width, len(metrics.THRESHOLDS)))
    for run in group.runs:
        columns = {
            (c.entry.text_processor, c.entry.alpha): (i, round(100 * (c.entry.threshold or 0)))
            for i, c in enumerate(group.columns)
            if c.run is run
        }
        for row in run.rows():
            place = columns.get((row.text_processor, row.alpha))
            if place is None or (isinstance(row, ExpressionRow) and row.intersection is None):
                continue  # stands in another run's column; or has no ground truth
            key = row.sample_id if isinstance(row, ExpressionRow) else row.image_id
            number = table.rows.setdefault(key, len(table.rows))
            if number == len(table.about):
                table.about.append(describer.about(row))
                sums.extend(none)
                at_one.extend(none)
                counts.extend(none)
            column, own = place
            sums[number * width + column] += _iou(row, own)
            at_one[number * width + column] += _iou(row, round(100 * (one or 0)))
            counts[number * width + column] += 1
            if isinstance(row, ExpressionRow):
                curves[column] += metrics.iou(np.array(row.intersection), np.array(row.union))
    n = np.array(counts).reshape(-1, width)
    with np.errstate(invalid="ignore"):
        table.iou, table.iou_at_one = (100 * np.array(x).reshape(-1, width) / n for x in (sums, at_one))
    if group.scored == "expressions" and len(n):
        table.curves = 100 * curves / np.maximum(n.sum(0), 1)[:, None]
    return table


class _Describer:
    """Makes About of rows. Texts that many rows repeat (image, target, slices) become one object."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lists: dict[tuple[str, ...], tuple[str, ...]] = {}

    def about(self, row: Row) -> About:
        """What a row says besides its figures."""
        if isinstance(row, ImageRow):
            return About(row.image_id, row.image_id, ", ".join(row.looked_for))
        labels = [
            f"{name}={value}"
            for name, values in row.slices.items()
            for value in ([values] if isinstance(values, str) else values or ["none"])
        ]
        return About(
            row.sample_id,
            self._text(row.image_id),
            row.expression,
            self._text(row.target),
            self._text(row.chunk),
            self._list(row.fallbacks),
            self._list(labels),
        )

    def _text(self, text: str) -> str:
        return self._texts.setdefault(text, text)

    def _list(self, texts: Sequence[str]) -> tuple[str, ...]:
        found = tuple(self._text(text) for text in texts)
        return self._lists.setdefault(found, found)


def _iou(row: Row, threshold: int) -> float:
    """IoU of an expression, or mean over its classes of an image, at a row of THRESHOLDS."""
    if isinstance(row, ExpressionRow):
        assert row.intersection is not None and row.union is not None
        return row.intersection[threshold] / max(1, row.union[threshold])
    hit = np.array([h[threshold] for h in row.hit])[:, None]
    called = np.array([p[threshold] for p in row.predicted])[:, None]
    return float(classes.mean_iou(hit, np.array(row.truth)[:, None] + called - hit)[0])


def choose(change: np.ndarray, limit: int, seed: int = 0, always: Collection[int] = ()) -> np.ndarray:
    """Row numbers, ascending, of at most `limit` rows: all where they are that few, else those of `always` first, a
    quarter of the most improved, a quarter of the most harmed and a seeded random half of the rest. `change` (n,) may
    hold NaN."""
    n = len(change)
    if n <= limit:
        return np.arange(n)
    known = np.nan_to_num(change)
    order = np.argsort(-known, kind="stable")
    kept = np.array(sorted(always)[:limit], int)
    quarter = (limit - len(kept)) // 4
    improved = order[:quarter][known[order[:quarter]] > 0]
    harmed = order[n - quarter :][known[order[n - quarter :]] < 0]
    taken = np.unique(np.concatenate([kept, improved, harmed]))
    rest = np.setdiff1d(np.arange(n), taken)
    drawn = np.random.default_rng(seed).choice(rest, limit - len(taken), replace=False)
    return np.sort(np.concatenate([taken, drawn]))
