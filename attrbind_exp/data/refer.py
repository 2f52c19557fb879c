"""RefCOCO, RefCOCO+, RefCOCOg and everything else in REFER's layout, the bundled shapes among them.

ROOT/NAME/instances.json holds images and masks as COCO does; ROOT/NAME/refs(SPLIT_BY).p, or its JSON twin, holds the
expressions. Images lie in one of IMAGE_FOLDERS below ROOT.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrbind_exp.data.dataset import Dataset, choose_image
from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.types import Failure, Other, Sample, UserError

COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
IMAGE_FOLDERS = ("images/mscoco/images", "images", "")  # below ROOT, each flat or with COCO_FOLDERS in it
SMALL, MEDIUM = 32**2, 96**2  # COCO's bounds of object area, in pixels


def load_refer(
    root: str,
    name: str,
    split_by: str,
    split: str,
    limit: int | None = None,
    fraction: float | None = None,
    images: str | None = None,
    note: str | None = None,
) -> Dataset:
    """Read one split; `limit` keeps its first expressions, `fraction` a seeded random part of its images, `images`
    names the image folder if it lies elsewhere.

    Raises UserError for a missing or damaged file, for ids that stand twice and for a split that the refs do not have.
    A ref that cannot be used (no annotation, no image entry, no target, empty sentence) becomes a Failure.
    """
    folder = Path(root).expanduser() / name
    if not folder.is_dir():
        raise UserError(
            f"no dataset folder '{folder}'; set dataset.root=DIR to the folder that holds '{name}/', which holds "
            f"instances.json and refs({split_by}).p (REFER's layout; https://github.com/lichengunc/refer)"
        )
    instances = read_instances(folder / "instances.json")
    refs = read_refs(folder, split_by)
    splits = sorted({str(ref.get("split")) for ref in refs})
    if split not in splits:
        raise UserError(f"unknown split '{split}' for {name}({split_by}); choose from {', '.join(splits)}")
    chosen = [r for r in refs if r["split"] == split and choose_image(r["image_id"], fraction)]
    described = any("slices" in sentence for ref in chosen for sentence in ref["sentences"])
    reader = _RefReader(instances, ImageFinder(image_folders(folder, images)), described)
    samples: list[Sample] = []
    failures: list[Failure] = []
    for item in (item for ref in chosen for item in reader.read(ref)):
        if limit is not None and len(samples) + len(failures) >= limit:
            break
        (samples if isinstance(item, Sample) else failures).append(item)  # type: ignore[arg-type]
    return Dataset(f"{name} {split}", samples, failures, note, described)


def image_folders(folder: Path, images: str | None = None) -> list[Path]:
    """Where the images of a dataset `folder` may lie: `images` if given, else its own images/ or REFER's places."""
    if images:
        return [Path(images).expanduser()]
    return [folder / "images", *(folder.parent / place for place in IMAGE_FOLDERS)]


class ImageFinder:
    """Finds images by file name, flat in any of `folders` or in COCO's own folders below one."""

    def __init__(self, folders: Sequence[Path]):
        self.places = [place for folder in folders for place in (folder, *(folder / name for name in COCO_FOLDERS))]
        self.folders = [place for place in self.places if place.is_dir()] or list(folders)
        self.known: dict[str, Path] = {}

    def find(self, file_name: str) -> Path:
        """The image's path; where it lies nowhere, the place where it was looked for first.

        Refs name images with a number at the end (COCO_train2014_000000000049_1.jpg), and COCO 2017 dropped the prefix
        of 2014: both are tried without.
        """
        if file_name not in self.known:
            plain = re.sub(r"^(COCO_(?:train|val)2014_\d{12})_\d+(\.\w+)$", r"\1\2", file_name)
            names = dict.fromkeys([file_name, plain, re.sub(r"^COCO_(train|val)2014_", "", plain)])
            candidates = [folder / name for name in names for folder in self.folders]
            self.known[file_name] = next((path for path in candidates if path.is_file()), candidates[0])
        return self.known[file_name]


class _RefReader:
    """Annotations, images and categories by their ids, and what a ref makes of them."""

    def __init__(self, instances: "Instances", finder: ImageFinder, described: bool):
        self.instances, self.finder, self.described = instances, finder, described
        # How many objects of a category an image has.
        self.crowding = Counter((a["image_id"], a["category_id"]) for a in instances.annotations.values())
        self.objects: dict[int, list[Mapping[str, Any]]] = {}
        for annotation in instances.annotations.values():
            self.objects.setdefault(annotation["image_id"], []).append(annotation)
        self.seen: set[str] = set()

    def read(self, ref: Mapping[str, Any]) -> Iterator[Sample | Failure]:
        """One Sample or Failure for every sentence of a ref; a ref to several objects means their union."""
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        objects = [self.instances.annotations.get(i) for i in ids]
        image = self.instances.images.get(ref["image_id"])
        for sentence in ref["sentences"]:
            key = f"{ref['ref_id']}:{sentence['sent_id']}"
            if key in self.seen:
                yield Failure(key, "duplicate_id", f"ref {ref['ref_id']}, sentence {sentence['sent_id']} stands twice")
            elif ref.get("no_target") or set(ids) <= {-1, None}:
                yield Failure(key, "no_target", f"ref {ref['ref_id']} names no object")
            elif None in objects:
                yield Failure(key, "annotation_missing", f"ref {ref['ref_id']} asks for annotation {ref['ann_id']}")
            elif image is None:
                yield Failure(key, "image_missing", f"ref {ref['ref_id']} asks for image {ref['image_id']}")
            elif not sentence["sent"].strip():
                yield Failure(key, "empty_expression", f"sentence {sentence['sent_id']} has no words")
            else:
                masks = [o["segmentation"] for o in objects if o is not None]
                yield Sample(
                    sample_id=key,
                    image_id=str(ref["image_id"]),
                    image_path=self.finder.find(image["file_name"]),
                    text=sentence["sent"],
                    category=self.category(ref["category_id"]),
                    segmentation=masks[0] if len(masks) == 1 else {"union": masks},
                    size=(image["height"], image["width"]),
                    slices=sentence.get("slices", {}) if self.described else self.describe(objects[0]),
                    object_id="+".join(map(str, ids)),
                    others=self.others(ref["image_id"], ids),
                )
            self.seen.add(key)

    def others(self, image_id: int, ids: Sequence[int]) -> list[Other]:
        """All annotated objects of an image but those with `ids`."""
        return [
            Other(str(a["id"]), self.category(a["category_id"]), a["segmentation"])
            for a in self.objects.get(image_id, [])
            if a["id"] not in ids
        ]

    def category(self, category_id: int) -> str | None:
        return self.instances.categories.get(category_id, {}).get("name")

    def describe(self, annotation: Mapping[str, Any] | None) -> dict[str, str]:
        """Slices by what the annotations say: another object of the category in the image? how large is this one?"""
        assert annotation is not None
        alone = self.crowding[annotation["image_id"], annotation["category_id"]] == 1
        slices = {"same_category": "alone" if alone else "distractor"}
        if "area" in annotation:
            area = annotation["area"]
            slices["area"] = "small" if area < SMALL else "medium" if area < MEDIUM else "large"
        return slices


@dataclass(frozen=True)
class Instances:
    """A COCO annotation file, entries by their ids."""

    images: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, Mapping[str, Any]]
    categories: Mapping[int, Mapping[str, Any]]


NEEDED = {
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"id", "image_id", "category_id", "segmentation"},
    "categories": {"id", "name"},
}


def read_instances(file: Path) -> Instances:
    """Read COCO's annotation format. Raises UserError for a file of another form, an entry without a field that is
    needed and an id that two different entries have."""
    data = read_json(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(kind), list) for kind in NEEDED):
        raise UserError(f"'{file}' is not in COCO's form: it needs the lists {', '.join(NEEDED)}")
    found: dict[str, dict[int, Mapping[str, Any]]] = {kind: {} for kind in NEEDED}
    for kind, needed in NEEDED.items():
        for entry in data[kind]:
            if missing := needed - entry.keys():
                raise UserError(f"'{file}': entry {entry.get('id')} of {kind} has no {', '.join(sorted(missing))}")
            if found[kind].setdefault(entry["id"], entry) != entry:
                raise UserError(f"'{file}': two different {kind} have the id {entry['id']}; ids must be unique")
    return Instances(**found)


def read_refs(folder: Path, split_by: str) -> list[dict[str, Any]]:
    """The refs of all splits. Raises UserError when the file is missing or damaged, or holds no list of refs."""
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
    needed = {"ref_id", "ann_id", "image_id", "category_id", "split", "sentences"}
    if not isinstance(refs, list) or not all(isinstance(r, dict) and needed <= r.keys() for r in refs):
        raise UserError(
            f"the refs({split_by}) file in '{folder}' is not a list of refs with {', '.join(sorted(needed))}"
        )
    return refs


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises UserError when it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"'{path}' does not exist; it belongs to REFER's layout (see README, 'Data')") from error
    except ValueError as error:
        raise UserError(f"'{path}' is not whole JSON ({error}); get or write it again") from error
