"""What another system has predicted, by the id of the expression: masks or heat maps, read one at a time.

1. A JSON list of results like COCO's, a mask each. 2. A folder of PNGs, a mask each. 3. Heat maps: an .npz with an
array for each expression, or a folder of what save_masks=npz writes. All that save_masks writes is read as it lies.
Nothing is unpickled.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

from attrbind_exp.data.digests import digest_file
from attrbind_exp.data.images import open_picture
from attrbind_exp.data.masks import UNREADABLE
from attrbind_exp.data.segmentations import malformed, paint_polygons, paint_runs
from attrbind_exp.types import SampleError, UserError

IDS = ("sample_id", "sent_id", "sentence_id")  # of a result, the first that it has
ABOUT = "about.json"  # of what save_masks wrote: which variants there are
SLACK = 1e-5  # by which rounding may leave 0 to 1
DAMAGED = (*UNREADABLE, zipfile.BadZipFile, RuntimeError, NotImplementedError)
FORMS = "a .json of results, a folder of PNGs, an .npz of heat maps, or a folder that save_masks wrote"

Read = Callable[[tuple[int, int]], np.ndarray]  # a picture's (height, width) -> heat (H, W) float32 in [0, 1]


@dataclass(frozen=True)
class Predictions:
    """`by_id`: what reads each one, which raises SampleError for one that cannot be used; `masks`: whether they are
    masks, whose heat is 0 or 1."""

    by_id: Mapping[str, Read]
    masks: bool


def read_predictions(path: Path, variant: str | None = None) -> Predictions:
    """The predictions in a file or folder; `variant`: which, where save_masks wrote several.

    Raises UserError for a path that holds none, and where it is not clear which variant is meant.
    """
    try:
        about = _read_about(path)
        if about is not None and about["format"] != "npz":
            name = _choose(path, {unquote(str(mask["name"])): str(mask["name"]) for mask in about["masks"]}, variant)
            path, variant = path / (name if about["format"] == "png" else f"{name}.json"), None
        if about is None and (below := sorted({*path.glob(f"masks/*/{ABOUT}"), *path.glob(f"*/{ABOUT}")})):
            places = " or ".join(f"predictions='{found.parent}'" for found in below)
            raise UserError(f"predictions='{path}' has what save_masks wrote further down; give {places}")
        heats = sorted(path.glob("*.npz")) if path.is_dir() else []
        if variant is not None and not heats:
            raise UserError(f"variant={variant} chooses among what save_masks wrote; '{path}' holds one set of masks")
        if heats:
            return Predictions(_find_levels(path, heats, variant), masks=False)
        if path.is_dir() and (pictures := sorted(path.glob("*.png"))):
            return Predictions({unquote(file.stem): partial(read_mask_picture, file) for file in pictures}, masks=True)
        if path.suffix == ".json" and path.is_file():
            return Predictions(_find_results(path), masks=True)
        if path.suffix == ".npz" and path.is_file():
            return Predictions(_find_arrays(path), masks=False)
    except OSError as error:
        raise UserError(f"cannot read predictions='{path}': {error.strerror or error}; give {FORMS}") from error
    what = "is of another kind" if path.is_file() else "is not there"
    raise UserError(
        f"predictions='{path}' {'holds neither PNG nor npz files' if path.is_dir() else what}; give {FORMS}"
    )


def digest_predictions(path: Path) -> str:
    """Twelve hex digits of the content of a file, or of all PNG, npz and JSON files of a folder."""
    if path.is_file():
        return (digest_file(path) or "")[:12]
    total = hashlib.sha256()
    for file in sorted(file for ending in ("png", "npz", "json") for file in path.rglob(f"*.{ending}")):
        total.update(f"{file.relative_to(path).as_posix()} {digest_file(file)}\n".encode("utf-8", "surrogatepass"))
    return total.hexdigest()[:12]


def _read_about(path: Path) -> Mapping[str, Any] | None:
    """What about.json says of a folder that save_masks wrote; None for any other. Raises UserError where it says
    something else."""
    if not (path / ABOUT).is_file():
        return None
    found = _load_json(path / ABOUT)
    known = isinstance(found, dict) and found.get("format") in ("png", "rle", "npz")
    masks = found.get("masks") if known else None
    if not isinstance(masks, list) or not all(isinstance(m, dict) and _is_name(m.get("name")) for m in masks):
        raise UserError(f"'{path / ABOUT}' is not what save_masks writes; remove it, or give another predictions=")
    if found.get("classes"):
        raise UserError(f"'{path}' holds masks of classes; score takes those of expressions")
    return found


def _is_name(value: object) -> bool:
    """Whether a file in this very folder can be called so."""
    return isinstance(value, str) and value == Path(value).name


def _load_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read '{file}' as JSON ({' '.join(str(error).split())[:200]}); write it anew"
        ) from error


def _choose(path: Path, names: Mapping[str, str], variant: str | None) -> str:
    """What belongs to the wanted one of several names. Raises UserError where it is not clear which that is."""
    if variant is None and len(names) == 1:
        return next(iter(names.values()))
    if variant is None or variant not in names:
        asked = "holds several variants" if variant is None else f"holds no variant '{variant}'"
        raise UserError(f"predictions='{path}' {asked}; give variant=NAME, one of: {', '.join(names) or 'none'}")
    return names[variant]


def _find_results(file: Path) -> dict[str, Read]:
    """What reads the masks of a JSON file. Of several results of one expression the one of the highest score counts,
    of several of that the first."""
    results = _load_json(file)
    if not isinstance(results, list):
        raise UserError(f"'{file}' holds no list of results, but of type {type(results).__name__}; give a list")
    best: dict[str, tuple[float, Any]] = {}
    for number, result in enumerate(results, start=1):
        given = [result[key] for key in IDS if key in result] if isinstance(result, dict) else []
        if not given or isinstance(given[0], bool) or not isinstance(given[0], int | str):
            raise UserError(
                f"result {number} of '{file}' says no expression; give each a {', '.join(IDS[1:])} or {IDS[0]}"
            )
        name, score = str(given[0]), result.get("score")
        score = float(score) if isinstance(score, int | float) else 0.0
        if name not in best or score > best[name][0]:
            best[name] = score, result.get("segmentation")
    return {name: partial(paint_mask, segmentation) for name, (_, segmentation) in best.items()}


def paint_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The heat (H, W) float32 of a mask in run lengths, compressed or not, or polygons; it may be empty. Raises
    SampleError: "mask_malformed", "mask_size"."""
    if isinstance(segmentation, list):
        return paint_polygons(segmentation, size).astype(np.float32)
    if isinstance(segmentation, dict):
        return paint_runs(segmentation, size).astype(np.float32)
    raise malformed(f"it is of type {type(segmentation).__name__}, not polygons or run lengths")


def read_mask_picture(file: Path, size: tuple[int, int]) -> np.ndarray:
    """The heat (H, W) float32 of a mask in a PNG of 8-bit grey, where it is above 127, or of one bit.

    Raises SampleError: "mask_malformed", also where all of it is dark and not black (a mask of 0 and 1, perhaps),
    "mask_size".
    """
    try:
        with open_picture(file) as picture:
            mode, found = picture.mode, (picture.height, picture.width)
            pixels = np.asarray(picture)
    except SampleError as error:
        raise SampleError("mask_malformed", str(error)) from error
    if mode not in ("1", "L"):
        raise SampleError("mask_malformed", f"mask '{file}' is of PIL's mode {mode}; write it as 8-bit grey, 0 and 255")
    if found != size:
        raise SampleError("mask_size", f"mask '{file}' is {found} (height, width), its image {size}")
    if mode == "1":
        return pixels.astype(np.float32)
    if 0 < pixels.max() <= 127:
        raise SampleError("mask_malformed", f"mask '{file}' is {pixels.max()} at most; in a mask 0 is out, 255 is in")
    return (pixels > 127).astype(np.float32)


def _find_arrays(file: Path) -> dict[str, Read]:
    """What reads the heat maps of an .npz that has an array for each expression."""
    try:
        archive = np.load(file, allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"cannot read '{file}' as npz ({' '.join(str(error).split())[:200]}); write it anew") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"'{file}' is a single array; np.savez writes one for each expression under its id")
    return {name: partial(_read_array, archive, name) for name in archive.files}


def _read_array(archive: Mapping[str, np.ndarray], name: str, size: tuple[int, int]) -> np.ndarray:
    try:
        values = archive[name]
    except DAMAGED as error:
        raise SampleError("heat_malformed", f"the heat map of '{name}' cannot be read: {error}") from error
    return fit_heat(values, size, name)


def fit_heat(values: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """A heat map (h, w) resized to a picture (H, W) of the same shape, bilinearly; float32.

    Raises SampleError: "heat_malformed", "not_finite", "heat_size"; UserError for values outside [0, 1], since then all
    maps of the system are likely to be on another scale.
    """
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fbui":
        raise SampleError("heat_malformed", f"heat is of shape {values.shape} and {values.dtype}, not (height, width)")
    heat = values.astype(np.float32)
    if not np.isfinite(heat).all():
        raise SampleError("not_finite", "the heat map holds values that are not finite")
    low, high = float(heat.min()), float(heat.max())
    if low < -SLACK or high > 1 + SLACK:
        raise UserError(f"the heat map of '{name}' runs from {low:g} to {high:g}; heat is in [0, 1]: bring it there")
    if not _same_shape(heat.shape, size):
        raise SampleError("heat_size", f"heat is {heat.shape} (height, width), not of the shape of its image {size}")
    if heat.shape != size:
        heat = np.asarray(Image.fromarray(heat).resize(size[::-1], Image.Resampling.BILINEAR))
    return heat.clip(0, 1)


def _same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether sides are in one proportion, each up to less than a pixel."""
    least, most = (max, min)
    return least((n - 1) / of for n, of in zip(one, other)) < most((n + 1) / of for n, of in zip(one, other))


def _find_levels(folder: Path, files: Sequence[Path], variant: str | None) -> dict[str, Read]:
    """What reads the heat maps of one variant in a folder that save_masks=npz wrote."""
    with _open_levels(files[0]) as first:
        names = _variants(first)
    chosen = _choose(folder, dict(zip(names, names)), variant)
    return {unquote(file.stem): partial(_read_levels, file, chosen) for file in files}


def _open_levels(file: Path) -> Any:
    try:
        found = np.load(file, allow_pickle=False)
        if {"levels", "index", "variants", "seeds"} <= set(found.files):
            return found
        why = "it lacks levels, index, variants or seeds"
    except (*DAMAGED, AttributeError) as error:
        why = " ".join(str(error).split())[:200]
    raise UserError(f"'{file}' is not what save_masks=npz writes ({why}); own heat maps go into one .npz, by id")


def _variants(found: Mapping[str, np.ndarray]) -> list[str]:
    """The names of variants under noise seeds, in the order of the index, as save_masks gives them to files."""
    labels, seeds = found["variants"].tolist(), found["seeds"].tolist()
    return [str(label) if len(seeds) == 1 else f"{label} seed={seed}" for label in labels for seed in seeds]


def _read_levels(file: Path, variant: str, size: tuple[int, int]) -> np.ndarray:
    """The heat (H, W) float32 of levels: the last hundredth that each pixel reached, so that masks are those of the
    run at every threshold."""
    try:
        with _open_levels(file) as found:
            number = found["index"].ravel()[_variants(found).index(variant)]
            levels = found["levels"][number]
    except (*DAMAGED, UserError) as error:
        raise SampleError("heat_malformed", f"'{file}' cannot be read: {' '.join(str(error).split())[:200]}") from error
    return fit_heat(levels.astype(np.float32) / np.float32(100), size, unquote(file.stem))
