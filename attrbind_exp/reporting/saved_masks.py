"""Predicted masks of a finished run, to be taken away: pictures, or COCO's results (docs/taking-away.md).

They are made of the heat in masks/npz and each variant's reported threshold, at the very end of a run. So nothing is
segmented for them, and other thresholds and forms can be had later.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.masks import encode_mask
from attrbind_exp.reporting.maps import CLASSES
from attrbind_exp.runs.levels import ABOUT, Levels, file_name, levels_file, masks_folder, names_of, read_levels
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.store import write_text, write_whole
from attrbind_exp.scoring.figures import VariantFigures
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import Sample
from attrbind_exp.work import each

IMAGES = "images.json"


@dataclass(frozen=True)
class Cell:
    """A variant under a noise seed, by their numbers; `name`: of its file or folder; `row`: of THRESHOLDS, at which its
    masks are made."""

    name: str
    label: str
    variant: int
    seed: int
    row: int


def save_masks(folder: Path, dataset: Dataset, settings: RunSettings, figures: Sequence[VariantFigures]) -> str | None:
    """Write the masks of a run whose rows are all there, in the form that its settings ask for. Returns why there are
    none, in one line; None where they were written.

    1. Which heat there is, in the order of the rows. 2. Masks at each variant's threshold. 3. about.json.
    """
    form = settings.save_masks
    assert form is not None
    of = {name: image for image, rows in read_images(folder) for name in names_of(rows)}
    if lacking := [name for name in of if not levels_file(folder, name).is_file()]:
        return (
            f"no masks: no heat was kept of {len(lacking)} of {len(of)} samples, since they were scored without "
            f"save_masks; run it again with save_masks={form} and another hydra.run.dir"
        )
    cells = list(_cells(settings, figures))
    if not cells and form != "npz":
        return (
            f"no masks: nothing was scored, so no threshold was chosen; give threshold=0.5 and another hydra.run.dir, "
            f"or cut the heat in '{masks_folder(folder, 'npz')}' yourself"
        )
    to = masks_folder(folder, form)
    to.mkdir(parents=True, exist_ok=True)
    if form == "png":
        _write_pictures(to, (read_levels(folder, name) for name in each(of, "masks", "samples")), cells)
    elif form == "rle":
        found = ((of[name], read_levels(folder, name)) for name in each(of, "masks", "samples"))
        _write_results(to, found, cells, dataset)
    masks = [
        {"name": c.name, "variant": c.label, "seed": settings.seeds[c.seed], "threshold": c.row / 100} for c in cells
    ]
    about = {"format": form, "samples": len(of), "classes": list(dataset.classes), "masks": masks}
    write_text(to / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return None


def _cells(settings: RunSettings, figures: Sequence[VariantFigures]) -> Iterator[Cell]:
    """Every variant that has a threshold, under every noise seed; where there are several, names have them."""
    for v, found in enumerate(figures):
        for s, seed in enumerate(settings.seeds):
            label = found.label if len(settings.seeds) == 1 else f"{found.label} seed={seed}"
            if found.threshold is not None:
                yield Cell(file_name(label), found.label, v, s, round(100 * found.threshold))


def _write_pictures(to: Path, found: Iterator[Levels], cells: Sequence[Cell]) -> None:
    """A PNG a sample in a folder a variant: one bit a pixel, class-wise the class as the number of a colour."""
    for cell in cells:
        (to / cell.name).mkdir(exist_ok=True)
    for levels in found:
        for cell in cells:
            mask = levels.predict(cell.variant, cell.seed, cell.row)
            picture = Image.fromarray(mask)
            if levels.labels is not None:
                picture.putpalette(_palette())
            file = to / cell.name / f"{file_name(levels.name)}.png"
            write_whole(file, partial(picture.save, format="PNG"))


def _palette() -> list[int]:
    """Red, green, blue of every class; the background is black."""
    return [0, 0, 0, *(part for number in range(255) for part in CLASSES[number % len(CLASSES)])]


def _write_results(to: Path, found: Iterator[tuple[str, Levels]], cells: Sequence[Cell], dataset: Dataset) -> None:
    """A file a variant in the form of COCO's results, and one of the images and categories that they name."""
    numbers, categories = _image_numbers(dataset), _category_numbers(dataset)
    write_text(to / IMAGES, _as_lines(_describe_images(dataset, numbers, categories)))
    samples = {s.sample_id: s for s in dataset.samples}
    lines: dict[str, list[str]] = {cell.name: [] for cell in cells}
    for image, levels in found:
        for cell in cells:
            result = _results_of if levels.labels is None else _class_results_of
            for entry in result(levels, cell, samples.get(levels.name), dataset, categories):
                lines[cell.name].append(json.dumps({"image_id": numbers[image], **entry}, ensure_ascii=False))
    for name, entries in lines.items():
        write_text(to / f"{name}.json", "[\n" + ",\n".join(entries) + "\n]\n")


def _results_of(
    levels: Levels, cell: Cell, sample: Sample | None, dataset: Dataset, categories: Mapping[str, int]
) -> Iterator[Mapping[str, object]]:
    """The result of one expression. `sent_id` is REFER's number of the sentence, where the data have it."""
    assert sample is not None  # rows are of samples
    sentence = sample.sample_id.rpartition(":")[2]
    numbered = {"sent_id": int(sentence)} if dataset.category_ids and sentence.isdecimal() else {}
    mask = levels.predict(cell.variant, cell.seed, cell.row)
    category = categories[sample.category or ""]
    yield {**_result(mask, levels, cell, category), "sample_id": sample.sample_id, **numbered}


def _class_results_of(
    levels: Levels, cell: Cell, _: Sample | None, dataset: Dataset, categories: Mapping[str, int]
) -> Iterator[Mapping[str, object]]:
    """A result for each class that the prediction of one image holds."""
    predicted = levels.predict(cell.variant, cell.seed, cell.row)
    for label in np.unique(predicted[predicted > 0]).tolist():
        yield _result(predicted == label, levels, cell, categories[dataset.classes[label]])


def _result(mask: np.ndarray, levels: Levels, cell: Cell, category: int) -> dict[str, object]:
    """Category, run lengths, and as a score the mean heat in the mask, rounded down to hundredths pixel by pixel."""
    heat = levels.levels[levels.index[cell.variant, cell.seed]][mask]
    score = round(float(heat.mean()) / 100, 4) if heat.size else 0.0
    return {"category_id": category, "segmentation": encode_mask(mask), "score": score}


def _image_numbers(dataset: Dataset) -> dict[str, int]:
    """The integer of every image id: COCO's own, else its place, from 1 on, among all ids in their order."""
    ids = list(by_image(dataset))
    if dataset.category_ids and all(name.isdecimal() for name in ids):
        return {name: int(name) for name in ids}
    return {name: number for number, name in enumerate(sorted(ids), start=1)}


def _category_numbers(dataset: Dataset) -> dict[str, int]:
    """The integer of every category: COCO's own, else its place, from 1 on, among all names in their order. A sample
    without a category, or of one that has no number, has 0."""
    names = {sample.category or "" for sample in dataset.samples}
    if dataset.category_ids:
        return {**dict.fromkeys(names, 0), **dataset.category_ids}
    return {"": 0, **{name: number for number, name in enumerate(sorted(names - {""}), start=1)}}


def _describe_images(
    dataset: Dataset, numbers: Mapping[str, int], categories: Mapping[str, int]
) -> dict[str, list[dict[str, object]]]:
    """Images and categories in the form of COCO's annotation files, without any annotation."""
    images = []
    for image, samples in sorted(by_image(dataset).items(), key=lambda item: numbers[item[0]]):
        height, width = samples[0].size if samples else dataset.scenes[image].size
        file = samples[0].image_path.name if samples and dataset.category_ids else image
        images.append({"id": numbers[image], "file_name": file, "height": height, "width": width})
    named = sorted((number, name) for name, number in categories.items() if name or number == 0)
    return {"images": images, "annotations": [], "categories": [{"id": i, "name": name} for i, name in named]}


def _as_lines(lists: Mapping[str, Sequence[object]]) -> str:
    """JSON of lists, an entry a line."""
    parts = []
    for name, entries in lists.items():
        inner = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        parts.append(f"{json.dumps(name)}: [{inner and chr(10)}{inner}{inner and chr(10)}]")
    return "{" + ",\n".join(parts) + "}\n"
