"""The runs of sweep=binding_study -> tables and curves of its page: every variant at the threshold that val chose."""

from collections.abc import Mapping

import pandas as pd

from attrbind_exp.reporting.paper_tables import KINDS, Run, TableSpec, chosen_threshold, paper_table
from attrbind_exp.reporting.readable_tables import readable
from attrbind_exp.reporting.references import with_references
from attrbind_exp.reporting.tables import bounded, figure
from attrbind_exp.runs.rows import ExpressionRow
from attrbind_exp.scoring.binding import PLACES
from attrbind_exp.scoring.compare import PERCENT, estimate
from attrbind_exp.types import UserError

# Columns of the page: name, slice and value.
GROUPS = {
    "all": None,
    "one noun": ("order", "one_noun"),
    "target first": ("order", "target_first"),
    "target second": ("order", "target_second"),
    "rare beside usual": ("rivalry", "rare_beside_usual"),
}
SLICES = ("order", "rivalry", "pair", "kind", "same_shape", "same_colour")
NAMES = ("label", "text_processor", "alpha", "image_id", "sample_id", *SLICES, "threshold")
PEAKS = {place: f"peak_{place}" for place in PLACES}


def read_expressions(test: Run, val: Run) -> pd.DataFrame:
    """One row an expression of `test` and variant, means over noise seeds.

    Columns: label, text_processor, alpha, image_id, sample_id, a column a slice, `iou` in percent at `threshold`, which
    is the variant's best on `val`, `peak_target`, `peak_distractor`, .. (shares), `rival` (is there a distractor?), and
    `gain`, iou less the first variant's. Raises UserError where val lacks a variant.
    """
    labels = {(v.text_processor, v.alpha): v.label for v in test.summary.variants}
    thresholds = _thresholds(test, val)
    columns: dict[str, list[str | float | None]] = {name: [] for name in (*NAMES, *PEAKS.values(), "iou")}
    for row in test.rows():
        if isinstance(row, ExpressionRow) and row.iou_at is not None:
            label = labels[row.text_processor, row.alpha]
            for name, value in _cells(row, label, thresholds[label]).items():
                columns[name].append(value)
    frame = pd.DataFrame(columns).astype({"iou": float})
    frame = frame.groupby(list(NAMES), sort=False, dropna=False).mean().reset_index()
    first = frame[frame.label == frame.label.iloc[0]].set_index("sample_id").iou
    return frame.assign(rival=frame.same_shape == "distractor", gain=frame.iou - frame.sample_id.map(first))


def _thresholds(test: Run, val: Run) -> dict[str, float]:
    """The best threshold on `val` of every variant of `test`, by label."""
    found = {v.label: chosen_threshold(val, v.label) for v in test.summary.variants}
    if missing := [label for label, threshold in found.items() if threshold is None]:
        raise UserError(f"the run of val at '{val.folder}' lacks {', '.join(missing)}; run sweep=binding_study again")
    return {label: threshold for label, threshold in found.items() if threshold is not None}


def _cells(row: ExpressionRow, label: str, threshold: float) -> Mapping[str, str | float | None]:
    """One row's cell of every column."""
    iou_at = row.iou_at or {}
    slices = {name: str(row.slices.get(name, "none")) for name in SLICES}
    names = {
        "label": label,
        "text_processor": row.text_processor,
        "alpha": row.alpha,
        "image_id": row.image_id,
        "sample_id": row.sample_id,
        **slices,
        "threshold": threshold,
    }
    peaks = {column: float(row.peak == place) for place, column in PEAKS.items()}
    return {**names, **peaks, "iou": 100 * iou_at[f"{threshold:.2f}"]}


def by_group(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each of GROUPS."""
    return {name: rows if at is None else rows[rows[at[0]] == at[1]] for name, at in GROUPS.items()}


def slice_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Of one variant, a line a slice value: n, mIoU, where the peak lies, each with its interval."""
    parts = {"all": rows} | {f"{s} = {v}": part for s in SLICES for v, part in rows.groupby(s)}
    lines = []
    for name, part in parts.items():
        images, rivals = part.image_id.tolist(), part[part.rival]
        lines.append(
            {
                "": name,
                "n": str(len(part)),
                "mIoU": bounded(estimate(part.iou.to_numpy(), images, PERCENT)),
                "peak on target, %": figure(100 * part.peak_target.mean()),
                "on another shape, %": figure(100 * part.peak_other.mean()),
                "with distractor": str(len(rivals)),
                "peak on distractor, %": bounded(
                    estimate(100 * rivals.peak_distractor.to_numpy(), rivals.image_id.tolist(), PERCENT)
                ),
            }
        )
    return pd.DataFrame(lines)


def between(val: Run, test: Run) -> pd.DataFrame:
    """Of test the variants with floors and ceiling, each at its threshold on val: mIoU, share of the way between them,
    what the last edit adds."""
    table = with_references(paper_table([val, test], TableSpec(), val.split), [val, test], val.split)
    shown = readable(table[table["split"] == test.split], TableSpec()).rename(columns={KINDS[0]: "mIoU @ threshold"})
    wanted = ("mIoU @ threshold", "% of the way", "last edit adds")
    return shown[["variant", *(name for name in shown if name.startswith(wanted))]].rename(columns={"variant": ""})


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean gain over alpha of every method with several alphas, by group.

    Columns: group, method, alpha, mean, low, high, n.
    """
    counts = rows.groupby("text_processor").alpha.nunique()
    several = rows[rows.text_processor.map(counts) > 1]
    found = []
    for name, part in by_group(several).items():
        for (method, alpha), p in part.groupby(["text_processor", "alpha"], sort=False):
            gain = estimate(p.gain.to_numpy(), p.image_id.tolist())
            interval = {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n}
            found.append({"group": name, "method": method, "alpha": alpha, **interval})
    return pd.DataFrame(found)
