"""RefCOCO, RefCOCO+, RefCOCOg and everything else in REFER's layout, the bundled shapes among them.

ROOT/NAME/instances.json holds images and masks as COCO does; ROOT/NAME/refs(SPLIT_BY).p, or its JSON twin, holds the
expressions. Images lie in one of IMAGE_FOLDERS below ROOT.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrbind_exp.data.pickles import read_plain_pickle
from attrbind_exp.types import Failure, Sample, UserError

IMAGE_FOLDERS = (
    "images/mscoco/images/train2014", "images/mscoco/images/val2014", "images/train2014", "images/val2014",
    "train2014", "val2014", "train2017", "val2017", "images",
)  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """Samples in file order, those that were given up while reading, and a line on what the figures mean."""

    name: str
    samples: list[Sample]
    failures: list[Failure]
    note: str | None = None


def load_refer(
    root: str,
    name: str,
    split_by: str,
    split: str,
    limit: int | None = None,
    images: str | None = None,
    note: str | None = None,
) -> Dataset:
    """Read one split; `limit` keeps its first expressions, `images` names the image folder if it lies elsewhere.

    Raises UserError for a missing or damaged file and for a split that the refs do not have. A ref that cannot be
    used (no annotation, no image entry, empty sentence) becomes a Failure.
    """
    folder = Path(root).expanduser() / name
    if not folder.is_dir():
        raise UserError(
            f"no dataset folder '{folder}'; set dataset.root=DIR to the folder that holds '{name}/', which holds "
            f"instances.json and refs({split_by}).p (REFER's layout; https://github.com/lichengunc/refer)"
        )
    instances = read_json(folder / "instances.json")
    refs = read_refs(folder, split_by)
    splits = sorted({str(ref.get("split")) for ref in refs})
    if split not in splits:
        raise UserError(f"unknown split '{split}' for {name}({split_by}); choose from {', '.join(splits)}")
    folders = (
        [Path(images).expanduser()] if images else [folder / "images", *(folder.parent / f for f in IMAGE_FOLDERS)]
    )
    found = _Index(instances, [f for f in folders if f.is_dir()] or [folder.parent])
    samples: list[Sample] = []
    failures: list[Failure] = []
    for ref in (r for r in refs if r["split"] == split):
        for item in found.samples(ref):
            if limit is not None and len(samples) + len(failures) >= limit:
                return Dataset(name, samples, failures, note)
            (samples if isinstance(item, Sample) else failures).append(item)  # type: ignore[arg-type]
    return Dataset(name, samples, failures, note)


class _Index:
    """Annotations, images and categories by their ids."""

    def __init__(self, instances: dict[str, Any], folders: list[Path]):
        self.annotations = {a["id"]: a for a in instances["annotations"]}
        self.images = {i["id"]: i for i in instances["images"]}
        self.categories = {c["id"]: c["name"] for c in instances["categories"]}
        self.folders = folders

    def samples(self, ref: dict[str, Any]) -> Iterator[Sample | Failure]:
        """One Sample or Failure for every sentence of a ref."""
        annotation = self.annotations.get(ref["ann_id"])
        image = self.images.get(ref["image_id"])
        for sentence in ref["sentences"]:
            key = f"{ref['ref_id']}:{sentence['sent_id']}"
            if annotation is None:
                yield Failure(key, "annotation_missing", f"ref {ref['ref_id']} asks for annotation {ref['ann_id']}")
            elif image is None:
                yield Failure(key, "image_missing", f"ref {ref['ref_id']} asks for image {ref['image_id']}")
            elif not sentence["sent"].strip():
                yield Failure(key, "empty_expression", f"sentence {sentence['sent_id']} has no words")
            else:
                yield Sample(
                    sample_id=key,
                    image_id=str(ref["image_id"]),
                    image_path=self.find(image["file_name"]),
                    text=sentence["sent"],
                    category=self.categories.get(ref["category_id"]),
                    segmentation=annotation["segmentation"],
                    size=(image["height"], image["width"]),
                    slices=sentence.get("slices", {}),
                )

    def find(self, file_name: str) -> Path:
        """The image's path; where it lies nowhere, the place where it was looked for first."""
        candidates = [folder / file_name for folder in self.folders]
        return next((path for path in candidates if path.is_file()), candidates[0])


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
