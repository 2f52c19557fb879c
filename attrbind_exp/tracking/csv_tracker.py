"""Tracking by CSV files, for spreadsheets and pandas."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrbind_exp.runs.store import write_whole
from attrbind_exp.tracking.tracker import Lines

LIVE, SUMMARY = "live.csv", "summary.csv"


class CsvTracker:
    """Files in csv/ below `folder`: live.csv has a row a point while the run lasts, summary.csv a row a figure; each
    table and curve has a file of its own. A run that goes on adds to live.csv."""

    def __init__(self, folder: Path, run_config: Mapping[str, object], **about: object):
        self.folder = Path(folder) / "csv"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._columns, _ = read_csv(self.folder / LIVE)

    def log(self, values: Mapping[str, float]) -> None:
        """One row of live.csv; a value of a new name is a new column of all rows."""
        file = self.folder / LIVE
        columns = list(dict.fromkeys([*self._columns, *values]))
        if columns != self._columns:
            _, rows = read_csv(file)
            write_csv(file, columns, [[*row, *[""] * (len(columns) - len(row))] for row in rows])
            self._columns = columns
        with open(file, "a", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerow([values.get(column, "") for column in columns])

    def summary(self, values: Mapping[str, object]) -> None:
        """The run's figures in summary.csv."""
        write_csv(self.folder / SUMMARY, ["name", "value"], list(values.items()))

    def curve(self, name: str, x: str, y: str, xs: Sequence[float], lines: Lines) -> None:
        """A row an x, a column a line."""
        self.table(name, [x, *(f"{y} {line}" for line in lines)], list(zip(xs, *lines.values(), strict=True)))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """NAME.csv, where a file can be called so."""
        allowed = re.sub(r"[^\w.=() -]+", "_", name)[:100]
        write_csv(self.folder / f"{allowed}.csv", columns, rows)

    def images(self, name: str, files: Mapping[str, Path]) -> None:
        """Nothing: they lie in the run's folder."""

    def close(self) -> str | None:
        """Where the files are."""
        return f"figures as CSV: {self.folder}"


def read_csv(file: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a file; none of either where there is none."""
    if not file.is_file():
        return [], []
    with open(file, encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream)) or [[]]
    return header, rows


def write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a file whole or not at all."""

    def write(to: Path) -> None:
        with open(to, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([columns, *rows])

    write_whole(file, write)
