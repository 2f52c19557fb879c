"""COCO for class-wise scoring: every image with its objects, and the class names to look for in it."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from attrbind_exp.data.annotations import ImageEntry, Instances, read_instances, read_json
from attrbind_exp.data.dataset import Dataset, choose_image
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.data.refer import ImageFinder
from attrbind_exp.types import IGNORED, Failure, Region, Sample, SampleError, Scene, UserError
from attrbind_exp.work import each

# Class names of published label files, and what COCO calls them. "toothbrus" is how DiffSegmenter's file spells it.
SYNONYMS = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "toothbrus": "toothbrush",
    "plane": "airplane",
    "people": "person",
    "buses": "bus",
    "plant": "potted plant",
    "table": "dining table",
    "monitor": "tv",
}
VOC_NAMES = {SYNONYMS[w]: w for w in ("motorbike", "aeroplane", "sofa", "pottedplant", "diningtable", "tvmonitor")}
NAMES = ("coco", "voc")


def load_coco(
    root: str,
    split: str = "val2014",
    labels: str = "gt",
    label_keys: Sequence[str] = ("image_similarity", "text_similarity"),
    names: str = "coco",
    annotations: str | None = None,
    images: str | None = None,
    limit: int | None = None,
    fraction: float | None = None,
    note: str | None = None,
) -> Dataset:
    """One Sample for every class that is looked for in an image. Its text is the class name; scenes hold the truth.

    `root` holds annotations/instances_<split>.json and <split>/ with the images; `annotations` and `images` name them
    where they lie elsewhere. `labels` says which classes are looked for: "gt" takes those of the image's own objects,
    anything else is a file of predicted labels by image name, of which the lists under `label_keys` are united.
    `names`: what six classes are called in the prompt, "coco" (couch) or "voc" (sofa). `limit` keeps the first images.

    An image that the label file does not name becomes a Failure "no_labels", an annotation without its image a Failure
    "image_missing". Raises UserError when a file is missing or broken, naming what is there.
    """
    file, folder = coco_places(root, split, annotations, images)
    if not file.is_file():
        known = sorted(f.stem[len("instances_") :] for f in file.parent.glob("instances_*.json"))
        raise UserError(
            f"no '{file}'; set dataset.root=DIR to the folder with annotations/ and {split}/ "
            f"(https://cocodataset.org/#download); splits there now: {', '.join(known) or 'none'}"
        )
    if names not in NAMES:
        raise UserError(f"dataset.names='{names}'; choose from {', '.join(NAMES)}")
    data = read_instances(file)
    chosen = [image for image in data.images.values() if choose_image(image["id"], fraction)][:limit]
    classes = ["background", *(data.categories[i]["name"] for i in sorted(data.categories))]
    scenes = _read_scenes(chosen, data, file)
    predicted = None if labels == "gt" else read_label_file(Path(labels).expanduser(), label_keys, classes)
    finder = ImageFinder([folder])
    samples: list[Sample] = []
    failures = [
        *data.failures,
        *(
            Failure(
                f"annotation {a['id']}",
                "image_missing",
                f"it lies in image {a['image_id']}, which '{file}' does not list",
            )
            for a in data.annotations.values()
            if a["image_id"] not in data.images
        ),
    ]
    for image in each(chosen, "reading", "images"):
        key = str(image["id"])
        present = (
            {r.label for r in scenes[key].regions if not r.crowd}
            if predicted is None
            else predicted.get(PurePosixPath(image["file_name"]).name)
        )
        if present is None:
            failures.append(Failure(key, "no_labels", f"'{labels}' does not name image '{image['file_name']}'"))
            del scenes[key]
            continue
        path = finder.find(image["file_name"])
        for label in sorted(present):
            word = VOC_NAMES.get(classes[label], classes[label]) if names == "voc" else classes[label]
            samples.append(Sample(f"{key}:{classes[label]}", key, path, word, classes[label], None, scenes[key].size))
    source = "labels: ground truth" if predicted is None else f"labels: {' + '.join(label_keys)} of {Path(labels).name}"
    name, notes = f"{Path(root).expanduser().name} {split}", "; ".join(filter(None, [source, note]))
    return Dataset(name, samples, failures, notes, True, scenes, tuple(classes), data.category_ids)


def coco_places(root: str, split: str, annotations: str | None, images: str | None) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split, whether they exist or not."""
    base = Path(root).expanduser().absolute()
    file = Path(annotations).expanduser() if annotations else base / "annotations" / f"instances_{split}.json"
    if images:
        return file, Path(images).expanduser()
    return file, next((p for p in (base / split, base / "images" / split) if p.is_dir()), base / split)


def _read_scenes(images: Sequence[ImageEntry], data: Instances, file: Path) -> dict[str, Scene]:
    """Scenes of the chosen images, by image id. Classes are numbered from 1, in the order of their category ids.

    Raises UserError for an annotation whose category the file does not list.
    """
    number = {category: n for n, category in enumerate(sorted(data.categories), start=1)}
    regions: dict[int, list[Region]] = {image["id"]: [] for image in images}
    for a in data.annotations.values():
        if a["category_id"] not in number:
            raise UserError(f"'{file}': annotation {a['id']} has category_id {a['category_id']}, which is no category")
        if a["image_id"] in regions:
            region = Region(number[a["category_id"]], a["segmentation"], a.get("area", 0), bool(a.get("iscrowd", 0)))
            regions[a["image_id"]].append(region)
    return {str(i["id"]): Scene(str(i["id"]), (i["height"], i["width"]), tuple(regions[i["id"]])) for i in images}


def label_map(size: tuple[int, int], masks: Sequence[tuple[int, float, bool, np.ndarray]]) -> np.ndarray:
    """The ground truth of an image, (H, W) uint8, from (class, area, crowd, mask (H, W) bool) of each object.

    Smaller objects lie on top of larger ones. Pixels of a crowd are IGNORED, whatever else lies there. Pixels without
    an object are 0.
    """
    truth = np.zeros(size, np.uint8)
    for label, _, _, mask in sorted((m for m in masks if not m[2]), key=lambda m: -m[1]):
        truth[mask] = label
    for _, _, _, mask in (m for m in masks if m[2]):
        truth[mask] = IGNORED
    return truth


def label_scene(scene: Scene) -> np.ndarray:
    """The scene's label map, (H, W) uint8 (see `label_map`). An object without any pixel is left out.

    Raises SampleError where an object's mask cannot be read.
    """
    masks = []
    for region in scene.regions:
        try:
            masks.append((region.label, region.area, region.crowd, decode_mask(region.segmentation, scene.size)))
        except SampleError as error:
            if error.reason != "empty_mask":
                raise
    return label_map(scene.size, masks)


def read_label_file(file: Path, keys: Sequence[str], classes: Sequence[str]) -> dict[str, set[int]]:
    """The predicted classes of every image, as numbers into `classes`, by image file name.

    The file maps each key (synonym_matching, text_similarity, image_similarity) to {image path: [class name, ..]}. The
    lists of all `keys` are united. Only the file name of a path counts. Raises UserError for an unknown key, and for an
    unknown class name, naming the image.
    """
    data = read_json(file)
    number = {name: i for i, name in enumerate(classes)}
    found: dict[str, set[int]] = {}
    for key in keys:
        if not isinstance(data, dict) or not isinstance(data.get(key), dict):
            there = ", ".join(data)[:300] if isinstance(data, dict) else "no keys at all"
            raise UserError(f"dataset.label_keys holds '{key}', '{file}' has {there}; choose from these")
        for path, words in data[key].items():
            entry = found.setdefault(PurePosixPath(path.replace("\\", "/")).name, set())
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise UserError(f"'{file}': the classes of image '{path[:80]}' are no list of names; correct it there")
            for word in words:
                name = word if word in number else SYNONYMS.get(word, word)
                if name not in number or name == "background":
                    raise UserError(
                        f"'{file}': class '{word[:80]}' of image '{path[:80]}' is none of the {len(classes) - 1} "
                        f"classes ({', '.join(classes[1:5])}, ..) nor a synonym ({', '.join(SYNONYMS)}); correct it "
                        "there"
                    )
                entry.add(number[name])
    return found
