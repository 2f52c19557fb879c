"""What a tracker is told: a run when it is scored, a sweep when its page is made. Folders hold the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from attrbind_exp.reporting.html import script_data, sections
from attrbind_exp.reporting.html.collect import Measured
from attrbind_exp.reporting.html.comparison import Group, make_groups
from attrbind_exp.reporting.html.expressions import read_table
from attrbind_exp.reporting.paper_tables import Run
from attrbind_exp.reporting.tables import own_metrics
from attrbind_exp.runs.summary import Summary
from attrbind_exp.scoring import metrics
from attrbind_exp.tracking.tracker import NoTracker, Tracker

GALLERIES = ("gallery", "improved", "harmed")
# Of a summary, by the tracker.
NOT_KEPT = ("label", "difference", "beyond", "variants", "references", "headline", "format", "identity", "provenance")
ABOUT = ("sample", "image", "expression", "target", "chunk", "fallbacks", "slices")


def track_run(
    summary: Summary,
    curves: Mapping[str, np.ndarray],
    folder: Path,
    tracker: Tracker,
    galleries: Mapping[str, Mapping[str, Path]],
) -> None:
    """Log a run: its figures, the threshold curves, one row a variant and floor, one row an expression, its
    pictures.

    `curves`: mIoU in percent at every threshold (K,) by variant label; `folder`: the run's, whose rows are read one by
    one; `galleries`: pictures by gallery and caption.
    """
    if isinstance(tracker, NoTracker):
        return
    tracker.summary(run_figures(summary))
    lines = {label: curve.tolist() for label, curve in curves.items()}
    tracker.curve("threshold_curve", "threshold", "mIoU", metrics.THRESHOLDS.tolist(), lines)
    own = list(own_metrics(summary.variants))
    rows = [
        [v.label, v.mIoU, v.threshold, v.oIoU, *(v.metrics[name].mean if name in v.metrics else None for name in own)]
        for v in summary.variants
    ]
    rows += [[r.name, r.mIoU, r.threshold, None, *[None] * len(own)] for r in summary.references]
    tracker.table("variants", ["variant", "mIoU", "threshold", "oIoU", *own], rows)
    if summary.scored == "expressions":
        track_expressions(Run(folder, summary), tracker)
    for name, pictures in galleries.items():
        tracker.images(name, pictures)


def run_figures(summary: Summary) -> dict[str, object]:
    """What a tracker keeps of a summary: the run's own facts, and the figures of the variant that heads it."""
    run = msgspec.to_builtins(msgspec.structs.replace(summary, variants=[]))
    there = {k: v for k, v in msgspec.to_builtins(summary.head).items() if v is not None and v != {}}
    return {k: v for k, v in {**there, **run}.items() if k not in NOT_KEPT}


def track_expressions(run: Run, tracker: Tracker) -> None:
    """One row an expression with its IoU, 0 to 1, under every variant, all at the first variant's threshold."""
    (group,) = make_groups([run], run.folder)
    table = read_table(group)
    rows = [
        [a.sample_id, a.image_id, a.text, a.target, a.chunk, ", ".join(a.fallbacks), ", ".join(a.slices), *iou]
        for a, iou in zip(table.about, (table.iou_at_one / 100).tolist(), strict=True)
    ]
    tracker.table("expressions", [*ABOUT, *(f"IoU {c.label}" for c in group.columns)], rows)


def track_sweep(measured: Measured, tracker: Tracker) -> None:
    """Log what the finished runs of a sweep measured: the table, its headlines, the alpha curve, threshold curves and
    pictures. Nothing where none is finished."""
    table, groups, folder = measured.results, measured.groups, measured.folder
    if table is None:
        return
    shown = measured.between.drop(columns="group")
    tracker.table("results", list(shown), shown.astype(object).values.tolist())
    tracker.summary(headlines(measured))
    track_alpha(tracker, script_data.alpha_curve(groups, table, measured.published))
    for group in groups:
        track_thresholds(tracker, group)
        track_pictures(tracker, group, folder)
    if (folder / "results.png").is_file():
        tracker.images("figure", {folder.name: folder / "results.png"})


def headlines(measured: Measured) -> dict[str, dict[str, str | float | None]]:
    """The row of each group that its page opens with."""
    keys = ("variant", "mIoU held out", "mIoU oracle", "difference held out", "difference oracle")
    rows = {g.name: part.iloc[sections.head(g, part)] for g, part in zip(measured.groups, measured.parts, strict=True)}
    return {name: {key: row[key] for key in keys if key in row} for name, row in rows.items()}


def track_alpha(tracker: Tracker, curve: script_data.AlphaCurve | None) -> None:
    """Figure 7: a line a group and method, and the paper's. Not every line has every alpha."""
    if curve is None:
        return
    heights: dict[str, dict[float, float | None]] = {
        line["name"]: {p["x"]: p["y"] for p in line["points"]} for line in curve["ours"]
    }
    if paper := curve["paper"]:
        heights[paper["name"]] = {p["x"]: p["y"] for p in paper["points"]}
    xs = sorted({x for line in heights.values() for x in line})
    tracker.curve("alpha_curve", "alpha", "mIoU", xs, {name: [y.get(x) for x in xs] for name, y in heights.items()})


def track_thresholds(tracker: Tracker, group: Group) -> None:
    """mIoU over the grid of thresholds, a line a variant."""
    grid = list(group.columns[0].entry.mIoU_at)
    lines: dict[str, Sequence[float | None]] = {c.label: [c.entry.mIoU_at[t] for t in grid] for c in group.columns}
    tracker.curve(f"thresholds {group.name}", "threshold", "mIoU", [float(t) for t in grid], lines)


def track_pictures(tracker: Tracker, group: Group, folder: Path) -> None:
    """The galleries of a group's runs."""
    for name in GALLERIES:
        sheets = {str(r.folder.relative_to(folder)): r.folder / f"{name}.png" for r in group.runs}
        if there := {caption: file for caption, file in sheets.items() if file.is_file()}:
            tracker.images(name, there)
