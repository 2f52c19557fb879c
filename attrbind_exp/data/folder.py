"""Your own images: a folder of pictures and one table of expressions, JSON lines or CSV.

The columns `image` and `expression` are needed. `mask` (path of a PNG, or COCO's run lengths or polygons as JSON),
`category` and `id` may be there. Every other column is a slice label to report by, unless it has more than MOST_VALUES
values. Paths are relative to the folder, or absolute.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from attrbind_exp.data.dataset import Dataset, choose_image
from attrbind_exp.data.images import open_picture
from attrbind_exp.data.rows import ENDINGS, Row, read_rows
from attrbind_exp.types import Failure, Sample, SampleError, UserError
from attrbind_exp.work import each

NEEDED = ("image", "expression")
OPTIONAL = ("mask", "category", "id")
MOST_VALUES = 20  # of a column to report by; others are notes, names or measurements
MOST_NAMED = 5


def load_folder(
    root: str, file: str | None = None, limit: int | None = None, fraction: float | None = None, note: str | None = None
) -> Dataset:
    """One Sample for every row, in the table's order. A row without a mask has segmentation None.

    `file` names the table where the folder holds several. `limit` keeps the first rows. `fraction` keeps a seeded
    random part of the images. A row that cannot be used becomes a Failure: "duplicate_id", "empty_expression",
    "text_malformed", "image_turned", "mask_malformed", and what images.read_image raises. Raises UserError for a
    missing folder or table and for a row that cannot be read, naming its line.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"no folder '{base}'; set dataset.root=DIR to a folder of images and one *.jsonl or *.csv")
    table = _find_table(base, file)
    samples: list[Sample] = []
    failures: list[Failure] = []
    sizes: dict[Path, tuple[int, int]] = {}
    seen: set[str] = set()
    labels, others = sort_columns(row for _, row in read_rows(table, NEEDED))
    for line, row in each(read_rows(table, NEEDED), "reading", "rows"):
        if limit is not None and len(samples) + len(failures) >= limit:
            break
        sample_id = f"line {line}"
        try:
            sample_id = _text(row.get("id")) or sample_id
            if sample_id in seen:
                raise SampleError("duplicate_id", f"an earlier row has the id '{sample_id}' too")
            sample = _sample(sample_id, row, base, labels, sizes)
            if choose_image(sample.image_id, fraction):
                samples.append(sample)
        except SampleError as error:
            failures.append(Failure(sample_id, error.reason, f"{table.name}, line {line}: {error}"))
        seen.add(sample_id)
    if not seen:
        raise UserError(f"'{table}' has no rows; give one a line, with {', '.join(NEEDED)}")
    named = ", ".join(name[:40] for name in others[:MOST_NAMED]) + (
        f" and {len(others) - MOST_NAMED} more" if others[MOST_NAMED:] else ""
    )
    unused = f"no slices by columns of more than {MOST_VALUES} values: {named}" if others else None
    return Dataset(base.resolve().name, samples, failures, "; ".join(filter(None, [note, unused])) or None)


def sort_columns(rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    """The further columns of a table: those to report by, and those that have too many values for it."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for column, cell in row.items():
            if column and column not in NEEDED + OPTIONAL:
                known = values.setdefault(column, set())
                if len(known) <= MOST_VALUES and (text := _label(cell)):
                    known.add(text)
    few = [column for column, known in values.items() if len(known) <= MOST_VALUES]
    return few, [column for column in values if column not in few]


def _find_table(base: Path, file: str | None) -> Path:
    """The table of expressions. Raises UserError where it is not there, or where several are and none is named."""
    found = sorted(f.name for f in base.iterdir() if f.suffix in ENDINGS)
    here = f"'{base}' holds {', '.join(found) or 'no *.jsonl or *.csv'}"
    if file is None:
        if len(found) != 1:
            raise UserError(f"{here}; it needs one table of expressions, or dataset.file=NAME")
        return base / found[0]
    table = base / Path(file).expanduser()
    if not table.is_file() or table.suffix not in ENDINGS:
        raise UserError(f"no table dataset.file='{file}': {here}; give the name of a *.jsonl or *.csv")
    return table


def _sample(sample_id: str, row: Row, base: Path, labels: Sequence[str], sizes: dict[Path, tuple[int, int]]) -> Sample:
    """The Sample of one row. `labels`: the columns to report by. `sizes` remembers (height, width) by path; it grows.
    Raises SampleError."""
    if isinstance(row["expression"], list | dict | bool):
        raise SampleError("text_malformed", f"the expression is a {type(row['expression']).__name__}, no text")
    expression = _text(row["expression"])
    if not expression:
        raise SampleError("empty_expression", "the expression is empty")
    if not _text(row["image"]):
        raise SampleError("image_missing", "no image is named")
    path = base / _text(row["image"])
    if path not in sizes:
        sizes[path] = _displayed_size(path)
    return Sample(
        sample_id=sample_id,
        image_id=(path.relative_to(base) if path.is_relative_to(base) else path).as_posix(),
        image_path=path,
        text=expression,
        category=_text(row.get("category")) or None,
        segmentation=_segmentation(row.get("mask"), base),
        size=sizes[path],
        slices={name: text for name in labels if (text := _label(row.get(name)))},
    )


def _text(value: object) -> str:
    """A cell as text without spaces around it; "" for an empty one. Raises SampleError."""
    try:
        return "" if value is None else str(value).strip()
    except RecursionError as error:
        raise SampleError("text_malformed", "a cell is nested too deeply to be text") from error


def _label(value: object) -> str:
    """A cell as a slice label; "" for none."""
    try:
        return _text(value)
    except SampleError:
        return ""


def _segmentation(mask: object, base: Path) -> Any:
    """A mask cell in one of the forms that masks.decode_mask reads; None where the cell is empty."""
    if not isinstance(mask, str):
        return mask
    text = mask.strip()
    if text[:1] not in ("{", "["):
        return {"png": str(base / text)} if text else None
    try:
        return json.loads(text)
    except RecursionError as error:
        raise SampleError("mask_malformed", "the mask is nested too deeply") from error
    except ValueError as error:
        raise SampleError("mask_malformed", f"the mask is not whole JSON: {error}") from error


def _displayed_size(path: Path) -> tuple[int, int]:
    """The (height, width) of a picture after its EXIF rotation, from the file's header.

    Raises SampleError: "image_turned", and what `open_picture` raises.
    """
    with open_picture(path) as opened:
        width, height = opened.size
        # The base class's method: a PNG's own getexif decodes the whole picture.
        turn = Image.Image.getexif(opened).get(ExifTags.Base.Orientation, 1)
    if turn in (2, 3, 4) or (turn in (5, 6, 7, 8) and width == height):
        # Readers tell a turned picture by its size, which here is the same either way.
        raise SampleError("image_turned", f"image '{path}' is turned by EXIF without a change of size; save it upright")
    return (width, height) if turn in (5, 6, 7, 8) else (height, width)
