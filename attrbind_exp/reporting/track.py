"""What a tracker is told: a run when it is scored, a sweep when its page is made. Folders hold the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attrbind_exp.reporting.html import script_data, sections
from attrbind_exp.reporting.html.collect import Measured
from attrbind_exp.reporting.html.comparison import Group, make_groups
from attrbind_exp.reporting.html.expressions import read_table
from attrbind_exp.reporting.paper_tables import Run
from attrbind_exp.reporting.tables import BINDING, own_metrics, shares, way_from
from attrbind_exp.runs.summary import Summary
from attrbind_exp.scoring import metrics
from attrbind_exp.scoring.figures import Difference, Estimate, without_alpha
from attrbind_exp.tracking.tracker import NoTracker, Tracker

GALLERIES = ("gallery", "improved", "harmed")
# Of a summary, by the tracker.
FACTS = (
    *("text_processor", "alpha", "scored", "n", "n_scored", "n_unscored", "n_failed", "n_bound", "seconds"),
    *("dataset", "split", "model_name", "captioner", "note", "version"),
)
ABOUT = ("sample", "image", "expression", "target", "chunk", "fallbacks", "slices")


def track_run(
    summary: Summary,
    curves: Mapping[str, np.ndarray],
    folder: Path,
    tracker: Tracker,
    galleries: Mapping[str, Mapping[str, Path]],
    alone: bool = True,
) -> None:
    """Log a run: its figures, the threshold curves, one row a variant and floor, one row an expression, its
    pictures.

    `curves`: mIoU in percent at every threshold (K,) by variant label; `folder`: the run's, whose rows are read one by
    one; `galleries`: pictures by gallery and caption; `alone`: no run of a sweep, whose report has all alphas.
    """
    if isinstance(tracker, NoTracker):
        return
    tracker.summary(run_figures(summary))
    lines = {label: curve.tolist() for label, curve in curves.items()}
    tracker.curve("threshold_curve", "threshold", "mIoU", metrics.THRESHOLDS.tolist(), lines)
    if alone:
        track_own_alphas(summary, tracker)
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


def run_figures(summary: Summary) -> dict[str, str | float]:
    """What a tracker keeps of a summary, flat: the run's own facts and counts as summary.json calls them, and the
    figures of the variant that heads it as the tables call them, an interval's ends by "low" and "high"."""
    head, first = summary.head, summary.variants[0].label
    found: dict[str, object] = {name: getattr(summary, name) for name in FACTS}
    found |= {"variant": head.label, "mIoU": head.mIoU, "threshold": head.threshold, "oIoU": head.oIoU}
    found |= {"spread over noise seeds": head.mIoU_spread}
    found |= {f"precision at IoU {at}": value for at, value in head.precision.items()}
    found |= {f"{name} = {value}": f.mIoU for name, part in head.slices.items() for value, f in part.items()}
    found |= {reference.name: reference.mIoU for reference in summary.references}
    if (shared := shares(summary)) is not None:
        found[way_from(shared[0])] = shared[1][summary.headline]
    bounded: dict[str, Estimate | Difference] = dict(head.metrics)
    if head.binding is not None:
        bounded |= {name: read(head.binding) for name, read, _ in BINDING}
    if head.difference is not None:
        bounded[f"difference to {first}"] = head.difference
        found[f"difference to {first} p"] = head.difference.p
    if head.beyond is not None and head.beyond.difference is not None:
        bounded[f"beyond {head.beyond.than}"] = head.beyond.difference
    for name, figure in bounded.items():
        found |= {name: figure.mean, f"{name} low": figure.low, f"{name} high": figure.high}
    found |= {f"failed: {reason}": n for reason, n in summary.failures.items()}
    found |= {f"fallback: {rule}": n for rule, n in summary.n_fallback.items()}
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


def track_own_alphas(summary: Summary, tracker: Tracker) -> None:
    """mIoU over alpha of one run that has several, a line a method."""
    lines: dict[str, dict[float, float | None]] = {}
    for v in summary.variants:
        if v.alpha is not None:
            lines.setdefault(without_alpha(v.label, v.alpha), {})[v.alpha] = v.mIoU
    if max(map(len, lines.values()), default=0) > 1:
        log_alphas(tracker, lines)


def log_alphas(tracker: Tracker, lines: Mapping[str, Mapping[float, float | None]]) -> None:
    """Lines over alpha as one curve. Not every line has every alpha."""
    xs = sorted({x for line in lines.values() for x in line})
    tracker.curve("alpha_curve", "alpha", "mIoU", xs, {name: [y.get(x) for x in xs] for name, y in lines.items()})


def track_expressions(run: Run, tracker: Tracker) -> None:
    """One row an expression with its IoU, 0 to 1, under every variant, all at the first variant's threshold, and its
    difference to the first variant's, to sort by."""
    (group,) = make_groups([run], run.folder)
    table = read_table(group)
    rows: list[list[object]] = [
        [a.sample_id, a.image_id, a.text, a.target, a.chunk, ", ".join(a.fallbacks), ", ".join(a.slices)]
        for a in table.about
    ]
    iou = table.iou_at_one / 100  # (n, variants)
    for row, own, differences in zip(rows, iou.tolist(), (iou[:, 1:] - iou[:, :1]).tolist(), strict=True):
        row += own + differences
    labels = [c.label for c in group.columns]
    columns = [*ABOUT, *(f"IoU {label}" for label in labels), *(f"difference {label}" for label in labels[1:])]
    tracker.table("expressions", columns, rows)


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


def headlines(measured: Measured) -> dict[str, str | float]:
    """The row of each group that its page opens with, flat: {"shapes test/mIoU oracle": 46.0}."""
    keys = ("variant", "mIoU held out", "mIoU oracle", "difference held out", "difference oracle")
    rows = {g.name: part.iloc[sections.head(g, part)] for g, part in zip(measured.groups, measured.parts, strict=True)}
    found = {f"{name}/{key}": row.get(key) for name, row in rows.items() for key in keys}
    return {name: value for name, value in found.items() if value is not None}


def track_alpha(tracker: Tracker, curve: script_data.AlphaCurve | None) -> None:
    """Figure 7: a line a group and method, and the paper's."""
    if curve is None:
        return
    heights: dict[str, dict[float, float | None]] = {
        line["name"]: {p["x"]: p["y"] for p in line["points"]} for line in curve["ours"]
    }
    if paper := curve["paper"]:
        heights[paper["name"]] = {p["x"]: p["y"] for p in paper["points"]}
    log_alphas(tracker, heights)


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
