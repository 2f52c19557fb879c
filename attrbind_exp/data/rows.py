"""Tables that people write by hand: JSON lines or CSV, one row a line. Every error names its line."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISREG

from attrbind_exp.types import UserError

ENDINGS = (".jsonl", ".csv")
Row = Mapping[str, object]  # cells by column; text in CSV, anything in JSON


def read_rows(file: Path, needed: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Every row as (line number, row). Blank lines and spaces after commas do no harm.

    Raises UserError naming file, line and mend, for a file that is missing, not UTF-8 or of another ending, for a torn
    row, and for a row without one of the columns `needed`.
    """
    if file.suffix.lower() not in ENDINGS:
        raise UserError(f"'{file}' is no table of rows; give a file that ends in {' or '.join(ENDINGS)}")
    try:
        if not file.is_dir() and not S_ISREG(file.stat().st_mode):  # a pipe would be waited for
            raise UserError(f"'{file}' is a pipe, a socket or a device; give a file")
        text = file.read_bytes().decode("utf-8-sig")  # as it is: reading text would turn "\r" into "\n"
    except UnicodeDecodeError as error:
        raise UserError(f"'{file}' is not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror}); give a file that is there") from error
    parse = _parse_csv if file.suffix.lower() == ".csv" else _parse_jsonl
    for line, row in parse(text, file):
        for column in needed:
            if column not in row:
                raise UserError(
                    f"'{file}' line {line}: no column '{column}', only {', '.join(row) or 'none'}; needed are "
                    f"{', '.join(needed)}"
                )
        yield line, row


def _line_end(text: str) -> str:
    """Where rows are cut: at "\n" alone, since a row may hold any other line break; at "\r" in files of old Macs."""
    return "\n" if "\n" in text else "\r"


def _parse_jsonl(text: str, file: Path) -> Iterator[tuple[int, Row]]:
    for line, part in enumerate(text.split(_line_end(text)), 1):
        if not part.strip():
            continue
        try:
            row = json.loads(part)
        except RecursionError as error:
            raise UserError(f"'{file}' line {line}: nested too deeply for a table; give one object a line") from error
        except ValueError as error:
            raise UserError(f"'{file}' line {line}: not whole JSON ({error}); give one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"'{file}' line {line}: {part.strip()[:60]!r} is no JSON object; give one a line")
        yield line, row


def _parse_csv(text: str, file: Path) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=_line_end(text)), strict=True, skipinitialspace=True)
    try:
        for row in reader:
            if None in row:
                more = f"{len(row[None])} cells more than columns"
                raise UserError(f"'{file}' line {reader.line_num}: {more}; put quotes around what holds commas")
            yield reader.line_num, row
    except csv.Error as error:
        line = reader.reader.line_num
        raise UserError(f"'{file}' line {line}: {error}; give comma-separated values, quotes in pairs") from error
