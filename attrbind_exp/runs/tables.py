"""Results as tables, for terminals and Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns; the first column to the left, the rest to the right."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths)))
            + " |"
        )

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def figure(value: float | None, digits: int = 1) -> str:
    """A number for a cell; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def ablation(summary: Mapping[str, Any]) -> str:
    """mIoU of every variant: overall, then per slice with its n."""
    variants = summary["variants"]
    header = ["mIoU in %", "n", *(v["label"] for v in variants)]
    rows = [["all", str(summary["n_scored"]), *(figure(v["mIoU"]) for v in variants)]]
    for name, values in variants[0]["slices"].items():
        for value, entry in values.items():
            cells = [figure(v["slices"][name][value]["mIoU"]) for v in variants]
            rows.append([f"{name} = {value}", str(entry["n"]), *cells])
    rows.append(["threshold (oracle)", "", *(figure(v["threshold"], 2) for v in variants)])
    rows.append(["oIoU", "", *(figure(v["oIoU"]) for v in variants)])
    rows.append(["precision at 0.5", "", *(figure(v["precision"]["0.5"]) for v in variants)])
    if any("difference" in v for v in variants):
        rows.append([f"difference to {variants[0]['label']}", "", *map(_difference, variants)])
    return markdown(header, rows)


def _difference(variant: Mapping[str, Any]) -> str:
    d = variant.get("difference")
    return "" if d is None else f"{d['mean']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]"
