"""How a plot is written: for the screen, or as wide as a column of a paper."""

import textwrap
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from attrbind_exp.types import FigureWidth as Width

if TYPE_CHECKING:  # a command that draws nothing does without matplotlib
    from matplotlib.figure import Figure

Form = Literal["png", "pdf", "svg"]
WIDTHS: Mapping[Width, float] = {"single": 3.3, "double": 6.9}  # inches, of a column and of a page of two
FORMS: tuple[Form, ...] = get_args(Form)
LETTER = 0.062  # inches that a letter of 7 points takes, as a mean
DPI = 300  # of what is no line and no letter
# Text stays text: letters of a PDF are embedded whole (type 42), those of an SVG are written as they are. Sizes are in
# points, as printed. The salt makes the names inside of an SVG the same every time.
PRINTED: Mapping[str, object] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.handlelength": 3,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "attrbind_exp",
}
SHOWN: Mapping[str, object] = {"axes.titlesize": 10, "legend.fontsize": 8, "legend.handlelength": 4}


@dataclass(frozen=True)
class Style:
    """A file's form, and for which column of a paper it is meant; `width` None = for the screen."""

    form: Form = "png"
    width: Width | None = None

    def applied(self, **panels: object) -> AbstractContextManager[None]:
        """A context in which matplotlib's settings are the style's: a plot is made and written in it. `panels`: other
        ones on the screen, with "_" for the dot."""
        import matplotlib

        other = {} if self.width else {key.replace("_", ".", 1): value for key, value in panels.items()}
        return matplotlib.rc_context(cast(Any, {**(PRINTED if self.width else SHOWN), **other}))

    def size(self, shown: tuple[float, float], height: float) -> tuple[float, float]:
        """Width and height in inches: as `shown` on the screen; in print the column's width, and `height` without the
        legend."""
        return (WIDTHS[self.width], height) if self.width else shown

    def wrap(self, text: str, share: float = 1.0) -> str:
        """A text in lines that fit into a share of the column's width in small letters; as it is on the screen."""
        letters = 0 if self.width is None else int(share * WIDTHS[self.width] / LETTER)
        return textwrap.fill(text, letters, break_on_hyphens=False) if letters else text

    def save(self, figure: "Figure", path: Path, title: str) -> None:
        """Write a plot; in print as wide as its column, whatever is in it."""
        if self.width is None:
            figure.savefig(path, format=self.form, dpi=100, bbox_inches="tight")
        else:
            figure.savefig(path, format=self.form, dpi=DPI, metadata=self.metadata(title))

    def metadata(self, title: str) -> dict[str, str | None]:
        """What the file says of itself: its title, and no date, so that equal figures make equal bytes."""
        dates = {"pdf": ("CreationDate",), "svg": ("Date",), "png": ()}[self.form]
        return {"Title": title, **dict.fromkeys(dates)}


SCREEN = Style()
