"""NAME.npz beside a gallery picture NAME.png: the photo and its masks as numbers, so that a viewer can lay one over the
other. The picture itself has them as outlines."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attrbind_exp.runs.store import write_whole

SUFFIX = ".npz"
HEIGHT = 480  # pixels at most
QUALITY = 90  # of the photo as JPEG


@dataclass(frozen=True)
class Mask:
    """Labels (H, W) uint8, 0 where there is nothing, and what each of them means."""

    labels: np.ndarray
    names: Mapping[int, str]


def write_masks(file: Path, photo: Image.Image, masks: Mapping[str, Mask]) -> Path:
    """Write a photo and the masks of it by name, all of its size, at HEIGHT at most."""
    height = min(HEIGHT, photo.height)
    size = max(1, round(photo.width * height / photo.height)), height
    jpeg = io.BytesIO()
    photo.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(jpeg, "JPEG", quality=QUALITY)
    about = json.dumps([(name, list(mask.names.items())) for name, mask in masks.items()])
    arrays: dict[str, Any] = {
        "photo": np.frombuffer(jpeg.getvalue(), np.uint8),
        "about": np.frombuffer(about.encode(), np.uint8),
    }
    for number, mask in enumerate(masks.values()):
        labels = Image.fromarray(mask.labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        arrays[f"mask_{number}"] = np.asarray(labels)

    def write(to: Path) -> None:
        with open(to, "wb") as stream:  # numpy would change the name
            np.savez_compressed(stream, **arrays)

    return write_whole(file, write)


def read_masks(file: Path) -> tuple[Image.Image, dict[str, Mask]]:
    """The photo and its masks by name. Raises OSError or ValueError where the file is none of these."""
    with np.load(file, allow_pickle=False) as kept:
        about = json.loads(kept["about"].tobytes())
        masks = {name: Mask(kept[f"mask_{n}"], dict(map(tuple, names))) for n, (name, names) in enumerate(about)}
        return Image.open(io.BytesIO(kept["photo"].tobytes())), masks
