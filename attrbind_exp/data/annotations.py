"""Annotation files on disk: COCO's instances.json and REFER's refs, read and checked.

What JSON and pickles hold is checked here, once. Behind this file an entry has its fields.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.types import UserError


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
    """A COCO annotation file, its entries by their ids."""

    images: Mapping[int, ImageEntry]
    annotations: Mapping[int, Annotation]
    categories: Mapping[int, Category]


NEEDED = {
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"id", "image_id", "category_id", "segmentation"},
    "categories": {"id", "name"},
}
NEEDED_OF_REF = {"ref_id", "ann_id", "image_id", "category_id", "split", "sentences"}


def read_instances(file: Path) -> Instances:
    """A file in COCO's annotation format.

    Raises UserError for a file of another form, for an entry that lacks a needed field, and for an id that two
    different entries have.
    """
    data = read_json(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(kind), list) for kind in NEEDED):
        raise UserError(f"'{file}' is not in COCO's form: it needs the lists {', '.join(NEEDED)}")
    found: dict[str, dict[int, Any]] = {kind: {} for kind in NEEDED}
    for kind, needed in NEEDED.items():
        for entry in data[kind]:
            if missing := needed - entry.keys():
                raise UserError(f"'{file}': entry {entry.get('id')} of {kind} has no {', '.join(sorted(missing))}")
            if found[kind].setdefault(entry["id"], entry) != entry:
                raise UserError(f"'{file}': two different {kind} have the id {entry['id']}; ids must be unique")
    return Instances(**found)


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
    """What a JSON file holds. Raises UserError when the file is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"'{path}' does not exist; it belongs to REFER's layout (see README, 'Data')") from error
    except ValueError as error:
        raise UserError(f"'{path}' is not whole JSON ({error}); get or write it again") from error
