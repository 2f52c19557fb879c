"""Annotation files on disk: COCO's instances.json and REFER's refs, read and checked.

What JSON and pickles hold is checked here, once. Behind this file an entry has its fields; those of a ref may still
hold anything.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import Any, NotRequired, TypedDict, TypeGuard

from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.types import Failure, UserError
from attrbind_exp.work import Work


class ImageEntry(TypedDict):
    """One image of a COCO file; sizes in pixels."""

    id: int
    file_name: str
    height: int
    width: int


class Annotation(TypedDict):
    """One object of a COCO file. `segmentation` is in COCO's forms (see masks.py), `area` in pixels. The pixels of a
    crowd (`iscrowd` = 1) are not scored."""

    id: int
    image_id: int
    category_id: int
    segmentation: Any
    area: NotRequired[float]
    iscrowd: NotRequired[int]


class Category(TypedDict):
    """One category of a COCO file."""

    id: int
    name: str


class Sentence(TypedDict):
    """One expression of a ref. `slices`: labels to report by, which a dataset may bring."""

    sent_id: int
    sent: str
    slices: NotRequired[dict[str, str]]


class Ref(TypedDict):
    """One object, or several, with the expressions that name it. A list in `ann_id` means several objects; -1 in it, or
    `no_target`, means none."""

    ref_id: int
    ann_id: int | list[int]
    image_id: int
    category_id: int
    split: str
    sentences: list[Sentence]
    no_target: NotRequired[bool]


@dataclass(frozen=True)
class Instances:
    """A COCO annotation file, its entries by their ids, and the images and annotations that cannot be used."""

    images: Mapping[int, ImageEntry]
    annotations: Mapping[int, Annotation]
    categories: Mapping[int, Category]
    failures: list[Failure] = field(default_factory=list)

    @property
    def category_ids(self) -> dict[str, int]:
        """The number of each category by its name; of a name that stands twice the first."""
        return {category["name"]: number for number, category in reversed(list(self.categories.items()))}


LARGE = 20_000_000  # bytes of a file that takes so long to read that a person wants to know
NEEDED = {
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"id", "image_id", "category_id", "segmentation"},
    "categories": {"id", "name"},
}
IDS = {"images": ("id",), "annotations": ("id", "image_id", "category_id"), "categories": ("id",)}
NEEDED_OF_REF = {"ref_id", "ann_id", "image_id", "category_id", "split", "sentences"}


def read_instances(file: Path) -> Instances:
    """A file in COCO's annotation format.

    An image or annotation whose ids or name are of the wrong kind is left out and becomes a Failure. Raises UserError
    for a file of another form, for an entry that lacks a needed field, and for an id that two different entries have.
    """
    data = read_json(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(kind), list) for kind in NEEDED):
        raise UserError(f"'{file}' is not in COCO's form: it needs the lists {', '.join(NEEDED)}")
    found: dict[str, dict[int, Any]] = {kind: {} for kind in NEEDED}
    failures: list[Failure] = []
    for kind, needed in NEEDED.items():
        for place, entry in enumerate(data[kind], 1):
            if not isinstance(entry, dict):
                raise UserError(f"'{file}': entry number {place} of {kind} is {shown(entry)}, no object with an id")
            if missing := needed - entry.keys():
                raise UserError(
                    f"'{file}': entry {shown(entry.get('id'))} of {kind} has no {', '.join(sorted(missing))}"
                )
            if why := _malformed(kind, entry):
                where = f"{kind}, entry number {place}"
                if kind == "categories":
                    raise UserError(f"'{file}': {where}: {why}; correct it there")
                failures.append(Failure(where, "id_malformed", f"'{file}': {why}"))
                continue
            if "area" in entry and not _is_area(entry["area"]):
                del entry["area"]  # the same as none
            if found[kind].setdefault(entry["id"], entry) != entry:
                raise UserError(f"'{file}': two different {kind} have the id {entry['id']}; ids must be unique")
    return Instances(**found, failures=failures)


def is_id(value: object) -> TypeGuard[int | float | str]:
    """Whether a value can be an id: a number or text."""
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def shown(value: object) -> str:
    """An id as it stands; of anything else its kind alone, since that may be of any size and depth."""
    return str(value) if value is None or is_id(value) else f"a {type(value).__name__}"


def _malformed(kind: str, entry: Mapping[str, Any]) -> str | None:
    """What is of the wrong kind in an entry that has all fields, None where nothing is."""
    for name in IDS[kind]:
        if not is_id(entry[name]):
            return f"{name} must be a number, not {shown(entry[name])}"
    text = {"images": "file_name", "categories": "name"}.get(kind)
    return f"{text} must be text, not {shown(entry[text])}" if text and not isinstance(entry[text], str) else None


def _is_area(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def read_refs(folder: Path, split_by: str) -> list[Ref]:
    """The refs of all splits, from refs(SPLIT_BY).json or, where there is none, from the pickle refs(SPLIT_BY).p.

    Raises UserError when the file is missing or damaged, or holds no list of refs.
    """
    files = {ending: folder / f"refs({split_by}).{ending}" for ending in ("json", "p")}
    if files["json"].is_file():
        refs = read_json(files["json"])
    elif files["p"].is_file():
        refs = read_plain_pickle(files["p"])
    else:
        choices = sorted({f.stem[5:-1] for f in folder.glob("refs(*).*")})
        raise UserError(
            f"no refs of dataset.split_by='{split_by}' in '{folder}'; choose from {', '.join(choices) or '(none)'}"
        )
    if not isinstance(refs, list) or not all(isinstance(r, dict) and r.keys() >= NEEDED_OF_REF for r in refs):
        raise UserError(
            f"the refs({split_by}) file in '{folder}' is not a list of refs with {', '.join(sorted(NEEDED_OF_REF))}"
        )
    return refs


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises UserError when the file is missing, no file, or torn."""
    try:
        if not S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise UserError(f"'{path}' is no file; get or write it again")
        with Work(f"reading {path.name}") if path.stat().st_size > LARGE else nullcontext():
            return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"'{path}' does not exist; it belongs to REFER's layout (see README, 'Data')") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); get or write it again") from error
    except RecursionError as error:
        raise UserError(f"'{path}' is nested too deeply for an annotation file; get or write it again") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"'{path}' is not whole JSON ({error}); get or write it again") from error
