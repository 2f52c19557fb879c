"""What a report's script draws from, as plain data that JSON takes: curves, chosen rows, pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.reporting.html.expressions import Table
from attrbind_exp.reporting.html.pictures import Picture
from attrbind_exp.scoring import metrics

TEXT = 300  # characters of an expression that are shown


def alpha_curve(groups: Sequence[Group], table: pd.DataFrame, published: Mapping[str, Any]) -> dict[str, Any] | None:
    """Figure 7: mIoU over alpha of each group and method, and the paper's, each with its baseline: the first variant,
    where that has no alpha. None under two alphas."""
    lines: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        rows = table[table["group"] == number].to_dict("records")
        base = rows[0] if rows[0]["alpha"] is None else {}
        methods: dict[str, list[dict[str, Any]]] = {}
        for column, row in zip(group.columns, rows, strict=True):
            if row["alpha"] is not None:
                methods.setdefault(column.entry["text_processor"], []).append(_point(row))
        for method, points in methods.items():
            points.sort(key=lambda p: p["x"])
            name = group.name if len(methods) == 1 else f"{method}, {group.name}"
            lines.append({"name": name, "points": points, "base": _height(base), "base_name": base.get("variant")})
    if max((len({p["x"] for p in line["points"]}) for line in lines), default=0) < 2:
        return None
    return {"ours": lines, "paper": _paper_curve(published)}


def _height(row: Mapping[str, Any]) -> float | None:
    held = row.get("mIoU held out")
    return row.get("mIoU oracle") if held is None else held


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"x": row["alpha"], "y": _height(row), **{k: row.get(k) for k in ("difference", "low", "high")}}


def _paper_curve(figures: Mapping[str, Sequence[float]]) -> dict[str, Any] | None:
    values = {label.rpartition("alpha=")[2]: value for label, (_, value) in figures.items() if "alpha=" in label}
    if len(values) < 2:
        return None
    base = (figures.get("baseline") or (None, None))[1]
    return {
        "name": "the paper (Stable Diffusion 1.5, RefCOCO)",
        "base": base,
        "points": [{"x": x, "y": y} for x, y in sorted((float(a), y) for a, y in values.items())],
    }


def group_data(group: Group, table: Table, chosen: np.ndarray, number: int) -> dict[str, Any]:
    """What the page's script needs of one group: columns, threshold curves and the chosen rows."""
    labels = sorted({label for i in chosen for label in table.about[i].slices})
    place = {label: i for i, label in enumerate(labels)}
    grid = [float(k) for k in group.columns[0].entry["mIoU_at"]]
    thresholds, curves = grid, [list(c.entry["mIoU_at"].values()) for c in group.columns]
    if table.curves is not None:
        thresholds, curves = metrics.THRESHOLDS.astype(float).round(2).tolist(), table.curves.tolist()
    return {
        "name": group.name,
        "scored": group.scored,
        "head": number,
        "columns": [
            {"label": c.label, "alpha": c.entry["alpha"], "threshold": c.entry["threshold"]} for c in group.columns
        ],
        "thresholds": thresholds,
        "curves": [[None if v is None else round(float(v), 2) for v in curve] for curve in curves],
        "slices": labels,
        "total": len(table.about),
        "rows": [
            [
                shorten(table.about[i].text),
                shorten(table.about[i].target),
                shorten(table.about[i].sample_id),
                [place[s] for s in table.about[i].slices],
                _numbers(table.iou[i]),
            ]
            for i in chosen
        ],
    }


def picture_data(picture: Picture, table: Table) -> dict[str, Any]:
    """What the page's script needs of one picture; text and IoU where it was scored as an expression."""
    found = table.rows.get(picture.sample_id)
    return {
        "group": picture.group,
        "title": shorten(picture.title if found is None else table.about[found].text),
        "galleries": picture.galleries,
        "panels": picture.panels,
        "iou": None if found is None else _numbers(table.iou[found]),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 1) for v in values]


def shorten(text: str) -> str:
    """A text that is too long to be read, cut."""
    return text if len(text) <= TEXT else text[:TEXT] + "…"
