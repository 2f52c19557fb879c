"""Masks that another model proposes for an image, whatever is said of it: a folder with one JSON file an image.

A file holds what Segment Anything's SamAutomaticMaskGenerator returns with output_mode="coco_rle": a list with an
object for each mask, whose "segmentation" is in COCO's run lengths, compressed or not, or a list of polygons. An object
with such a list as "annotations" does as well (SA-1B's files). All else in it is ignored. Files may hold anything, so
masks are checked as ground truths are (data/segmentations.py).
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from attrbind_exp.data.segmentations import paint_polygons, paint_runs
from attrbind_exp.types import Sample, SampleError, UserError

FORM = 'a list of objects, each with a "segmentation" in COCO\'s run lengths or polygons'
KEPT = 4  # images, whose expressions follow one another


def check_folder(folder: Path) -> None:
    """Raise UserError where a folder of proposals is not there, or has no JSON file."""
    if not folder.is_dir():
        raise UserError(f"refine.proposals='{folder}' is no folder; give one with a JSON file an image")
    if next(folder.glob("*.json"), None) is None:
        raise UserError(f"refine.proposals='{folder}' has no file *.json; give a folder with one for each image")


def digest_folder(folder: Path) -> str:
    """A digest of the names and contents of all files of proposals, "" where there is no such folder."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    for file in files:
        digest.update(f"{file.name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest() if files else ""


def file_names(sample: Sample) -> list[str]:
    """How an image's file of proposals may be called: its id, its picture's name, or that without the ending, and
    ".json". An id that would be a path names no file."""
    names = (sample.image_id, sample.image_path.name, sample.image_path.stem)
    return [f"{name}.json" for name in names if name and not set(name) & {"/", "\\", "\0"}]


def find_file(folder: Path, sample: Sample) -> Path | None:
    """The file of an image's proposals: the first of its names that is there."""
    files = (folder / name for name in file_names(sample))
    return next((file for file in files if file.is_file()), None)


def read_proposals(folder: Path, sample: Sample) -> Sequence[np.ndarray]:
    """The masks (H, W) bool that are proposed for a sample's image, at least one, in the file's order. Masks without a
    pixel are left out.

    Raises SampleError: "proposals_missing" (no file), "proposals_none" (no mask in it), "proposals_malformed".
    """
    if not file_names(sample):  # it lies in memory alone
        message = f"a picture without a file name has no proposals in '{folder}'; give its path"
        raise SampleError("proposals_missing", message)
    file = find_file(folder, sample)
    if file is None:
        raise SampleError(
            "proposals_missing",
            f"'{folder}' has no proposals of image '{sample.image_id}': neither '{sample.image_id}.json' nor "
            f"'{sample.image_path.stem}.json'",
        )
    about = file.stat()
    masks = _read(file, (about.st_mtime_ns, about.st_size), sample.size)
    if not masks:
        raise SampleError("proposals_none", f"'{file}' holds no mask that has a pixel")
    return masks


@lru_cache(KEPT)
def _read(file: Path, _: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """All masks of a file that have a pixel; its second argument tells an edited file from what was read before."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _malformed(f"'{file}' cannot be read as JSON: {error}") from error
    if isinstance(found, dict):
        found = found.get("annotations")
    if not isinstance(found, list):
        raise _malformed(f"'{file}' is not {FORM}")
    masks = [_paint(one, size, f"'{file}', mask {number} of {len(found)}") for number, one in enumerate(found, 1)]
    return tuple(mask for mask in masks if mask.any())


def _paint(proposal: Any, size: tuple[int, int], place: str) -> np.ndarray:
    segmentation = proposal.get("segmentation") if isinstance(proposal, dict) else None
    try:
        if isinstance(segmentation, dict):
            return paint_runs(segmentation, size)
        if isinstance(segmentation, list):
            return paint_polygons(segmentation, size)
    except SampleError as error:
        raise _malformed(f"{place}: {error}") from error
    raise _malformed(f"{place} is no proposal; the file must be {FORM}")


def _malformed(message: str) -> SampleError:
    return SampleError("proposals_malformed", message)
