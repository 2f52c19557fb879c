"""A sweep -> one run of the tracker: the ablation table, the alpha curve, threshold curves, what changed most."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrbind_exp.reporting.html import script_data, sections
from attrbind_exp.reporting.html.collect import Measured
from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.tracking.tracker import Tracker

GALLERIES = ("gallery", "improved", "harmed")


def log_sweep(measured: Measured, tracker: Tracker) -> None:
    """Log what the finished runs of a sweep measured; nothing where none is finished."""
    table, groups, folder = measured.results, measured.groups, measured.folder
    if table is None:
        return
    columns = [c for c in table.columns if c != "group"]
    tracker.table("results", columns, table[columns].astype(object).values.tolist())
    tracker.summary(headlines(measured))
    log_alpha(tracker, script_data.alpha_curve(groups, table, measured.published))
    for group in groups:
        log_thresholds(tracker, group)
        log_pictures(tracker, group, folder)
    if (folder / "results.png").is_file():
        tracker.images("figure", {folder.name: folder / "results.png"})


def headlines(measured: Measured) -> dict[str, Any]:
    """The row of each group that its page opens with."""
    keys = ("variant", "mIoU oracle", "mIoU held out", "difference")
    rows = {g.name: part.iloc[sections.head(g, part)] for g, part in zip(measured.groups, measured.parts, strict=True)}
    return {name: {key: row[key] for key in keys if key in row} for name, row in rows.items()}


def log_alpha(tracker: Tracker, curve: Mapping[str, Any] | None) -> None:
    """Figure 7: a line a group and method, and the paper's. Not every line has every alpha."""
    if curve is None:
        return
    lines = [*curve["ours"], *([curve["paper"]] if curve["paper"] else [])]
    xs = sorted({p["x"] for line in lines for p in line["points"]})
    heights = {line["name"]: {p["x"]: p["y"] for p in line["points"]} for line in lines}
    tracker.curve("alpha_curve", "alpha", "mIoU", xs, {name: [y.get(x) for x in xs] for name, y in heights.items()})


def log_thresholds(tracker: Tracker, group: Group) -> None:
    """mIoU over the grid of thresholds, a line a variant."""
    grid = list(group.columns[0].entry["mIoU_at"])
    lines = {c.label: [c.entry["mIoU_at"][t] for t in grid] for c in group.columns}
    tracker.curve(f"thresholds {group.name}", "threshold", "mIoU", [float(t) for t in grid], lines)


def log_pictures(tracker: Tracker, group: Group, folder: Path) -> None:
    """The galleries of a group's runs."""
    for name in GALLERIES:
        sheets = {str(r.folder.relative_to(folder)): r.folder / f"{name}.png" for r in group.runs}
        if there := {caption: file for caption, file in sheets.items() if file.is_file()}:
            tracker.images(name, there)
