"""Results as tables, for terminals, Markdown and spreadsheets."""

from collections.abc import Callable, Sequence

import pandas as pd

from attrbind_exp.edits.variant import is_floor
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.summary import Summary
from attrbind_exp.scoring.figures import Binding, Difference, Estimate, VariantFigures
from attrbind_exp.scoring.holm import survive
from attrbind_exp.scoring.references import highest, share

# The binding figures of the ablation table: name, where it stands, decimal places.
BINDING: tuple[tuple[str, Callable[[Binding], Estimate], int], ...] = (
    ("peak on target", lambda b: b.peak["target"], 1),
    ("peak on target, with distractor", lambda b: b.peak_rivals["target"], 1),
    ("peak on distractor", lambda b: b.peak_rivals["distractor"], 1),
    ("heat target / distractor", lambda b: b.heat_ratio, 2),
    ("swapped word moves the heat the right way, %", lambda b: b.moved, 1),
    ("swapped word moves the heat by (log ratio)", lambda b: b.shift, 2),
)

ROUGH = 20  # images; below, no way of making intervals that we tried holds the truth in 93 to 97 % (protocol 4.4)


def ablation(summary: Summary) -> pd.DataFrame:
    """One column a variant: mIoU overall, between which floors and ceiling it stands, and per slice with its n, then
    threshold, oIoU, precision, binding figures and the user's own metrics where there are any, the difference to the
    first variant with its 95 % interval, marked where it survives Holm's correction over the table, and what the last
    edit adds. Cells are text, "-" where there is no figure."""
    variants = summary.variants
    labels = [v.label for v in variants]
    rows: list[list[str]] = [["all", str(summary.n_scored), *(figure(v.mIoU) for v in variants)]]
    rows += _between(summary)
    for name in variants[0].slices:
        values = {value: found.n for v in variants for value, found in v.slices[name].items()}
        for value, n in values.items():
            found = [v.slices[name].get(value) for v in variants]
            rows.append([f"{name} = {value}", str(n), *(figure(f.mIoU if f else None) for f in found)])
    rows.append(["threshold (oracle)", "", *(figure(v.threshold, 2) for v in variants)])
    rows.append(["oIoU", "", *(figure(v.oIoU) for v in variants)])
    rows.append(["precision at IoU 0.5", "", *(figure(v.precision["0.5"]) for v in variants)])
    bindings = [v.binding for v in variants if v.binding is not None]
    if len(bindings) == len(variants):
        rows += [_bounded_row(name, [read(b) for b in bindings], digits) for name, read, digits in BINDING]
    rows += [_bounded_row(name, found) for name, found in own_metrics(variants).items()]
    if any(v.difference for v in variants):
        rows.append([f"difference to {labels[0]}", "", *marked([v.difference for v in variants], _compared(variants))])
    for than in dict.fromkeys(v.beyond.than for v in variants if v.beyond):
        added = [v.beyond.difference if v.beyond and v.beyond.than == than else None for v in variants]
        rows.append([f"beyond {than}", "", *("" if d is None else interval(d.mean, d.low, d.high) for d in added)])
    return pd.DataFrame(rows, columns=["mIoU in %", "n", *labels])


def ablation_page(summary: Summary) -> str:
    """The same as Markdown, and under it what its marks say."""
    images = [v.difference.images for v in summary.variants if v.difference]
    notes = (mark_line(_compared(summary.variants)), few_line(images))
    return "\n\n".join(filter(None, [markdown(ablation(summary)), *notes]))


def _between(summary: Summary) -> list[list[str]]:
    """A row each floor and the ceiling, the same for all variants, and how far each of these has come between them."""
    count = len(summary.variants)
    rows = [[r.name, str(r.n), *[figure(r.mIoU)] * count] for r in summary.references]
    if (found := shares(summary)) is not None:
        rows.append([way_from(found[0]), "", *(figure(s) for s in found[1])])
    return rows


def shares(summary: Summary) -> tuple[str, list[float | None]] | None:
    """The name of a run's highest floor, and how far every variant is on the way from there to the ceiling, in percent;
    None where there is no floor or no ceiling."""
    floors = {v.label: v.mIoU for v in summary.variants if is_floor(v.label)}
    floors |= {r.name: r.mIoU for r in summary.references if r.is_floor}
    ceiling = next((r.mIoU for r in summary.references if not r.is_floor), None)
    floor = highest(floors)
    if floor is None or ceiling is None:
        return None
    return floor[0], [share(v.mIoU, floor[1], ceiling) for v in summary.variants]


def way_from(floor: str) -> str:
    """What shares are called after their floor: "% of the way from all objects to the ceiling"."""
    return f"% of the way from {floor.removeprefix('floor: ')} to the ceiling"


def own_metrics(variants: Sequence[VariantFigures]) -> dict[str, list[Estimate | None]]:
    """The metrics that the user added, by name: one figure a variant, None where a variant lacks it."""
    names = dict.fromkeys(name for v in variants for name in v.metrics)
    return {name: [v.metrics.get(name) for v in variants] for name in names}


def _bounded_row(name: str, found: Sequence[Estimate | None], digits: int = 1) -> list[str]:
    """A name, the n of the first variant that has the figure, and every variant's figure with its interval."""
    n = next(f.n for f in found if f is not None)
    return [name, str(n), *(bounded(f, digits) for f in found)]


def bounded(estimate: Estimate | None, digits: int = 1) -> str:
    """A figure with its 95 % interval: "47.0 [44.1, 50.2]"; "-" where there is none."""
    if estimate is None:
        return figure(None)
    mean, low, high = estimate.mean, estimate.low, estimate.high
    return figure(mean, digits) + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def _compared(variants: Sequence[VariantFigures]) -> list[float | None]:
    """p of every variant's comparison to the first, None where it has none: a floor is compared with nothing."""
    return [None if v.difference is None or is_floor(v.label) else v.difference.p for v in variants]


def marked(differences: Sequence[Difference | None], ps: Sequence[float | None] | None = None) -> list[str]:
    """All differences of one table as cells, marked; "" where there is none. `ps`: those of the comparisons that count,
    None = all."""
    signs = marks([None if d is None else d.p for d in differences] if ps is None else ps)
    return [
        "" if d is None else interval(d.mean, d.low, d.high) + sign for d, sign in zip(differences, signs, strict=True)
    ]


def marks(ps: Sequence[float | None]) -> list[str]:
    """ " *" for those of a table's comparisons that survive Holm's correction over all of them, by their p; else "". A
    single comparison has nothing to survive."""
    return [" *" if kept and mark_line(ps) else "" for kept in survive(ps)]


def mark_line(ps: Sequence[float | None]) -> str:
    """The line under a table that says what its marks are; "" where there are fewer than two comparisons."""
    n = sum(p is not None for p in ps)
    return "" if n < 2 else f"*: survives Holm's correction over the {n} comparisons of this table"


def few_line(images: Sequence[float | None]) -> str:
    """The line under a table some of whose differences are over so few images (None = not known) that their intervals
    are rough; "" where none are."""
    fewest = min((n for n in images if n is not None), default=ROUGH)
    if not 1 < fewest < ROUGH:
        return ""
    return f"{fewest:.0f} images: of so few, a 95 % interval holds the truth in about 90 to 98 % of cases"


def interval(mean: float, low: float | None, high: float | None) -> str:
    """A difference with its 95 % interval, where there is one: "+0.6 [+0.2, +1.0]"."""
    return f"{mean:+.1f}" if low is None or high is None else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def figure(value: float | None, digits: int = 1) -> str:
    """A number for a cell; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def markdown(frame: pd.DataFrame) -> str:
    """A table of text as padded Markdown; the first column to the left, the rest to the right. Cells are cleaned, since
    it is printed too."""
    given = [list(map(str, frame.columns)), *frame.astype(str).values.tolist()]
    lines = [[clean(cell) for cell in line] for line in given]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    padded = [
        [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    ]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
