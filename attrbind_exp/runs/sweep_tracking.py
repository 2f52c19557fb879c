"""A sweep -> one run of the tracker: the ablation table, the alpha curve, threshold curves, what changed most."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrbind_exp.runs import script_data, sections
from attrbind_exp.runs.comparison import Group, make_groups, read_config, read_folder, without_merged_shards
from attrbind_exp.runs.expressions import read_table
from attrbind_exp.runs.tracker import Tracker

GALLERIES = ("gallery", "improved", "harmed")


def log_sweep(folder: Path, tracker: Tracker, published: Mapping[str, Mapping[str, Any]]) -> None:
    """Log what the finished runs of a sweep's folder measured; nothing where none is finished.

    `published`: the paper's figures, as runs.report.make_page takes them. Raises UserError where there is no run.
    """
    folder = folder.resolve()
    found, _ = read_folder(folder)
    groups = make_groups(without_merged_shards(found), folder)
    if not groups:
        return
    spec = read_config(groups[0].runs[0].folder).get("report") or {"paper": published.get(groups[0].scored, {})}
    table = sections.results(groups, [read_table(g) for g in groups], spec, folder)
    columns = [c for c in table.columns if c != "group"]
    tracker.table("results", columns, table[columns].astype(object).values.tolist())
    tracker.summary(headline(groups, table))
    log_alpha(tracker, script_data.alpha_curve(groups, table, {"paper": published.get(groups[0].scored, {})}))
    for group in groups:
        log_thresholds(tracker, group)
        log_pictures(tracker, group, folder)
    if (folder / "results.png").is_file():
        tracker.images("figure", {folder.name: folder / "results.png"})


def headline(groups: Sequence[Group], table: Any) -> dict[str, Any]:
    """The row of each group that its report opens with."""
    rows = [table[table["group"] == i].iloc[sections.head(g, table[table["group"] == i])] for i, g in enumerate(groups)]
    return {
        group.name: {key: row[key] for key in ("variant", "mIoU oracle", "mIoU held out", "difference") if key in row}
        for group, row in zip(groups, rows, strict=True)
    }


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
