"""The runs of a sweep -> one table of the paper with ours beside it: thresholds best on the data itself (oracle), fixed
at 0.50, and chosen on another split (held out); differences with their intervals."""

from array import array
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from attrbind_exp.edits.variant import is_floor
from attrbind_exp.runs import rows as run_rows
from attrbind_exp.runs import summary as run_summary
from attrbind_exp.runs.index import sweep_runs
from attrbind_exp.runs.rows import ExpressionRow, Row
from attrbind_exp.runs.summary import Summary, read_summary
from attrbind_exp.scoring.compare import paired_difference
from attrbind_exp.scoring.figures import Difference, VariantFigures
from attrbind_exp.types import UserError
from attrbind_exp.work import Work, each

PAPER_LINE = "The paper's figures, of Stable Diffusion on RefCOCO and COCO 2014: docs/protocol.md, section 6."
KINDS = ("held out", "oracle")  # of thresholds: chosen on another split, best on the very data; in this order

PaperFigures = Mapping[str, tuple[float | None, float]]  # (threshold, None where it is not told; mIoU) by variant label


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and summary.json."""

    folder: Path
    summary: Summary

    @property
    def split(self) -> str:
        """The name of the data's split; "None" where it has none."""
        return str(self.summary.split)

    def rows(self) -> Iterator[Row]:
        """Its rows one by one; none where the folder has no such file. Raises UserError for a line that is no row."""
        file = self.folder / run_rows.NAME
        if file.is_file():
            reading = Work("reading rows", file.stat().st_size / 1e6, "MB")
            with open(file, "rb") as stream, reading:
                before = 0
                for row, end in run_rows.read_rows(stream, file):
                    yield row
                    reading.advance((end - before) / 1e6)
                    before = end


@dataclass(frozen=True)
class TableSpec:
    """What a table shows besides our own figures: its title, the paper's figures by variant label, and the mIoU of
    other methods by name. `figure`: what is drawn beside it, "miou" or "differences"."""

    title: str | None = None
    paper: PaperFigures = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)
    figure: Literal["miou", "differences"] = "miou"


def read_spec(report: object) -> TableSpec:
    """The `report` of a run's configuration. Raises UserError where it is none."""
    given = {k: v for k, v in report.items() if v is not None} if isinstance(report, Mapping) else report
    try:
        return msgspec.convert(given, TableSpec)
    except msgspec.ValidationError as error:
        raise UserError(
            f"report={report!r} describes no table ({error}); give title, figure, paper ([threshold, mIoU] by "
            "variant), others"
        ) from error


def read_runs(folder: Path, splits: Sequence[str] = ()) -> list[Run]:
    """Every finished run below `folder`, in the order of `splits`; where the folder is a sweep's, only the runs that
    the sweep made, merged ones instead of their shards. Raises UserError where there is none."""
    folders = [f.parent for f in sorted(folder.glob(f"**/{run_summary.NAME}"))]
    if not folders:
        raise UserError(f"no finished run below '{folder}': no summary.json; run the sweep first")
    made = sweep_runs(folder)
    if made is not None:
        belonging = {f.resolve() for f in made}
        folders = [f for f in folders if f.resolve() in belonging]
    if not folders:
        raise UserError(f"no run of the sweep in '{folder}' is finished; start the sweep's command again")
    return in_order([Run(f, read_summary(f)) for f in folders], splits)


def in_order(runs: Sequence[Run], splits: Sequence[str]) -> list[Run]:
    """The runs in the order of their splits, those of no known split last."""
    return sorted(runs, key=lambda r: splits.index(r.split) if r.split in splits else len(splits))


def expression_scores(run: Run) -> pd.DataFrame:
    """IoU of every scored expression by variant label and threshold of the grid, mean over seeds.

    Columns: label, image_id, sample_id, and the thresholds "0.30" .. "0.75".
    """
    labels = {(v.text_processor, v.alpha): v.label for v in run.summary.variants}
    thresholds = list(run.summary.variants[0].mIoU_at)
    names: dict[str, list[str]] = {"label": [], "image_id": [], "sample_id": []}
    known: dict[str, str] = {}  # one string object for what many rows repeat
    values = array("d")
    for row in run.rows():
        if not isinstance(row, ExpressionRow) or row.iou_at is None:
            continue
        names["label"].append(labels[row.text_processor, row.alpha])
        names["image_id"].append(known.setdefault(row.image_id, row.image_id))
        names["sample_id"].append(known.setdefault(row.sample_id, row.sample_id))
        values.extend(row.iou_at[t] for t in thresholds)
    figures = pd.DataFrame(np.array(values).reshape(-1, len(thresholds)), columns=thresholds)
    frame = pd.concat([pd.DataFrame(names), figures], axis=1)
    return frame.groupby(list(names), sort=False).mean().reset_index()


def is_papers(summary: Summary) -> bool:
    """Whether a run measures what the paper does: a Stable Diffusion on RefCOCO, or class-wise on COCO 2014 val."""
    data = summary.split == "val2014" if summary.scored == "images" else summary.dataset.split(" ")[0] == "refcoco"
    return data and summary.model_name != "bundled"


def beside_paper(runs: Sequence[Run], spec: TableSpec) -> TableSpec:
    """The table with the paper's figures where one of the runs measures the same, else without them."""
    return spec if any(is_papers(run.summary) for run in runs) else TableSpec(spec.title)


def paper_table(runs: Sequence[Run], spec: TableSpec, selection: str | None) -> pd.DataFrame:
    """One row a variant and split: the paper's figure where the run measures the same, ours at 0.50, held out and
    oracle, n, and the differences to the run's first variant; better, worse and same are counted at one threshold for
    both, the first variant's; and `added`, what its last edit adds to the variant `beyond` which it goes.

    `selection` is the split that chooses thresholds for the others, None where there is none; of several runs of it,
    under other seeds, the one that is most like a run. Figures are numbers in percent, None where there is none.
    """
    choosers = [r for r in runs if r.split == selection]
    rows = []
    for run in each(runs, "comparing", "runs"):
        held = None if run in choosers else max(choosers, key=lambda r: len(_words(r) & _words(run)), default=None)
        by_expression = run.summary.scored == "expressions" and run.summary.n_scored
        scores = expression_scores(run) if held and by_expression else None
        first = run.summary.variants[0]
        for entry in run.summary.variants:
            none = (None, None)
            threshold, paper = spec.paper.get(entry.label, none) if is_papers(run.summary) else none
            chosen = chosen_threshold(held, entry.label)
            row: dict[str, str | float | None] = {
                "split": run.split,
                "variant": entry.label,
                "alpha": entry.alpha,
                "n": entry.n,
                "paper": paper,
                "paper threshold": threshold,
                "mIoU at 0.50": entry.mIoU_at["0.50"],
                "mIoU held out": entry.mIoU_at[f"{chosen:.2f}"] if chosen is not None else None,
                "threshold held out": chosen,
                "mIoU oracle": entry.mIoU,
                "threshold oracle": entry.threshold,
                "spread": entry.mIoU_spread,
                "oIoU": entry.oIoU,
            }
            if entry is not first:
                found = _held_out(scores, first, entry, held), entry.difference
                counted_at = first.threshold if found[0] is None else chosen_threshold(held, first.label)
                row |= difference_columns(*found, counted_at)
            shorter = None if entry.beyond is None else run.summary.variant(entry.beyond.than)
            if entry.beyond is not None and shorter is not None:
                row |= {"beyond": shorter.label}
                row |= _ends("added", _held_out(scores, shorter, entry, held), entry.beyond.difference)
            rows.append(row)
    return pd.DataFrame(rows)


def tell_apart(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """`paper_table` of these runs where no variant of a split stands twice under one label: those of a sweep over seeds
    also name what was typed for one run and not for the others, or their folder."""
    owners = [run for run in runs for _ in run.summary.variants]
    labels = []
    for run, split, label in zip(owners, table["split"], table["variant"], strict=True):
        alike = [r for r in runs if r.split == split and r.summary.variant(label) is not None]
        own = [word for word in run.summary.overrides if not all(word in _words(r) for r in alike)]
        labels.append(f"{label} · {' '.join(own) or run.folder.name}" if len(alike) > 1 else label)
    return table.assign(variant=labels)


def _words(run: Run) -> set[str]:
    """What was typed for a run."""
    return set(run.summary.overrides)


def chosen_threshold(chooser: Run | None, label: str) -> float | None:
    """The best threshold of a variant on the split that chooses."""
    entry = chooser.summary.variant(label) if chooser else None
    if entry is None or entry.mIoU is None:
        return None
    scored = {threshold: value for threshold, value in entry.mIoU_at.items() if value is not None}
    return float(max(scored, key=lambda k: scored[k]))


def _held_out(
    scores: pd.DataFrame | None, first: VariantFigures, entry: VariantFigures, chooser: Run | None
) -> Difference | None:
    """The difference of a variant to another, each at its held-out threshold; None where one of them has none."""
    at = [chosen_threshold(chooser, e.label) for e in (first, entry)]
    if scores is None or scores.empty or None in at:
        return None
    base, ours = (scores[scores.label == e.label].set_index("sample_id") for e in (first, entry))
    ours = ours.loc[base.index]
    mine, others = (f"{threshold:.2f}" for threshold in at)
    counted = 100 * (ours[mine] - base[mine]).to_numpy()
    return paired_difference(100 * base[mine], 100 * ours[others], base.image_id.tolist(), counted=counted)


def difference_columns(
    held: Difference | None, oracle: Difference | None, counted_at: float | None
) -> dict[str, float | None]:
    """The differences as columns of the table, and the counts of the first that there is with their threshold; none
    where there is no difference."""
    counts = held or oracle
    if counts is None:
        return {}
    votes = {"better": counts.better, "worse": counts.worse, "same": counts.same, "counted at": counted_at}
    return _ends("difference", held, oracle) | votes | {"images": counts.images}


def _ends(name: str, held: Difference | None, oracle: Difference | None) -> dict[str, float | None]:
    """A difference of both kinds with its interval, as columns."""
    bounds = ("low", "high", "p") if name == "difference" else (f"{name} low", f"{name} high", f"{name} p")
    found: dict[str, float | None] = {}
    for kind, d in zip(KINDS, (held, oracle), strict=True):
        figures = (None,) * 4 if d is None else (d.mean, d.low, d.high, d.p)
        found |= zip((f"{column} {kind}" for column in (name, *bounds)), figures, strict=True)
    return found


def leading(row: Mapping[Hashable, Any], name: str) -> Any:
    """A figure of a row of the table, held out where it has that, else oracle: mIoU, threshold, difference, low, high,
    p. None where there is neither."""
    found = [row.get(f"{name} {kind}") for kind in KINDS]
    return next((value for value in found if value is not None and not pd.isna(value)), None)


def comparisons(table: pd.DataFrame) -> list[float | None]:
    """p of the comparison in each row, None where it has none. A row is ONE comparison, which may be told in two ways:
    held out, and oracle, which chose its thresholds on the very data. The held-out one counts where there is one. A
    floor is compared with nothing."""
    return [None if is_floor(str(row["variant"])) else leading(row, "p") for row in table.to_dict("records")]
