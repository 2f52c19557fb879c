"""RefCOCO, RefCOCO+, RefCOCOg and everything else in REFER's layout, the bundled shapes among them.

ROOT/NAME/instances.json holds images and masks in COCO's format. ROOT/NAME/refs(SPLIT_BY).p, or a JSON file of the same
content, holds the expressions. Images lie in one of IMAGE_FOLDERS below ROOT.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrbind_exp.data.annotations import (
    Annotation,
    Category,
    Instances,
    Ref,
    Sentence,
    is_id,
    read_instances,
    read_refs,
    shown,
)
from attrbind_exp.data.annotations import read_json as read_json
from attrbind_exp.data.dataset import Dataset, choose_image
from attrbind_exp.data.refs import check_text, describe_targets, list_ids, list_sentences, names_nothing, own_slices
from attrbind_exp.types import Failure, Other, Sample, UserError
from attrbind_exp.work import each

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
    """One Sample for every expression of a split, in the order of the refs.

    `limit` keeps the first expressions. `fraction` keeps a seeded random part of the images. `images` names the image
    folder if it lies elsewhere. An expression that cannot be used becomes a Failure: "duplicate_id", "no_target",
    "annotation_missing", "image_missing", "empty_expression", "text_malformed", "id_malformed". Raises UserError for a
    missing or damaged file, for ids that stand twice in instances.json, and for a split that the refs do not have.
    """
    folder = Path(root).expanduser() / name
    if not folder.is_dir():
        raise UserError(
            f"no dataset folder '{folder}'; set dataset.root=DIR to the folder that holds '{name}/', which holds "
            f"instances.json and refs({split_by}).p (REFER's layout; https://github.com/lichengunc/refer)"
        )
    instances = read_instances(folder / "instances.json")
    refs = read_refs(folder, split_by)
    splits = sorted({shown(ref["split"]) for ref in refs})
    if split not in splits:
        raise UserError(f"unknown split '{split}' for {name}({split_by}); choose from {', '.join(splits)}")
    chosen = [r for r in refs if r["split"] == split and choose_image(shown(r["image_id"]), fraction)]
    described = any(isinstance(s, dict) and "slices" in s for ref in chosen for s in list_sentences(ref))
    reader = _RefReader(instances, ImageFinder(image_folders(folder, images)), described)
    samples: list[Sample] = []
    failures: list[Failure] = []
    for item in (item for ref in each(chosen, "reading", "refs") for item in reader.read(ref)):
        if limit is not None and len(samples) + len(failures) >= limit:
            break
        if isinstance(item, Sample):
            samples.append(item)
        else:
            failures.append(item)
    notes = "; ".join(filter(None, [note, describe_targets(chosen)])) or None
    category_ids = instances.category_ids
    return Dataset(f"{name} {split}", samples, failures, notes, described, category_ids=category_ids)


def image_folders(folder: Path, images: str | None = None) -> list[Path]:
    """The folders where a dataset's images may lie: `images` alone if it is given, else the dataset's own images/ and
    then IMAGE_FOLDERS."""
    if images:
        return [Path(images).expanduser()]
    return [folder / "images", *(folder.parent / place for place in IMAGE_FOLDERS)]


class ImageFinder:
    """Finds images by file name, in any of `folders` or in one of COCO_FOLDERS below it.

    `places` are all folders to look in. `folders` are those of them that exist, or the given ones where none does.
    """

    def __init__(self, folders: Sequence[Path]):
        self.places = [place for folder in folders for place in (folder, *(folder / name for name in COCO_FOLDERS))]
        self.folders = [place for place in self.places if place.is_dir()] or list(folders)
        self.known: dict[str, Path] = {}

    def find(self, file_name: str) -> Path:
        """The image's path. An image that is nowhere gets the path where it was looked for first.

        REFER adds a number to some names (COCO_train2014_000000000049_1.jpg), and COCO 2017 dropped the prefix of 2014.
        So the name is also tried without the number, and without both.
        """
        if file_name not in self.known:
            plain = re.sub(r"^(COCO_(?:train|val)2014_\d{12})_\d+(\.\w+)$", r"\1\2", file_name)
            names = dict.fromkeys([file_name, plain, re.sub(r"^COCO_(train|val)2014_", "", plain)])
            candidates = [folder / name for name in names for folder in self.folders]
            self.known[file_name] = next((path for path in candidates if _is_file(path)), candidates[0])
        return self.known[file_name]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


class _RefReader:
    """Makes samples of refs. `described`: the refs bring slices of their own, so none are made from annotations."""

    def __init__(self, instances: Instances, finder: ImageFinder, described: bool):
        self.instances, self.finder, self.described = instances, finder, described
        self.objects_of_category = Counter((a["image_id"], a["category_id"]) for a in instances.annotations.values())
        self.annotations: dict[int, list[Annotation]] = {}  # by image id
        for annotation in instances.annotations.values():
            self.annotations.setdefault(annotation["image_id"], []).append(annotation)
        self.objects: dict[int, dict[int, Other]] = {}  # by image and annotation, made once for all its expressions
        self.known_ids: set[str] = set()

    def read(self, ref: Ref) -> Iterator[Sample | Failure]:
        """One Sample or Failure for every sentence of a ref. A ref to several objects means the union of their
        masks."""
        if not isinstance(ref["sentences"], list):
            key, kind = f"ref {shown(ref['ref_id'])}", shown(ref["sentences"])
            yield Failure(key, "text_malformed", f"its sentences are {kind}, not a list of sentences")
        for place, sentence in enumerate(list_sentences(ref)):
            number = sentence.get("sent_id", f"#{place}") if isinstance(sentence, dict) else f"#{place}"
            key = f"{shown(ref['ref_id'])}:{shown(number)}"
            found = self.check(ref, sentence, key) or self.make_sample(ref, sentence, key)
            self.known_ids.add(key)
            yield found

    def check(self, ref: Ref, sentence: object, key: str) -> Failure | None:
        """What keeps a sentence from being a sample, None if nothing does."""
        ids, wrong = list_ids(ref), check_text(ref, sentence)
        if wrong and wrong[0] != "empty_expression":
            return Failure(key, *wrong)
        if not is_id(ref["image_id"]) or not all(i is None or is_id(i) for i in ids):
            return Failure(
                key, "id_malformed", f"{key}: image_id and each ann_id must be a number, not a list or other"
            )
        if key in self.known_ids:
            return Failure(key, "duplicate_id", f"ref {key.replace(':', ', sentence ', 1)} stands twice")
        if names_nothing(ref):
            return Failure(key, "no_target", f"ref {ref['ref_id']} names no object")
        if any(i not in self.instances.annotations for i in ids):
            asked = str(ref["ann_id"])[:60]
            return Failure(key, "annotation_missing", f"ref {ref['ref_id']} asks for annotation {asked}")
        if ref["image_id"] not in self.instances.images:
            return Failure(key, "image_missing", f"ref {ref['ref_id']} asks for image {ref['image_id']}")
        return Failure(key, *wrong) if wrong else None

    def make_sample(self, ref: Ref, sentence: Sentence, key: str) -> Sample:
        """The sample of a sentence that was checked."""
        ids = list_ids(ref)
        objects = [self.instances.annotations[i] for i in ids]
        image = self.instances.images[ref["image_id"]]
        masks = [o["segmentation"] for o in objects]
        return Sample(
            sample_id=key,
            image_id=str(ref["image_id"]),
            image_path=self.finder.find(image["file_name"]),
            text=sentence["sent"],
            category=self.category(ref["category_id"]),
            segmentation=masks[0] if len(masks) == 1 else {"union": masks},
            size=(image["height"], image["width"]),
            slices=own_slices(sentence) if self.described else self.describe(objects[0]),
            object_id="+".join(map(str, ids)),
            others=self.others(ref["image_id"], ids),
        )

    def others(self, image_id: int, ids: Sequence[int]) -> list[Other]:
        """All annotated objects of an image, without those named by `ids`."""
        if image_id not in self.objects:
            self.objects[image_id] = {
                a["id"]: Other(str(a["id"]), self.category(a["category_id"]), a["segmentation"])
                for a in self.annotations.get(image_id, [])
            }
        return [other for key, other in self.objects[image_id].items() if key not in ids]

    def category(self, category_id: object) -> str | None:
        """The category's name, None where the file does not list it or several are given."""
        if isinstance(category_id, list) and len({*map(shown, category_id)}) == 1:
            category_id = category_id[0]
        known: Mapping[Any, Category] = self.instances.categories
        entry = known.get(category_id) if is_id(category_id) else None
        return entry["name"] if entry else None

    def describe(self, annotation: Annotation) -> dict[str, str]:
        """Slice labels that follow from an annotation. `same_category`: "alone" or "distractor", which means that the
        image has another object of the category. `area`: "small", "medium" or "large", by COCO's bounds."""
        alone = self.objects_of_category[annotation["image_id"], annotation["category_id"]] == 1
        slices = {"same_category": "alone" if alone else "distractor"}
        if "area" in annotation:
            area = annotation["area"]
            slices["area"] = "small" if area < SMALL else "medium" if area < MEDIUM else "large"
        return slices
