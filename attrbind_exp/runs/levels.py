"""Heat maps of a run to be taken away, one file a sample: the last of the 101 thresholds that each pixel reaches.

A level is a whole number from 0 to 100. So a mask at any threshold is exact, and a map takes a byte a pixel before it
is packed.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np

from attrbind_exp.runs.rows import Row
from attrbind_exp.runs.store import write_whole
from attrbind_exp.types import MaskFormat, UserError

FOLDER = "masks"
ABOUT = "about.json"  # written last: where it is, all masks of its folder are there
LONGEST = 120  # characters of a file's name
FAST = 1  # of zlib: maps are packed while the run waits for no one else


@dataclass(frozen=True)
class Levels:
    """The heat of one expression, or of all classes of one image, under V variants and S noise seeds.

    name: the sample's id, class-wise the image's; levels: (D, H, W) uint8, 0 to 100, every distinct map once; index:
    (V, S), which of D it is; labels: (D, H, W) uint8, the class whose heat that is, None for expressions.
    """

    name: str
    levels: np.ndarray
    index: np.ndarray
    labels: np.ndarray | None = None

    def predict(self, variant: int, seed: int, row: int) -> np.ndarray:
        """What is segmented at a row of THRESHOLDS: a mask (H, W) bool, class-wise a label map (H, W) uint8."""
        number = self.index[variant, seed]
        mask = self.levels[number] >= row
        return mask if self.labels is None else np.where(mask, self.labels[number], 0).astype(np.uint8)


def distinct(name: str, maps: Iterable[tuple[np.ndarray, np.ndarray | None]], shape: tuple[int, int]) -> Levels:
    """Levels of maps in the order of variants and seeds, `shape` = (V, S). A map is its levels (H, W) uint8, and its
    labels where there are classes. Maps that are equal are kept once."""
    found: dict[tuple[bytes, bytes], int] = {}
    kept: list[tuple[np.ndarray, np.ndarray | None]] = []
    index = []
    for levels, labels in maps:
        key = (levels.tobytes(), b"" if labels is None else labels.tobytes())
        if key not in found:
            found[key] = len(kept)
            kept.append((levels, labels))
        index.append(found[key])
    stacked = np.stack([levels for levels, _ in kept])
    with_labels = [labels for _, labels in kept if labels is not None]
    return Levels(name, stacked, np.array(index).reshape(shape), np.stack(with_labels) if with_labels else None)


def encode_levels(found: Levels, variants: Sequence[str], seeds: Sequence[int]) -> bytes:
    """The .npz of one sample: `levels`, `index`, `labels` where there are classes, the sample's `name`, the labels of
    the `variants` and the noise `seeds` that the index is over. Equal heat makes equal bytes."""
    arrays = {
        "name": np.array(found.name),
        "variants": np.array(variants),
        "seeds": np.array(seeds),
        "index": found.index,
        "levels": found.levels,
        **({} if found.labels is None else {"labels": found.labels}),
    }
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=FAST) as packed:
        for key, array in arrays.items():
            with packed.open(f"{key}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return content.getvalue()


def file_name(name: str) -> str:
    """A name as a file may have it: what is neither letter, digit nor one of "_.-~ +,=" is written as %3A is for a
    colon, so that urllib.parse.unquote gives it back. Of a longer one the beginning, and a digest."""
    plain = quote(name, safe=" +,=")
    if len(plain) <= LONGEST:
        return plain
    return f"{plain[: LONGEST - 33]}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def masks_folder(folder: Path, form: MaskFormat) -> Path:
    """Where the masks of one form lie in a run's folder."""
    return folder / FOLDER / form


def has_masks(folder: Path, form: MaskFormat) -> bool:
    """Whether all masks of this form are there."""
    return (masks_folder(folder, form) / ABOUT).is_file()


def levels_file(folder: Path, name: str) -> Path:
    """Where the heat of a sample lies in a run's folder."""
    return masks_folder(folder, "npz") / f"{file_name(name)}.npz"


def write_levels(folder: Path, name: str, content: bytes) -> None:
    """Write a sample's file whole or not at all."""
    file = levels_file(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda to: to.write_bytes(content))


def read_levels(folder: Path, name: str) -> Levels:
    """The heat of a sample. Raises UserError where it cannot be read."""
    file = levels_file(folder, name)
    try:
        with np.load(file, allow_pickle=False) as found:
            return Levels(name, found["levels"], found["index"], found.get("labels"))
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"no readable heat of '{name}' at '{file}' ({str(error)[:80]}); run it again with save_masks and another "
            "hydra.run.dir"
        ) from error


def names_of(rows: Iterable[Row]) -> list[str]:
    """Under which names the heat of some rows is kept, each once: sample ids, class-wise the image's."""
    return list(dict.fromkeys(getattr(row, "sample_id", row.image_id) for row in rows))


def has_levels(folder: Path, rows: Iterable[Row]) -> bool:
    """Whether the heat of all these rows is there."""
    return all(levels_file(folder, name).is_file() for name in names_of(rows))


def collect_levels(sources: Iterable[Path], target: Path) -> None:
    """Give the run in `target` the heat of all `sources`, by links where the disk can make them, else by copies."""
    for file in _files(sources):
        to = masks_folder(target, "npz") / file.name
        to.parent.mkdir(parents=True, exist_ok=True)
        write_whole(to, partial(_link, file))


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(masks_folder(folder, "npz").glob("*.npz"))


def _link(file: Path, to: Path) -> None:
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
