"""A data set's files: which are there, and do they hold what was published."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrbind_exp.commands.doctor import published
from attrbind_exp.commands.doctor.finding import Finding
from attrbind_exp.commands.doctor.published import Counts, Table
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.refer import ImageFinder, Instances
from attrbind_exp.types import Failure, Sample

GET_IMAGES = (
    f"RefCOCO, RefCOCO+ and RefCOCOg need {published.COCO_IMAGES_LINK.format('train2014')} unpacked in one of them, or "
    "set dataset.images=FOLDER"
)


def check_refer(root: str, name: str, split_by: str) -> Finding:
    """Are ROOT/NAME/instances.json and refs(SPLIT_BY).p, or its JSON twin, there?"""
    folder = Path(root).expanduser().absolute() / name
    refs = [folder / f"refs({split_by}).{ending}" for ending in ("json", "p")]
    there = sorted(f.name for f in (folder / "instances.json", *folder.glob("refs(*).*")) if f.is_file())
    missing = [] if "instances.json" in there else ["instances.json"]
    if not any(f.name in there for f in refs):
        missing.append(f"refs({split_by}).p (or its JSON twin refs({split_by}).json)")
    if not missing:
        return Finding("ok", "layout", f"{folder} holds {', '.join(there)}")
    text = f"looked in {folder}: {', '.join(there) or 'nothing'} there, missing {', '.join(missing)}; "
    link = published.REFS_LINKS.get(name)
    get = f"get {link} and unpack it in {folder.parent}" if link else "set dataset.root, dataset.name, dataset.split_by"
    return Finding("MISSING", "layout", f"{text}{get} (layout of https://github.com/lichengunc/refer)")


def check_image_folders(folders: Sequence[Path]) -> Finding:
    """Is one of the folders there? All that can be said of images while the annotations are missing."""
    there = [str(f) for f in folders if f.is_dir()]
    if there:
        return Finding("ok", "images", f"there: {', '.join(there)}; whether they hold all can be said with the refs")
    return Finding("MISSING", "images", f"no folder of images; looked in {', '.join(map(str, folders))}; {GET_IMAGES}")


def count_refs(refs: Sequence[Mapping[str, Any]]) -> dict[str, Counts]:
    """Objects, expressions and images of every split, and of "all" of them."""
    parts: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for ref in refs:
        parts[str(ref["split"])].append(ref)
    return {
        split: Counts(len(part), sum(len(r["sentences"]) for r in part), len({r["image_id"] for r in part}))
        for split, part in [*parts.items(), ("all", refs)]
    }


def check_refs(refs: Sequence[Mapping[str, Any]], name: str, split_by: str, table: Table = published.REFS) -> Finding:
    """Counts of every split against the published ones."""
    counts = count_refs(refs)
    total = counts.pop("all")
    parts = "; ".join(f"{split} {_words(c)}" for split, c in counts.items())
    seen = parts if len(counts) == 1 else f"{_words(total)}: {parts}"
    if (name, split_by) not in table:
        return Finding("ok", "counts", f"{seen}; no counts are published for {name}({split_by})")
    wrong = [
        f"{split} has {_words(counts[split]) if split in counts else 'nothing'}, published {_words(expected)}"
        for split, expected in table[name, split_by].items()
        if not _agree(counts.get(split), expected)
    ]
    remark = f" ({published.REMARKS[name, split_by]})" if (name, split_by) in published.REMARKS else ""
    if wrong:
        link = published.REFS_LINKS.get(name, "https://github.com/lichengunc/refer")
        return Finding("WARN", "counts", f"{'; '.join(wrong)}{remark}; another release, or torn: compare with {link}")
    return Finding("ok", "counts", f"{seen}; as published{remark}")


def _agree(seen: Counts | None, expected: Counts) -> bool:
    return seen is not None and all(e is None or s == e for s, e in zip(seen, expected, strict=True))


def _words(counts: Counts) -> str:
    numbers = zip(counts, ("objects", "expressions", "images"), strict=True)
    return " / ".join(f"{n:,} {what}" for n, what in numbers if n is not None)


def check_coco(annotations: Path, images: Path, split: str) -> Finding:
    """Are the annotation file and the image folder there?"""
    needed = {annotations: published.COCO_ANNOTATIONS_LINK, images: published.COCO_IMAGES_LINK.format(split)}
    missing = [path for path in needed if not path.exists()]
    if not missing:
        return Finding("ok", "layout", f"{annotations} and {images} are there")
    links = " and ".join(needed[path] for path in missing)
    return Finding(
        "MISSING",
        "layout",
        f"no {' and no '.join(map(str, missing))}; get {links} and unpack in dataset.root={annotations.parent.parent}",
    )


def check_coco_counts(data: Instances, split: str, table: Mapping[str, int] = published.COCO_IMAGES) -> Finding:
    """Images and categories of an annotation file against the published ones."""
    images, categories = len(data.images), len(data.categories)
    seen = f"{images:,} images, {categories} categories, {len(data.annotations):,} objects"
    if split not in table:
        return Finding("ok", "counts", f"{seen}; no counts are known here for {split}")
    if (images, categories) == (table[split], published.COCO_CATEGORIES):
        return Finding("ok", "counts", f"{seen}; as published")
    expected = f"{table[split]:,} images, {published.COCO_CATEGORIES} categories"
    return Finding("WARN", "counts", f"{seen}; published {expected}: get {published.COCO_ANNOTATIONS_LINK} again")


def coco_objects(data: Instances, folder: Path) -> Dataset:
    """Every annotated object as a Sample whose expression is its category; `folder` holds the images."""
    finder = ImageFinder([folder])
    samples, failures = [], []
    for key, a in data.annotations.items():
        image, category = data.images.get(a["image_id"]), data.categories.get(a["category_id"])
        if image is None or category is None:
            message = f"annotation {key} asks for image {a['image_id']} and category {a['category_id']}"
            reason = "image_missing" if image is None else "category_missing"
            failures.append(Failure(str(key), reason, message))
            continue
        size, path, name = (image["height"], image["width"]), finder.find(image["file_name"]), category["name"]
        samples.append(Sample(str(key), str(image["id"]), path, name, name, a["segmentation"], size))
    return Dataset("coco", samples, failures)
