"""What a report's script draws from, as plain data that JSON takes: curves, chosen rows, pictures."""

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.reporting.html.draw import draw_settings
from attrbind_exp.reporting.html.expressions import Table
from attrbind_exp.reporting.html.pictures import Picture
from attrbind_exp.reporting.panels import Colour
from attrbind_exp.reporting.paper_tables import PaperFigures, leading
from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.figures import without_alpha

Row = Mapping[Hashable, Any]  # of the results, as pandas gives it: text and numbers by column

TEXT = 300  # characters of an expression that are shown
WORD = 80  # of a target


class Point(TypedDict):
    """A point of our alpha curve, with its difference to the baseline."""

    x: float
    y: float | None
    difference: float | None
    low: float | None
    high: float | None


class Line(TypedDict):
    """mIoU over alpha, of one method on one group; `base`: that of the group's baseline."""

    name: str
    points: list[Point]
    base: float | None
    base_name: str | None


class PaperPoint(TypedDict):
    """A point of the paper's alpha curve."""

    x: float
    y: float


class PaperLine(TypedDict):
    """The paper's mIoU over alpha."""

    name: str
    base: float | None
    points: list[PaperPoint]


class AlphaCurve(TypedDict):
    """Figure 7."""

    ours: list[Line]
    paper: PaperLine | None


class ColumnData(TypedDict):
    """A column of a group; `method`: its label without the alpha, which the points of one curve have in common."""

    label: str
    method: str
    alpha: float | None
    threshold: float | None


# Text, target, sample, slices, IoU by column at the group's one threshold, image.
ExpressionData = tuple[str, str, str, list[int], list[float | None], str]


class GroupData(TypedDict):
    """A group: its columns, threshold curves, and the rows that the page holds, of `total`, whose IoU is that at one
    `threshold`; `draw`: the settings of a command that draws an expression; `beside`: addresses of pictures that lie in
    the runs' folders, by sample."""

    name: str
    threshold: float | None
    scored: str
    head: int
    columns: list[ColumnData]
    thresholds: list[float]
    curves: list[list[float | None]]
    slices: list[str]
    total: int
    rows: list[ExpressionData]
    draw: str
    beside: dict[str, list[str]]


class PictureData(TypedDict):
    """A picture of a group: its panels and their thresholds by name, the colours of classes, and slices and IoU by
    column where it was scored as an expression."""

    group: int
    id: str
    title: str
    galleries: list[str]
    panels: dict[str, str]
    thresholds: dict[str, float]
    classes: dict[str, Colour]
    slices: Sequence[str]
    iou: list[float | None] | None


class PageData(TypedDict):
    """All of it."""

    groups: list[GroupData]
    alpha: AlphaCurve | None
    pictures: list[PictureData]


def alpha_curve(groups: Sequence[Group], table: pd.DataFrame, published: PaperFigures) -> AlphaCurve | None:
    """Figure 7: mIoU over alpha of each group and method, and the paper's, each with its baseline, else the first
    variant where that has no alpha. None under two alphas."""
    lines: list[Line] = []
    for number, group in enumerate(groups):
        rows = table[table["group"] == number].to_dict("records")
        bases = (row for column, row in zip(group.columns, rows, strict=True) if column.is_baseline)
        base = next(bases, rows[0] if rows[0]["alpha"] is None else {})
        methods: dict[str, list[Point]] = {}
        for column, row in zip(group.columns, rows, strict=True):
            if row["alpha"] is not None:
                methods.setdefault(without_alpha(column.label, row["alpha"]), []).append(_point(row))
        for method, points in methods.items():
            points.sort(key=lambda p: p["x"])
            name = group.name if len(methods) == 1 else f"{method}, {group.name}"
            lines.append(Line(name=name, points=points, base=leading(base, "mIoU"), base_name=base.get("variant")))
    if max((len({p["x"] for p in line["points"]}) for line in lines), default=0) < 2:
        return None
    return AlphaCurve(ours=lines, paper=_paper_curve(published))


def _point(row: Row) -> Point:
    difference, low, high = (leading(row, k) for k in ("difference", "low", "high"))
    return Point(x=row["alpha"], y=leading(row, "mIoU"), difference=difference, low=low, high=high)


def _paper_curve(figures: PaperFigures) -> PaperLine | None:
    values = {label.rpartition("alpha=")[2]: value for label, (_, value) in figures.items() if "alpha=" in label}
    if len(values) < 2:
        return None
    return PaperLine(
        name="the paper (Stable Diffusion 1.5, RefCOCO)",
        base=figures.get("baseline", (None, None))[1],
        points=[PaperPoint(x=x, y=y) for x, y in sorted((float(a), y) for a, y in values.items())],
    )


def group_data(
    group: Group, table: Table, chosen: np.ndarray, number: int, beside: Mapping[str, Sequence[str]]
) -> GroupData:
    """What the page's script needs of one group: columns, threshold curves and the chosen rows. `beside`: addresses of
    pictures by sample."""
    labels = sorted({label for i in chosen for label in table.about[i].slices})
    place = {label: i for i, label in enumerate(labels)}
    entries = [c.entry for c in group.columns]
    thresholds, curves = [float(k) for k in entries[0].mIoU_at], [list(e.mIoU_at.values()) for e in entries]
    if table.curves is not None:
        thresholds, curves = metrics.THRESHOLDS.astype(float).round(2).tolist(), table.curves.tolist()
    return GroupData(
        name=group.name,
        threshold=table.threshold,
        scored=group.scored,
        head=number,
        columns=[
            ColumnData(
                label=c.label,
                method=without_alpha(c.label, c.entry.alpha),
                alpha=c.entry.alpha,
                threshold=c.entry.threshold,
            )
            for c in group.columns
        ],
        thresholds=thresholds,
        curves=[[None if v is None else round(float(v), 2) for v in curve] for curve in curves],
        slices=labels,
        total=len(table.about),
        rows=[_expression_data(table, i, place) for i in chosen],
        draw=draw_settings(group.columns[number].run.summary, table.threshold),
        beside={shorten(sample): list(files) for sample, files in beside.items()},
    )


def fitting(table: Table, size: int) -> int:
    """How many rows of a table take `size` characters in the page, by the mean of some of them."""
    n = len(table.about)
    some = range(0, n, max(1, n // 200))
    place = {label: 0 for i in some for label in table.about[i].slices}
    lengths = [len(json.dumps(_expression_data(table, i, place), separators=(",", ":"))) + 1 for i in some]
    return n if not lengths else int(size * len(lengths) / sum(lengths))


def _expression_data(table: Table, i: int, place: Mapping[str, int]) -> ExpressionData:
    about = table.about[i]
    slices = [place[s] for s in about.slices]
    said = shorten(about.text), shorten(about.target, WORD), shorten(about.sample_id)
    return *said, slices, _numbers(table.iou_at_one[i]), shorten(about.image_id)


def picture_data(picture: Picture, table: Table) -> PictureData:
    """What the page's script needs of one picture; text and IoU where it was scored as an expression."""
    found = table.rows.get(picture.sample_id)
    return PictureData(
        group=picture.group,
        id=shorten(picture.sample_id),
        title=shorten(picture.title if found is None else table.about[found].text),
        galleries=picture.galleries,
        panels=picture.panels,
        thresholds=picture.thresholds,
        classes=picture.classes,
        slices=[] if found is None else table.about[found].slices,
        iou=None if found is None else _numbers(table.iou_at_one[found]),
    )


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if v != v else round(v, 1) for v in values.tolist()]  # NaN alone differs from itself


def shorten(text: str, limit: int = TEXT) -> str:
    """A text that is too long to be read, cut."""
    return text if len(text) <= limit else text[:limit] + "…"
