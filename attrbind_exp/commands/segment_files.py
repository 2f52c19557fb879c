"""What segment writes where it is told to: the mask as a picture, the heat as numbers, the mask as run lengths."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from attrbind_exp.runs.store import picture_folder, write_text, write_whole
from attrbind_exp.types import HeatMap, UserError

ENDINGS = {"mask": ".png", "heat": ".npz", "rle": ".json"}
COCO_NUMBER = re.compile(r"\d{12}$")  # COCO_val2014_000000000139.jpg is image 139


def wanted_files(given: Mapping[str, object], image: str) -> dict[str, Path]:
    """The files to write, by what they hold: mask, heat, rle. `given`: the keys of the configuration.

    Raises UserError for a name with another ending, for a folder, and for the picture itself.
    """
    named = {kind: str(given[kind]) for kind in ENDINGS if given.get(kind) is not None}
    files = {kind: Path(os.path.expanduser(name)) for kind, name in named.items()}  # noqa: PTH111, Path's raises for ~nobody
    for kind, file in files.items():
        if file.suffix.lower() != ENDINGS[kind] or file.is_dir():
            raise UserError(f"{kind}={file}; name a file that ends in {ENDINGS[kind]}")
        if file.resolve() == Path(image).resolve():
            raise UserError(f"{kind}={file} is the picture itself; name another file")
    return files


def write_files(
    files: Mapping[str, Path], heat: HeatMap, threshold: float, image: str, about: Mapping[str, str]
) -> None:
    """Write the files that wanted_files named. `about`: what stands beside heat and run lengths, as text."""
    from attrbind_exp.reporting.figures import save_mask

    mask = heat.mask(threshold)
    for kind, file in files.items():
        picture_folder(file.parent)
        if kind == "mask":
            save_mask(mask, file)
        elif kind == "heat":
            write_whole(file, lambda to: _write_heat(to, heat, threshold, about))
        else:
            write_text(file, json.dumps([coco_result(heat, threshold, image, about)], ensure_ascii=False) + "\n")


def _write_heat(path: Path, heat: HeatMap, threshold: float, about: Mapping[str, str]) -> None:
    file: BinaryIO
    with open(path, "wb") as file:  # given a name, numpy would add .npz to it
        np.savez_compressed(file, heat=heat.values.astype(np.float32), threshold=threshold, **about)  # type: ignore[arg-type]


def coco_result(heat: HeatMap, threshold: float, image: str, about: Mapping[str, str]) -> dict[str, object]:
    """One entry of COCO's results format: the mask as compressed run lengths.

    image_id: COCO's number where the picture's name ends in one, else 1. category_id: 1, since an expression is of no
    class. score: the mean heat within the mask, 0 where that is empty.
    """
    from attrbind_exp.data.masks import encode_mask  # with pycocotools, which no command needs to begin

    mask = heat.mask(threshold)
    number = COCO_NUMBER.search(Path(image).stem)
    return {
        "image_id": int(number[0]) if number else 1,
        "category_id": 1,
        "segmentation": encode_mask(mask),
        "score": round(float(heat.values[mask].mean()), 6) if mask.any() else 0.0,
        "file_name": Path(image).name,
        "threshold": threshold,
        **about,
    }
