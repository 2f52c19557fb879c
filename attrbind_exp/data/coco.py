"""COCO 2014: the categories of an image as its expressions."""

from collections import defaultdict
from pathlib import Path

from attrbind_exp.data.refer import Dataset, read_json
from attrbind_exp.types import Sample, UserError


def load_coco(root: str, split: str = "val2014", limit: int | None = None, note: str | None = None) -> Dataset:
    """One Sample for every category present in an image; its mask is the union of the category's objects.

    `root` holds annotations/instances_<split>.json and <split>/. `limit` keeps the first samples. Raises UserError when
    the annotations are missing, naming the splits that are there.
    """
    base = Path(root).expanduser()
    file = base / "annotations" / f"instances_{split}.json"
    if not file.is_file():
        known = sorted(f.stem[len("instances_") :] for f in file.parent.glob("instances_*.json"))
        raise UserError(
            f"no '{file}'; set dataset.root=DIR to the folder with annotations/ and {split}/ "
            f"(https://cocodataset.org/#download); splits there now: {', '.join(known) or 'none'}"
        )
    data = read_json(file)
    names = {c["id"]: c["name"] for c in data["categories"]}
    present: dict[int, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    for annotation in data["annotations"]:
        present[annotation["image_id"]][annotation["category_id"]].append(annotation["segmentation"])
    samples = [
        Sample(
            sample_id=f"{image['id']}:{category}",
            image_id=str(image["id"]),
            image_path=base / split / image["file_name"],
            text=names[category],
            category=names[category],
            segmentation={"union": objects},
            size=(image["height"], image["width"]),
        )
        for image in data["images"]
        for category, objects in sorted(present[image["id"]].items())
    ]
    return Dataset(f"coco {split}", samples[:limit], [], note)
