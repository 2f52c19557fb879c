"""What a report's figures say, in one to three sentences for each data that was scored. They stand first on a page."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attrbind_exp.edits.variant import is_floor
from attrbind_exp.reporting.html.comparison import Column, Group, reference, selection
from attrbind_exp.reporting.html.sections import choice_of_threshold, head, tone
from attrbind_exp.reporting.paper_tables import comparisons, leading
from attrbind_exp.reporting.tables import figure
from attrbind_exp.scoring.holm import survive
from attrbind_exp.scoring.references import CEILING, CENTRE, OBJECTS

Row = Mapping[Hashable, Any]  # of sections.between

MOST = 4  # groups that are answered one by one


@dataclass(frozen=True)
class Answer:
    """What was found on one group's data: `text`, and `tone`: 1 where the best method is above what it is compared to,
    -1 where it is below, 0 where there is no difference or nothing to compare."""

    data: str
    text: str
    tone: int = 0


@dataclass(frozen=True)
class _Compared:
    """A column with a difference: what it is compared `to`, its row of the results, and whether it survives Holm's
    correction."""

    column: Column
    to: str
    row: Row
    kept: bool

    @property
    def difference(self) -> float:
        return float(leading(self.row, "difference"))

    @property
    def tone(self) -> int:
        return tone(leading(self.row, "low"), leading(self.row, "high"))


def answers(groups: Sequence[Group], table: pd.DataFrame) -> list[Answer]:
    """One answer a group, that of the split which only chooses thresholds left out. `table`: sections.between."""
    runs = [run for g in groups for run in g.runs]
    chooser = selection(runs) if len(groups) > 1 else None
    asked = [(i, g) for i, g in enumerate(groups) if chooser is None or all(run.split != chooser for run in g.runs)]
    if not asked:
        return []
    ps = comparisons(table)
    marked = table.assign(kept=survive(ps))
    found = [_answer(g, marked[marked["group"] == i], sum(p is not None for p in ps)) for i, g in asked[:MOST]]
    more = len(asked) - MOST
    rest = [Answer("", f"More data in the table below: {more} more.")] if more > 0 else []
    return found + rest


def _answer(group: Group, part: pd.DataFrame, n: int) -> Answer:
    """A group's answer; `n`: the comparisons of the whole table."""
    rows = part.to_dict("records")
    number = head(group, part)
    if leading(rows[number], "mIoU") is None:
        return Answer(group.name, f"Nothing could be scored on {group.name}, so there is no figure.")
    compared = _compared(group, rows)
    if not compared:
        return Answer(group.name, _alone(group, group.columns[number], rows[number], rows))
    best = max(compared, key=lambda c: c.difference)
    thresholds = {str(row["variant"]): leading(row, "threshold") for row in rows}
    said = [_difference(group, best, len(compared), thresholds), _others(compared, best), _strength(best, n, rows)]
    return Answer(group.name, " ".join(filter(None, said)), best.tone)


def _compared(group: Group, rows: Sequence[Row]) -> list[_Compared]:
    """Columns with a difference; those that edit something where there are any, and never a floor."""
    found = []
    for column, row in zip(group.columns, rows):
        first = reference(group, column)
        if first is not None and leading(row, "difference") is not None and not is_floor(column.label):
            found.append(_Compared(column, first.label, row, bool(row["kept"])))
    return [c for c in found if c.column.is_rival] or found


def _difference(group: Group, best: _Compared, count: int, thresholds: Mapping[str, float | None]) -> str:
    """How the best method compares: above, below, or no difference. `thresholds`: of every row, by its label."""
    name, to, where = best.column.label, best.to, f"On {group.name}"
    mean, low, high = (leading(best.row, key) for key in ("difference", "low", "high"))
    scored = f"n = {int(best.row['n']):,} {group.scored}"
    named = name if count == 1 else f"{name}, the highest of {count} methods,"
    if low is None or high is None:
        points = f"{abs(mean):.1f} points of mIoU {'below' if mean < 0 else 'above'} {to} ({scored})"
        return f"{where}, {named} is {points}; without an interval that says nothing of other images."
    digits = _digits(low, high)
    within = f"{low:+.{digits}f} to {high:+.{digits}f}; {scored}; {_threshold(best, thresholds.get(to))}"
    if best.tone == 0:
        points = f"{mean:+.{digits}f} points of mIoU, with a 95 % interval that holds zero ({within})"
        return f"{where}, {named} shows no difference to {to}: {points}."
    verb, side = ("scores", "above") if best.tone > 0 else ("scores" if count == 1 else "still scores", "below")
    return f"{where}, {named} {verb} {abs(mean):.{digits}f} points of mIoU {side} {to} (95 % interval {within})."


def _digits(*bounds: float) -> int:
    """Decimal places at which no bound looks like zero that is none."""
    return 2 if any(b and not round(b, 1) for b in bounds) else 1


def _threshold(found: _Compared, other: float | None) -> str:
    """At which thresholds both were compared, and who chose them."""
    own = leading(found.row, "threshold")
    if own is None:
        return "no threshold"
    how = choice_of_threshold(found.column, found.row.get("difference held out") is not None)
    return f"threshold {own:.2f}{'' if other is None else f' ({found.to} {other:.2f})'}, {how}"


def _others(compared: Sequence[_Compared], best: _Compared) -> str:
    """Where the highest does not differ: how many of the others do."""
    tones = [c.tone for c in compared if c is not best]
    counts = {"above": tones.count(1), "below": tones.count(-1)}
    told = [f"{n} {'lies' if n == 1 else 'lie'} {side}" for side, n in counts.items() if n]
    if best.tone or not told:
        return ""
    return f"Of the other methods, by their intervals, {' and '.join(told)} {best.to}."


def _strength(best: _Compared, n: int, rows: Sequence[Row]) -> str:
    """Whether the difference survives all comparisons of the table, and where the method stands between floor and
    ceiling."""
    said = []
    if n > 1 and best.tone and leading(best.row, "p") is not None:
        holds = "survives" if best.kept else "does not survive"
        said.append(f"That difference {holds} Holm's correction over the {n} comparisons of this page.")
    place = _place(best.row, rows)
    if place:
        said.append(f"The method's mIoU is {place}.")
    return " ".join(said)


def _alone(group: Group, column: Column, row: Row, rows: Sequence[Row]) -> str:
    """Where a method stands that is compared with none."""
    held, at = row.get("mIoU held out") is not None, leading(row, "threshold")
    threshold = "" if at is None else f"; threshold {at:.2f}, {choice_of_threshold(column, held)}"
    about = f"n = {int(row['n']):,} {group.scored}{threshold}"
    without = "ceiling" if any(r["variant"] in (OBJECTS, CENTRE) for r in rows) else "floor and ceiling"
    place = _place(row, rows) or f"{figure(leading(row, 'mIoU'))} %, with no {without} beside it"
    return f"On {group.name}, the mIoU of {column.label} is {place} ({about}). It is compared with no other."


def _place(row: Row, rows: Sequence[Row]) -> str:
    """Such as "26.5 %, 12 % of the way from the highest floor (all objects, 20.0) to the ceiling (75.0)"; "" where
    there is no floor or no ceiling."""
    heights = {str(r["variant"]): leading(r, "mIoU") for r in rows}
    floor, ceiling = row.get("share from"), heights.get(CEILING)
    if row.get("share") is None or floor is None or ceiling is None:
        return ""
    named, height = str(floor).removeprefix("floor: "), heights[str(floor)]
    own = figure(leading(row, "mIoU"))
    if row["share"] < 0:
        return f"{own} %, below the highest floor, which reads no word ({named}, {figure(height)})"
    way = f"{row['share']:.0f} % of the way from the highest floor ({named}, {figure(height)})"
    return f"{own} %, {way} to the ceiling ({figure(ceiling)})"
