"""Rows of a run, expressions.jsonl: the schema, written and read here and nowhere else.

A row is one line of JSON. Its "row" field says what kind it is and in which version. Lines are cut at "\\n" alone. A
last line without it is torn: it was being written when the run was killed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from attrbind_exp.types import UserError

NAME = "expressions.jsonl"


class PromptColumns(msgspec.Struct, kw_only=True, frozen=True):
    """How an expression was read: the prompt, words of target and chunk, whether edits apply (`bound`), and which
    fallback rules were used."""

    prompt: str
    target: str
    chunk: str
    bound: bool
    fallbacks: Sequence[str]


class ExpressionRow(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, tag_field="row", tag="expression.3"):
    """One expression under one variant and noise seed.

    `intersection`, `union`: pixels at the 101 thresholds of scoring.metrics.THRESHOLDS; `iou_at`: IoU by threshold of
    the paper's grid ("0.30"); all three None without a ground truth. `peak` and `heat_on` (mean heat by object id):
    where the image's other objects are known. `metrics`: by name, what the user's own metrics measured. `references`:
    IoU of floors and ceiling at the thresholds of `iou_at`, or one number (scoring/references.py); on the first row of
    an expression alone.
    `annotation_digest`, `picture_digest`: of the data that it was made of (data/digests.py).
    """

    sample_id: str
    image_id: str
    text_processor: str
    alpha: float | None
    attention_layers: str | None = None
    heatmap: str | None = None
    seed: int
    expression: str
    prompt: str
    target: str
    chunk: str
    bound: bool
    fallbacks: Sequence[str]
    slices: Mapping[str, str | Sequence[str]]
    iou_at: Mapping[str, float] | None
    intersection: Sequence[int] | None
    union: Sequence[int] | None
    peak: str | None = None
    heat_on: Mapping[str, float] | None = None
    metrics: Mapping[str, float] = {}
    references: Mapping[str, Sequence[float]] = {}
    annotation_digest: str = ""
    picture_digest: str = ""


class ImageRow(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, tag_field="row", tag="image.2"):
    """One image under one variant and noise seed, scored class by class.

    `looked_for`: how each class name was read; the counts are those of scoring.classes.ClassCounts; the digests as in
    ExpressionRow.
    """

    image_id: str
    text_processor: str
    alpha: float | None
    attention_layers: str | None = None
    heatmap: str | None = None
    seed: int
    looked_for: Mapping[str, PromptColumns]
    classes: Sequence[int]
    truth: Sequence[int]
    predicted: Sequence[Sequence[int]]
    hit: Sequence[Sequence[int]]
    annotation_digest: str = ""
    picture_digest: str = ""


Row = ExpressionRow | ImageRow

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Row] = msgspec.json.Decoder(Row)


def with_digests(rows: Iterable[Row], annotations: str, picture: str) -> list[Row]:
    """The rows of one image with the digests of what they were made of."""
    return [msgspec.structs.replace(row, annotation_digest=annotations, picture_digest=picture) for row in rows]


def encode_rows(rows: Iterable[Row]) -> bytes:
    """The lines of some rows."""
    return b"".join(_encoder.encode(row) + b"\n" for row in rows)


def read_rows(stream: BinaryIO, file: Path) -> Iterator[tuple[Row, int]]:
    """Rows one by one, each with the byte at which it ends; a torn last line is left out.

    Raises UserError, naming `file` and the line, for a line that is no row of this version.
    """
    end = 0
    for number, line in enumerate(stream, start=1):
        if not line.endswith(b"\n"):
            return
        end += len(line)
        try:
            yield _decoder.decode(line), end
        except (ValueError, RecursionError) as error:  # no row, no UTF-8, nested without end
            raise UserError(
                f"'{file}' line {number} is no row that this version writes ({error}); remove the folder and run again"
            ) from error


def group_by_image(rows: Iterable[tuple[Row, int]]) -> Iterator[tuple[str, list[Row], int]]:
    """The rows of one image after the other, with its id and the byte at which its last row ends."""
    found: list[Row] = []
    end = 0
    for row, stop in rows:
        if found and row.image_id != found[0].image_id:
            yield found[0].image_id, found, end
            found = []
        found.append(row)
        end = stop
    if found:
        yield found[0].image_id, found, end


def read_images(folder: Path) -> Iterator[tuple[str, list[Row]]]:
    """The rows of a run's folder, one image after the other. Raises UserError where they cannot be read."""
    file = folder / NAME
    try:
        with open(file, "rb") as stream:
            for image_id, rows, _ in group_by_image(read_rows(stream, file)):
                yield image_id, rows
    except OSError as error:
        raise UserError(f"cannot read the rows of the run at '{folder}': {error.strerror}") from error
