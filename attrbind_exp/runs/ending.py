"""What follows a run's summary, and whether it is there: pictures, then the tracker's share, then the page.

end.json says what was made. A part that it does not name, or whose files are gone, is made again by the same command;
nothing is scored for that. gallery/not_drawn.jsonl names the pictures that could not be drawn; it is there only where
there are any.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from attrbind_exp.runs.store import write_text

NAME = "end.json"
NOT_DRAWN = "gallery/not_drawn.jsonl"
PAGE = "report.html"
PARTS = ("pictures", "tracker", "page")


class Ending(msgspec.Struct, kw_only=True, frozen=True):
    """`galleries`: caption and file of every picture by gallery; `plots`: the other pictures. Files are named as seen
    from the run's folder; both are None until all are drawn. `asked`: the numbers gallery= and changed= that they were
    drawn for, None where nobody says. `tracked`, `page`: whether these parts were made."""

    galleries: Mapping[str, Sequence[tuple[str, str]]] | None = None
    plots: Sequence[str] | None = None
    asked: tuple[int, int] | None = None
    tracked: bool = False
    page: bool = False

    def files(self) -> list[str]:
        """All pictures."""
        return [*(self.plots or ()), *(file for found in (self.galleries or {}).values() for _, file in found)]


class NotDrawn(msgspec.Struct, kw_only=True, frozen=True):
    """A picture that was left out of a gallery, and why."""

    gallery: str
    sample_id: str
    message: str


def read_ending(folder: Path) -> Ending | None:
    """What a run's end has made so far; None where nobody says, as for a merged run, which has no pictures. A torn file
    says that nothing was made."""
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=Ending)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return Ending()


def write_ending(folder: Path, ending: Ending) -> None:
    """Write end.json whole."""
    write_text(folder / NAME, json.dumps(msgspec.to_builtins(ending), indent=2) + "\n")


def note_made(folder: Path, **parts: object) -> None:
    """Write down that these fields of a run's Ending are so from now on."""
    write_ending(folder, msgspec.structs.replace(read_ending(folder) or Ending(), **parts))


def missing(folder: Path, asked: tuple[int, int] = (0, 0)) -> list[str]:
    """Which of PARTS a finished run lacks. Pictures lie in the page: with them it is made again too. `asked`: the
    numbers gallery= and changed=; where one is larger than that of the pictures there, these are drawn anew."""
    ending = read_ending(folder)
    page = not (folder / PAGE).is_file()
    if ending is None:
        return ["page"] if page else []
    more = any(now > before for now, before in zip(asked, ending.asked or asked, strict=True))
    undrawn = more or ending.galleries is None or not all((folder / file).is_file() for file in ending.files())
    lacks = {"pictures": undrawn, "tracker": not ending.tracked, "page": page or undrawn or not ending.page}
    return [part for part in PARTS if lacks[part]]


def write_not_drawn(folder: Path, left_out: Sequence[NotDrawn]) -> None:
    """Name the pictures that were left out; no file where there are none."""
    if left_out:
        lines = (json.dumps(msgspec.to_builtins(one), ensure_ascii=False) for one in left_out)
        write_text(folder / NOT_DRAWN, "".join(line + "\n" for line in lines))
    else:
        (folder / NOT_DRAWN).unlink(missing_ok=True)


def read_not_drawn(folder: Path) -> list[NotDrawn]:
    """The pictures that a run left out; those that can be read of a file that is spoilt."""
    found = []
    try:
        content = (folder / NOT_DRAWN).read_bytes()
    except OSError:
        return []
    for line in content.split(b"\n"):
        try:
            found.append(msgspec.convert(json.loads(line), NotDrawn))
        except (ValueError, RecursionError):  # blank, torn or changed by hand
            continue
    return found
