"""Results as tables, for terminals, Markdown and spreadsheets."""

from collections.abc import Mapping
from typing import Any

import pandas as pd


def ablation(summary: Mapping[str, Any]) -> pd.DataFrame:
    """One column a variant: mIoU overall and per slice with its n, then threshold, oIoU, precision and the difference
    to the first variant with its 95 % interval. Cells are text, "-" where there is no figure."""
    variants = summary["variants"]
    labels = [v["label"] for v in variants]
    rows: list[list[str]] = [["all", str(summary["n_scored"]), *(figure(v["mIoU"]) for v in variants)]]
    for name in variants[0]["slices"]:
        values = {value: entry["n"] for v in variants for value, entry in v["slices"][name].items()}
        for value, n in values.items():
            cells = [figure(v["slices"][name].get(value, {}).get("mIoU")) for v in variants]
            rows.append([f"{name} = {value}", str(n), *cells])
    rows.append(["threshold (oracle)", "", *(figure(v["threshold"], 2) for v in variants)])
    rows.append(["oIoU", "", *(figure(v["oIoU"]) for v in variants)])
    rows.append(["precision at IoU 0.5", "", *(figure(v["precision"]["0.5"]) for v in variants)])
    if any("difference" in v for v in variants):
        rows.append([f"difference to {labels[0]}", "", *map(_difference, variants)])
    return pd.DataFrame(rows, columns=["mIoU in %", "n", *labels])


def _difference(variant: Mapping[str, Any]) -> str:
    d = variant.get("difference")
    return "" if d is None else interval(d["mean"], d["low"], d["high"])


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
