"""What can be shown: in a notebook by itself, in a viewer, as a PNG. Drawn as the pictures of runs are."""

import importlib
import math
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageShow

from attrbind_exp.reporting import figures, maps
from attrbind_exp.tasks.task import Panel
from attrbind_exp.types import UserError

HEIGHT = 360  # pixels of every panel, as for the pictures of the command segment
THRESHOLD = 0.5


class Drawing(ABC):
    """A picture of panels side by side: a photo, heat maps in the colours of one scale from 0 to 1, masks.

    Subclasses have `image` (RGB), `expression`, which is the title, and `about`, the line below it.
    """

    image: Image.Image
    expression: str
    about: str

    @abstractmethod
    def panels(self, threshold: float) -> Mapping[str, Panel]:
        """The panels behind the photo by caption; masks are those at `threshold`."""

    def picture(self, threshold: float = THRESHOLD) -> Image.Image:
        """What `show` shows."""
        return Image.open(BytesIO(self._png(threshold)))

    def save(self, path: str | os.PathLike[str], threshold: float = THRESHOLD) -> Path:
        """Write what `show` shows as a PNG, and return its path. Raises UserError where that cannot be."""
        path = Path(path).expanduser()
        if path.suffix.lower() != ".png":
            raise UserError(f"cannot write '{path}': pictures are PNG files; give a name that ends in .png")
        png = self._png(threshold)
        try:
            path.write_bytes(png)
        except OSError as error:
            raise UserError(f"cannot write '{path}' ({error.strerror}); give a path in a folder that exists") from error
        return path

    def show(self, threshold: float = THRESHOLD) -> None:
        """Show the photo, the heat with the mask's outline, and the mask: in a notebook below the cell, else in the
        system's picture viewer. Without a display the picture is written to a file, whose path is printed."""
        picture = self.picture(threshold)
        if (notebook := _notebook()) is not None:
            notebook(picture)
        elif not (_has_display() and ImageShow.show(picture, self.expression)):
            with tempfile.NamedTemporaryFile(prefix="attrbind_exp_", suffix=".png", delete=False) as file:
                file.write(self._png(threshold))
            print(f"no display here; the picture is in {file.name}")

    def _repr_png_(self) -> bytes:
        """How notebooks show it."""
        return self._png(THRESHOLD)

    def _png(self, threshold: float) -> bytes:
        if not math.isclose(check_threshold(threshold) * 100, round(threshold * 100)):
            raise UserError(f"threshold={threshold}; pictures name it in steps of 0.01, such as {threshold:.2f}")
        shown = {"image": Panel("photo"), **self.panels(threshold)}
        pictures, around = maps.render(shown, self.image, self.about, HEIGHT)
        image, about = figures.draw_panels(pictures, self.expression, around=around, height=HEIGHT)
        image.save(file := BytesIO(), "PNG", pnginfo=about)
        return file.getvalue()


def check_threshold(threshold: float) -> float:
    """The threshold as it is. Raises UserError unless it is a number from 0 to 1."""
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold={threshold}; give a number from 0 to 1, such as {THRESHOLD}")
    return threshold


def _notebook() -> Callable[[Image.Image], object] | None:
    """What displays a picture below the cell of the notebook that runs this; None where none does."""
    ipython = sys.modules.get("IPython")  # loaded by every notebook, and by nobody here
    inside = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    return importlib.import_module("IPython.display").display if inside else None


def _has_display() -> bool:
    """Whether pictures can be shown. PIL's viewers fail silently on a Linux without a display."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
