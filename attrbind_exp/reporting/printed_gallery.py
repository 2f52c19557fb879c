"""Gallery pictures of a finished run as one figure for a paper: a row a picture, text as text, the panels as they were
drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from PIL import Image

from attrbind_exp.reporting import maps, panels
from attrbind_exp.reporting.panels import Description
from attrbind_exp.reporting.style import LETTER, Style
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import write_whole
from attrbind_exp.types import UserError

HIGHEST = 9.0  # inches of a page that are left for a figure
GAP, LINE, BAR = 0.05, 0.13, 0.36  # inches: between panels, a line of text, the colour bar with its figures


@dataclass(frozen=True)
class Row:
    """One gallery picture: what it says of itself, and its panels (h, w, 3) uint8 in that order."""

    about: Description
    panels: Sequence[np.ndarray]


def read_row(file: Path) -> Row:
    """A gallery picture. Raises UserError where it does not say what is where in it, or cannot be read."""
    try:
        with Image.open(file) as image:
            about = panels.decode(image.info[panels.KEY])
            return Row(about, [np.asarray(image.convert("RGB").crop(box)) for _, box in about.panels])
    except (OSError, ValueError, LookupError, SyntaxError) as error:
        raise UserError(f"'{file}' is no gallery picture of a run ({str(error)[:80]}); draw it again") from error


def gallery_figure(files: Sequence[Path], path: Path, title: str, style: Style) -> Path:
    """Write pictures below each other, the first ones that fit on a page and have the panels of the first; `title`
    stands in the file's metadata."""
    rows = [row for row in map(read_row, files) if row.panels]
    rows = [row for row in rows if [n for n, _ in row.about.panels] == [n for n, _ in rows[0].about.panels]]
    with style.applied():
        width, _ = style.size((9.0, 0.0), 0.0)
        has_bar = not rows[0].about.classes
        side = (width - BAR * has_bar) / len(rows[0].panels) - GAP
        heads = _heads(rows[0].about, side)
        handles = _key(rows)
        longest = max(len(str(handle.get_label())) for handle in handles) if handles else 1
        columns = max(1, int(width / (0.65 + LETTER * longest)))
        below = LINE * (1.3 * -(-len(handles) // columns) + 1)
        above = LINE * 1.1 * (1 + max(head.count("\n") for head in heads))
        heights = [side * max(p.shape[0] / p.shape[1] for p in row.panels) + LINE * 1.4 + GAP for row in rows]
        shown = max(1, int((np.cumsum(heights) + above + below <= HIGHEST).sum()))
        figure = plt.figure(figsize=(width, sum(heights[:shown]) + above + below))
        _draw(figure, rows[:shown], heights, heads, side, above)
        figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, borderpad=0)
        try:
            return write_whole(path, lambda to: style.save(figure, to, title))
        finally:
            plt.close(figure)


def _heads(about: Description, side: float) -> list[str]:
    """What stands above each column: the panel's name, and its threshold where it has one."""
    at = about.thresholds
    letters = max(8, int(side / LETTER))
    names = [clean(name, 120) + (f" (at {at[name]:.2f})" if name in at else "") for name, _ in about.panels]
    return [_fold(name, letters) for name in names]


def _fold(text: str, letters: int) -> str:
    """A text in lines of at most so many letters, cut behind spaces and underscores where there are any."""
    lines = [""]
    for part in text.replace("_", "_ ").split(" "):
        glue = "" if not lines[-1] or lines[-1].endswith("_") else " "
        if lines[-1] and len(lines[-1] + glue + part) > letters:
            lines.append(part)
        else:
            lines[-1] += glue + part
    return "\n".join(lines).replace("$", r"\$")


def _draw(
    figure: Figure, rows: Sequence[Row], heights: Sequence[float], heads: Sequence[str], side: float, above: float
) -> None:
    """Place texts and panels, in inches from the top left corner."""
    width, height = figure.get_size_inches()
    y = above
    for number, row in enumerate(rows):
        title = clean(row.about.title, 200).replace("$", r"\$")
        figure.text(GAP / width, 1 - (y + LINE) / height, title, fontsize="medium", style="italic")
        for column, panel in enumerate(row.panels):
            x = GAP / 2 + column * (side + GAP)
            tall = side * panel.shape[0] / panel.shape[1]
            top = y + LINE * 1.4
            axis = figure.add_axes((x / width, 1 - (top + tall) / height, side / width, tall / height))
            axis.imshow(panel)
            axis.set_axis_off()
            if number == 0:
                middle = (x + side / 2) / width
                figure.text(middle, 1 - LINE * 0.2 / height, heads[column], ha="center", va="top", fontsize="small")
        if number == 0 and not row.about.classes:
            _bar(figure, x=len(row.panels) * (side + GAP), top=y + LINE * 1.4, tall=heights[0] - LINE * 1.4 - GAP)
        y += heights[number]


def _bar(figure: Figure, x: float, top: float, tall: float) -> None:
    """The scale of heat, beside the first row."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((x / width, 1 - (top + tall) / height, 0.09 / width, tall / height))
    axis.imshow(np.linspace(1, 0, 256)[:, None], cmap=maps.HEAT, aspect="auto", extent=(0, 1, 0, 1))
    axis.set(xticks=[], yticks=[0, 0.5, 1])
    axis.yaxis.tick_right()
    axis.tick_params(labelsize=6, length=2, pad=1)
    axis.set_title("heat", fontsize=6, pad=2)


def _key(rows: Sequence[Row]) -> list[Artist]:
    """What outlines and colours mean."""
    about = rows[0].about
    classes = {name: colour for row in rows for name, colour in row.about.classes}
    if classes:
        return [Patch(facecolor=maps.as_hex(c), edgecolor="black", lw=0.4, label=n) for n, c in classes.items()]
    found: list[Artist] = []
    if any(name == "ground truth" for name, _ in about.panels):
        found.append(_line(maps.as_hex(maps.TRUTH), "ground truth"))
    if about.thresholds:
        found.append(_line(maps.as_hex(maps.MASK), "mask: heat at or above the threshold"))
    return found


def _line(colour: str, label: str) -> Line2D:
    around = [withStroke(linewidth=2.7, foreground="black")]
    return Line2D([], [], color=colour, lw=1.5, path_effects=around, label=label)
