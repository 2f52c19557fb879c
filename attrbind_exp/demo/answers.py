"""What the page answers: to a picture with expressions, and to the wish for files. Knows nothing of Gradio."""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

from attrbind_exp.demo.compute import Compared, Seen, check_expression, open_limited, see
from attrbind_exp.demo.examples import EXAMPLES
from attrbind_exp.demo.files import Choice, write_file
from attrbind_exp.demo.sent import Sent, to_send
from attrbind_exp.types import UserError

KEPT = 3600  # seconds, for which uploads, files and what the model saw stay


class Begin(TypedDict):
    """What is chosen when the page opens: numbers of method, reading and alpha, and a threshold in hundredths."""

    method: int
    reading: int
    alpha: int
    threshold: int


@dataclass(frozen=True)
class About:
    """What the page says of its model. `name`: what it is called; `limits`: what it cannot know; `warning`: what to
    know of its maps of other than the drawn pictures, None for nothing; `started_with`: the arguments that name it and
    how it is read."""

    name: str
    limits: str
    warning: str | None
    started_with: Sequence[str]


@dataclass(frozen=True)
class Look:
    """What the page keeps for one visitor: the last picture, and what the model saw of the expressions."""

    path: str
    seen: Sequence[Seen]


def look(
    compared: Compared, about: About, begin: Begin, path: str | None, expression: str, second: str
) -> tuple[Sent, Look | None]:
    """What the viewer shows, and what is kept for downloads. What a visitor can mend is said in "error"."""
    try:
        if path is None:
            raise UserError("no picture; drop one, or press one of the eight drawn ones")
        texts = [check_expression(text) for text in (expression, *([second] if second.strip() else []))]
        image = open_limited(path)
        seen = see(compared, image, texts)
    except UserError as error:
        return {"error": sentence(str(error))}, None
    warning = None if is_drawn(path) else about.warning
    return {**to_send(compared, image, seen, warning), "begin": begin}, Look(path, seen)


def is_drawn(path: str) -> bool:
    """Whether a file is one of the drawn pictures, whatever it is called."""
    content = Path(path).read_bytes()
    return any(content == example.path.read_bytes() for example in EXAMPLES)


def sentence(text: str) -> str:
    """A message as a sentence: a capital at its beginning, a full stop at its end."""
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def take_away(
    name: str, compared: Compared, about: About, choice: Mapping[str, float] | None, kept: Look | None
) -> str:
    """The path of one file of what is chosen in the viewer, or of all in a ZIP.

    Raises UserError while nothing is shown, and for a choice that the page does not offer.
    """
    if kept is None or choice is None:
        raise UserError("nothing to download; press “Look” first, also an hour after the last time")
    picked = Choice(int(choice["variant"]), round(float(choice["threshold"]), 2))
    if not (0 <= picked.variant < len(compared.variants) and 0 <= picked.threshold <= 1):
        raise UserError(f"no map {picked.variant} at threshold {picked.threshold}; choose both on the page")
    return str(write_file(name, compared, Path(kept.path), kept.seen, picked, about.started_with, new_folder()))


@cache
def workplace() -> tempfile.TemporaryDirectory[str]:
    """Where files are made; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="attrbind_exp_demo_")


def new_folder() -> Path:
    """A folder for the file of one press of a button. Gradio copies them; folders of an hour ago are removed."""
    place = Path(workplace().name)
    for old in place.iterdir():
        if old.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=place))
