"""Parses corrected by hand, from a JSONL or CSV file of expression, target and chunk."""

import re
from pathlib import Path

from attrbind_exp.data.rows import Row, read_rows
from attrbind_exp.types import Override, UserError

# Further columns of the parses.csv that attrbind_exp.parse writes. They are ignored here, so that rows can be copied
# from that file and corrected.
IGNORED_COLUMNS = (
    "sample_id",
    "image_id",
    "modifiers",
    "modified",
    "bound",
    "target_tokens",
    "chunk_tokens",
    "truncated",
    "fallback",
)
KNOWN = ("expression", "target", "chunk")


def read_overrides(path: str | Path) -> dict[str, Override]:
    """The overrides of a file, by expression.

    Target and chunk are words that occur once in the expression, or its characters as "start:end". A chunk may be left
    out. Raises UserError naming file, line, value and mend.
    """
    file = Path(path).expanduser()
    found: dict[str, Override] = {}
    lines: dict[str, int] = {}
    for line, row in read_rows(file, KNOWN[:2]):
        try:
            if unknown := [k for k in row if k not in (*KNOWN, *IGNORED_COLUMNS)]:
                raise ValueError(f"unknown column '{unknown[0]}'; choose from {', '.join(KNOWN)}")
            expression = _text(row, "expression")
            if expression in lines:
                raise ValueError(f"expression {expression!r} stands in line {lines[expression]} too; keep one of them")
            found[expression] = _override(expression, row)
        except ValueError as error:
            raise UserError(f"'{file}' line {line}: {error}") from error
        lines[expression] = line
    return found


def _override(expression: str, row: Row) -> Override:
    """The override that a row gives. Raises ValueError for words that are not there and a chunk without its target."""
    target = _locate(expression, _text(row, "target"), "target")
    if not row.get("chunk"):
        return Override(target)
    chunk = _locate(expression, _text(row, "chunk"), "chunk")
    if not chunk[0] <= target[0] < target[1] <= chunk[1]:
        raise ValueError(f"chunk {row['chunk']!r} does not contain target {row['target']!r}; give one that does")
    return Override(target, chunk)


def _locate(expression: str, value: str, name: str) -> tuple[int, int]:
    """The (start, end) characters of the words `value` in the expression, or of `value` itself where it is "start:end".

    `name` is the column, for the message. Raises ValueError where the words occur not once.
    """
    if given := re.fullmatch(r"(\d+):(\d+)", value):
        start, end = int(given[1]), int(given[2])
        words = expression[start:end]
        if end > len(expression) or not words.strip():
            raise ValueError(
                f"{name} {value!r} holds no word of {expression!r}; give start:end within 0:{len(expression)}"
            )
        return start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
    spans = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", expression)]
    if len(spans) == 1:
        return spans[0]
    if not spans:
        raise ValueError(f"{name} {value!r} does not occur in {expression!r}; give words as they stand there")
    choices = ", ".join(f"{a}:{b}" for a, b in spans)
    raise ValueError(f"{name} {value!r} occurs {len(spans)} times in {expression!r}; give one of {choices} instead")


def _text(row: Row, name: str) -> str:
    """A needed cell. Raises ValueError where it is empty or not text."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; give {name} as text")
    return value if name == "expression" else value.strip()
