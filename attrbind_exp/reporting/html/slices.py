"""Tables of a report with one column a variant: mIoU by slice, and where the heat lies."""

from collections.abc import Sequence
from dataclasses import dataclass

from attrbind_exp.reporting.html.comparison import Group
from attrbind_exp.reporting.tables import BINDING, bounded, figure, own_metrics
from attrbind_exp.scoring.figures import SliceFigures

SHADES = (0.5, 2, 5)  # differences in mIoU at which a cell of the slices is shaded more strongly


@dataclass(frozen=True)
class Cell:
    """A figure of the slices, and how strongly it is shaded: -3 .. 3."""

    text: str
    shade: int = 0


@dataclass(frozen=True)
class SliceRow:
    """A value of a slice label, or one of the user's metrics (`value` None), under every column."""

    name: str
    value: str | None
    n: int
    cells: Sequence[Cell]

    @property
    def label(self) -> str:
        """pair = rare."""
        return self.name if self.value is None else f"{self.name} = {self.value}"


def slice_rows(group: Group) -> list[SliceRow]:
    """One row a value of a slice label: n, and mIoU under each column, shaded by its difference to the first; then one
    row a metric that the user added, each figure with its interval."""
    entries = [c.entry for c in group.columns]
    labels = dict.fromkeys((k, v) for e in entries for k, values in e.slices.items() for v in values)
    rows = [_slice_row(name, value, [e.slices.get(name, {}).get(value) for e in entries]) for name, value in labels]
    for name, found in own_metrics(entries).items():
        n = next(f.n for f in found if f is not None)
        rows.append(SliceRow(name, None, n, [Cell(bounded(f)) for f in found]))
    return rows


def binding_rows(group: Group) -> list[SliceRow]:
    """One row a binding figure, as the terminal has them; none where no column has such figures. Masks of another
    system have no place where heat lies, and leave those of the others."""
    found = [c.entry.binding for c in group.columns]
    rows = []
    for name, read, digits in BINDING:
        each = [None if b is None else read(b) for b in found]
        n = next((e.n for e in each if e is not None), None)
        if n is not None:
            rows.append(SliceRow(name, None, n, [Cell(bounded(e, digits)) for e in each]))
    return rows


def _slice_row(name: str, value: str, found: Sequence[SliceFigures | None]) -> SliceRow:
    first = found[0].mIoU if found[0] else None
    cells = [Cell(figure(f.mIoU if f else None), _shade(f.mIoU - first if f and first else 0)) for f in found]
    return SliceRow(name, value, next(f.n for f in found if f), cells)


def _shade(change: float) -> int:
    strength = sum(abs(change) >= step for step in SHADES)
    return strength if change > 0 else -strength
