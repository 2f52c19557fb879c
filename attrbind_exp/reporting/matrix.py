"""One expression under every reading and every edit: a matrix of heat maps, a row a reading, a column an edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from attrbind_exp.reporting import maps
from attrbind_exp.reporting.figures import font, wrap
from attrbind_exp.runs.shown import clean, shorten
from attrbind_exp.runs.store import write_whole
from attrbind_exp.tasks.task import Panel

PANEL = 96  # pixels high
GAP = 4
LINE = 13  # pixels high, of a line of text
LEAST = 420  # pixels wide, so that the title has room
LETTERS = 10
PER_LETTER = 6.2  # pixels of width, as a mean
COLOURS = 256  # of the file's palette: a quarter of the bytes


@dataclass(frozen=True)
class Cell:
    """One heat map (H, W) in [0, 1], the threshold of its variant, and the IoU of its mask in percent."""

    heat: np.ndarray
    threshold: float
    iou: float


@dataclass(frozen=True)
class Matrix:
    """One expression: its picture, its true mask (H, W) bool, the names of readings (of one line or several) and
    edits, and the cell of each pair (reading, edit) that was measured."""

    title: str
    photo: Image.Image
    truth: np.ndarray
    readings: Sequence[str]
    edits: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]


def draw(matrix: Matrix) -> Image.Image:
    """The matrix as one picture. In the corner stand the picture and the true mask; a heat map has the outline of its
    mask and of the truth, and below it the threshold and the IoU."""
    size = maps.scale(matrix.photo, PANEL).shape[1::-1]  # width, height
    left, top = corner(size)
    width, height = left + len(matrix.edits) * (size[0] + GAP), top + len(matrix.readings) * (PANEL + LINE + GAP)
    width = max(width, LEAST)
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    letters = int((width - 2 * GAP) / PER_LETTER)
    pen.text((GAP, LINE), shorten(clean(matrix.title), letters), "black", font(12), anchor="lm")
    known = {"image": Panel("photo"), "truth": Panel("mask", matrix.truth, truth=matrix.truth)}
    for number, picture in enumerate(maps.render(known, matrix.photo, height=PANEL)[0].values()):
        page.paste(Image.fromarray(picture), (GAP + number * (size[0] + GAP), 2 * LINE))
    for column, edit in enumerate(matrix.edits):
        middle = left + column * (size[0] + GAP) + size[0] / 2
        lines = wrap(clean(edit), int(size[0] / PER_LETTER))
        for number, line in enumerate(reversed(lines)):
            pen.text((middle, top - GAP - LINE * (number + 0.5)), line, "black", font(LETTERS), anchor="mm")
    for row, reading in enumerate(matrix.readings):
        room = int((left - 2 * GAP) / (PER_LETTER * (LETTERS + 1) / LETTERS))
        lines = [line for part in reading.splitlines() for line in wrap(clean(part), room)]
        first = top + row * (PANEL + LINE + GAP) + PANEL / 2 - LINE * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            pen.text((left - 2 * GAP, first + LINE * number), line, "black", font(LETTERS + 1), anchor="rm")
        for column, edit in enumerate(matrix.edits):
            cell = matrix.cells.get((reading, edit))
            if cell is not None:
                _paste(page, pen, place(size, row, column), cell, matrix)
    return page


def corner(size: tuple[int, int]) -> tuple[int, int]:
    """Where the first heat map stands, in pixels from the left and the top; `size`: a panel's width and height."""
    return 2 * (size[0] + GAP) + 2 * GAP, 2 * LINE + size[1] + 2 * GAP


def place(size: tuple[int, int], row: int, column: int) -> tuple[int, int]:
    """The left top corner of a heat map, in pixels; `size`: a panel's width and height."""
    left, top = corner(size)
    return left + column * (size[0] + GAP), top + row * (size[1] + LINE + GAP)


def _paste(page: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], cell: Cell, matrix: Matrix) -> None:
    panel = {"heat": Panel("heat", cell.heat, cell.threshold, matrix.truth)}
    picture = maps.render(panel, matrix.photo, height=PANEL)[0]["heat"]
    page.paste(Image.fromarray(picture), at)
    middle = (at[0] + picture.shape[1] / 2, at[1] + PANEL + LINE / 2)
    pen.text(middle, f"{cell.iou:.0f} @{cell.threshold:.2f}", "black", font(LETTERS), anchor="mm")


def write(matrix: Matrix, path: Path) -> Path:
    """The picture as a PNG of few colours; equal matrices make equal bytes."""
    # Other ways of choosing a palette give large areas many colours, and small shapes of a picture another colour.
    few = draw(matrix).quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    return write_whole(path, lambda to: few.save(to, "PNG", optimize=True))
