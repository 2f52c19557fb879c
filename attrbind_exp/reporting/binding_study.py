"""The runs of sweep=binding_study -> tables and curves of its page: every variant at the threshold that val chose."""

import json

import pandas as pd

from attrbind_exp.reporting.paper_tables import Run, chosen_threshold
from attrbind_exp.reporting.tables import bounded, figure
from attrbind_exp.scoring.binding import PLACES, estimate

# Columns of the page: name, slice and value.
GROUPS = {
    "all": None,
    "one noun": ("order", "one_noun"),
    "target first": ("order", "target_first"),
    "target second": ("order", "target_second"),
    "rare beside usual": ("rivalry", "rare_beside_usual"),
}


def read_rows(test: Run, val: Run) -> pd.DataFrame:
    """One row an expression of `test` and variant, means over noise seeds.

    Columns: label, text_processor, alpha, image_id, sample_id, a column a slice, `iou` in percent at `threshold`, which
    is the variant's best on `val`, `peak_target`, `peak_distractor`, .. (shares), `rival` (is there a distractor?), and
    `gain`, iou less the first variant's.
    """
    labels = {(v["text_processor"], v["alpha"]): v["label"] for v in test.summary["variants"]}
    thresholds = {label: chosen_threshold(val, label) for label in labels.values()}
    found = []
    with open(test.folder / "expressions.jsonl", encoding="utf-8") as file:
        for row in map(json.loads, file):
            label = labels[row["text_processor"], row["alpha"]]
            kept = {k: row[k] for k in ("text_processor", "alpha", "image_id", "sample_id")}
            peaks = {f"peak_{place}": float(row["peak"] == place) for place in PLACES}
            scores = {"threshold": thresholds[label], "iou": 100 * row["iou_at"][f"{thresholds[label]:.2f}"]}
            found.append({"label": label, **kept, **row["slices"], **peaks, **scores})
    frame = pd.DataFrame(found)
    keys = [c for c in frame.columns if c != "iou" and not c.startswith("peak_")]
    frame = frame.groupby(keys, sort=False, dropna=False).mean().reset_index()
    first = frame[frame.label == frame.label.iloc[0]].set_index("sample_id").iou
    return frame.assign(rival=frame.same_shape == "distractor", gain=frame.iou - frame.sample_id.map(first))


def by_group(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each of GROUPS."""
    return {name: rows if at is None else rows[rows[at[0]] == at[1]] for name, at in GROUPS.items()}


def slice_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Of one variant, a line a slice value: n, mIoU, where the peak lies, each with its interval."""
    slices = ["order", "rivalry", "pair", "kind", "same_shape", "same_colour"]
    parts = {"all": rows} | {f"{s} = {v}": part for s in slices for v, part in rows.groupby(s)}
    lines = []
    for name, part in parts.items():
        images, rivals = part.image_id.tolist(), part[part.rival]
        lines.append(
            {
                "": name,
                "n": str(len(part)),
                "mIoU": bounded(estimate(part.iou.to_numpy(), images)),
                "peak on target, %": figure(100 * part.peak_target.mean()),
                "on another shape, %": figure(100 * part.peak_other.mean()),
                "with distractor": str(len(rivals)),
                "peak on distractor, %": bounded(
                    estimate(100 * rivals.peak_distractor.to_numpy(), rivals.image_id.tolist())
                ),
            }
        )
    return pd.DataFrame(lines)


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean gain over alpha of every method with several alphas, by group.

    Columns: group, method, alpha, mean, low, high, n.
    """
    counts = rows.groupby("text_processor").alpha.nunique()
    several = rows[rows.text_processor.map(counts) > 1]
    return pd.DataFrame(
        [
            {"group": name, "method": method, "alpha": alpha, **estimate(p.gain.to_numpy(), p.image_id.tolist())}
            for name, part in by_group(several).items()
            for (method, alpha), p in part.groupby(["text_processor", "alpha"], sort=False)
        ]
    )
