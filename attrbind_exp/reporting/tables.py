"""Results as tables, for terminals, Markdown and spreadsheets."""

from collections.abc import Sequence

import pandas as pd

from attrbind_exp.runs.summary import Summary
from attrbind_exp.scoring.figures import Binding, Estimate, VariantFigures

# Rows of the ablation table: name and place in an entry's "binding".
BINDING = {
    "peak on target": ("peak", "target"),
    "peak on target, with distractor": ("peak_rivals", "target"),
    "peak on distractor": ("peak_rivals", "distractor"),
    "heat target / distractor": ("heat_ratio",),
    "swapped word moves the heat": ("swap",),
}


def ablation(summary: Summary) -> pd.DataFrame:
    """One column a variant: mIoU overall and per slice with its n, then threshold, oIoU, precision, binding figures
    where there are any, and the difference to the first variant with its 95 % interval. Cells are text, "-" where there
    is no figure."""
    variants = summary.variants
    labels = [v.label for v in variants]
    rows: list[list[str]] = [["all", str(summary.n_scored), *(figure(v.mIoU) for v in variants)]]
    for name in variants[0].slices:
        values = {value: entry.n for v in variants for value, entry in v.slices[name].items()}
        for value, n in values.items():
            entries = [v.slices[name].get(value) for v in variants]
            rows.append([f"{name} = {value}", str(n), *(figure(e.mIoU if e else None) for e in entries)])
    rows.append(["threshold (oracle)", "", *(figure(v.threshold, 2) for v in variants)])
    rows.append(["oIoU", "", *(figure(v.oIoU) for v in variants)])
    rows.append(["precision at IoU 0.5", "", *(figure(v.precision["0.5"]) for v in variants)])
    if all(v.binding for v in variants):
        rows += _binding([v.binding for v in variants if v.binding])
    if any(v.difference for v in variants):
        rows.append([f"difference to {labels[0]}", "", *map(_difference, variants)])
    return pd.DataFrame(rows, columns=["mIoU in %", "n", *labels])


def _binding(bindings: Sequence[Binding]) -> list[list[str]]:
    """Where the peak lies, heat on target over heat on distractor, swap consistency; each with its interval."""
    rows = []
    for name, path in BINDING.items():
        found = [getattr(b, path[0])[path[1]] if len(path) > 1 else getattr(b, path[0]) for b in bindings]
        digits = 2 if path[0] == "heat_ratio" else 1
        rows.append([name, str(found[0].n), *(bounded(f, digits) for f in found)])
    return rows


def bounded(estimate: Estimate, digits: int = 1) -> str:
    """A figure with its 95 % interval: "47.0 [44.1, 50.2]"."""
    low, high = estimate.low, estimate.high
    return figure(estimate.mean, digits) + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def _difference(variant: VariantFigures) -> str:
    d = variant.difference
    return "" if d is None else interval(d.mean, d.low, d.high)


def interval(mean: float, low: float | None, high: float | None) -> str:
    """A difference with its 95 % interval, where there is one: "+0.6 [+0.2, +1.0]"."""
    return f"{mean:+.1f}" if low is None or high is None else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def figure(value: float | None, digits: int = 1) -> str:
    """A number for a cell; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def markdown(frame: pd.DataFrame) -> str:
    """A table of text as padded Markdown; the first column to the left, the rest to the right."""
    lines = [list(map(str, frame.columns)), *frame.astype(str).values.tolist()]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    padded = [
        [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    ]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
