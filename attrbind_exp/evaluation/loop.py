"""Heat maps -> rows -> counts: every expression against its mask, or every image against its label map.

Rows reach the disk image by image, and all figures are made of rows, so that a run that was cut short goes on where it
stopped. A bad sample is counted and named; it never stops the run.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attrbind_exp.data.coco import label_scene
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.evaluation.batching import Heats, Images, Segmented, by_image, check_finite, segment_images
from attrbind_exp.evaluation.loading import Loaded, ahead
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.runs.maps import write_maps
from attrbind_exp.runs.progress import Progress
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import binding, classes, metrics
from attrbind_exp.scoring.summary import ClassScores, Reading, Scores
from attrbind_exp.types import Failure, Other, Prompt, RunSettings, Sample, SampleError, Variant

Row = Mapping[str, Any]
Decoded = dict[str, np.ndarray | None]  # masks (H, W) of an image's objects by id, None = not usable


def score(
    dataset: Dataset, segmenter: Segmenter, settings: RunSettings, store: RunStore, captioner: Captioner | None = None
) -> Scores | ClassScores:
    """The evaluation loop: class-wise where the dataset has classes, else expression by expression.

    Images that an earlier start of the same run has finished are taken from the store.
    """
    scores: Scores | ClassScores
    if dataset.classes:
        scores = ClassScores(settings.variants, settings.seeds, dataset.classes)
    else:
        scores = Scores(settings.variants)
    number, count = settings.shard
    images = dict(list(by_image(dataset).items())[number::count])
    done, rows, failures = take_up(images, [] if number else dataset.failures, store)
    fail(failures, scores, store)
    samples = {s.sample_id: s for s in dataset.samples}
    for part in rows:
        take(part, samples, scores)
    progress = Progress(store, len(images), settings.variants[settings.headline])
    progress.update(done, (row for part in rows for row in part), fresh=False)
    try:
        segmented = segment_images(images, segmenter, settings, captioner, done)
        # Scored in threads, so that counting pixels does not keep the device waiting.
        scored = ahead(lambda image: (image, *score_image(image, dataset, settings)), segmented, depth=2)
        for image, made, failed in scored:
            if image.kept:
                write_maps(store.folder, image.image_id, image.kept)
            written = [row for part in made for row in part]
            store.add_rows(written)
            fail(failed, scores, store)
            for part in made:
                take(part, samples, scores)
            progress.update(1, written)
    finally:
        progress.close()
    return scores


def take_up(images: Images, known: Sequence[Failure], store: RunStore) -> tuple[int, list[list[Row]], list[Failure]]:
    """How many images an earlier start has finished, their rows by expression or image, and all failures so far, those
    `known` beforehand among them.

    Images are scored in order, so all before the last one with a row are whole; that one may be torn and is done again.
    """
    order = {image: i for i, image in enumerate(images)}
    found = [(row, end) for row, end in store.read_rows() if row["image_id"] in order]
    done = max((order[row["image_id"]] for row, _ in found), default=0)
    kept = [(row, end) for row, end in found if order[row["image_id"]] < done]
    owner = {sample.sample_id: image for image, samples in images.items() for sample in samples}
    earlier = [f for f in store.read_failures() if order.get(owner.get(f.sample_id, f.sample_id), done) < done]
    store.keep(kept[-1][1] if kept else 0)
    parts: dict[str, list[Row]] = {}
    for row, _ in kept:
        parts.setdefault(row.get("sample_id", row["image_id"]), []).append(row)
    return done, list(parts.values()), [*known, *earlier]


def fail(failures: Sequence[Failure], scores: Scores | ClassScores, store: RunStore) -> None:
    """Count and name what cannot be scored."""
    scores.failures += failures
    store.add_failures(failures)


def score_image(image: Segmented, dataset: Dataset, settings: RunSettings) -> tuple[list[list[Row]], list[Failure]]:
    """Rows of one image, by expression or all in one list, and what failed. Class-wise, an image of which one class
    could not be segmented is one failure."""
    if not dataset.classes:
        made: list[list[Row]] = []
        failed = list(image.failures)
        decoded: Decoded = {}
        for item, heats in image.items:
            try:
                check_finite(heats)
                made.append(expression_rows(item, heats, settings, dataset.described, decoded))
            except SampleError as error:
                failed.append(Failure(item.sample.sample_id, error.reason, str(error)))
        return made, failed
    try:
        if image.failures:
            raise SampleError(image.failures[0].reason, image.failures[0].message)
        for _, heats in image.items:
            check_finite(heats)
        truth = label_scene(dataset.scenes[image.image_id])
    except SampleError as error:
        return [], [Failure(image.image_id, error.reason, str(error))]
    return [image_rows(image, truth, dataset.classes, settings)], []


def expression_rows(
    item: Loaded, heats: Heats, settings: RunSettings, described: bool, decoded: Decoded | None = None
) -> list[Row]:
    """One row a variant and seed, in this order. `described`: the sample's own slices stand alone; `decoded`: see
    `object_masks`. Without a ground truth the counts are None."""
    sample, parse = item.sample, item.prompt.parse
    slices = dict(sample.slices) if described else {**sample.slices, "modifier": list(parse.modifiers)}
    maps = {id(heat): heat for row in heats for heat in row}  # variants may share a map
    masks = object_masks(sample, item.truth, decoded)
    counted = {k: count(heat.values, sample, masks) for k, heat in maps.items()}
    rows: list[Row] = []
    for variant, of_variant in zip(settings.variants, heats, strict=True):
        for seed, heat in zip(settings.seeds, of_variant, strict=True):
            rows.append(
                {
                    "sample_id": sample.sample_id,
                    "image_id": sample.image_id,
                    **variant_columns(variant, seed),
                    "expression": sample.text,
                    **_prompt(item.prompt),
                    "slices": slices,
                    **counted[id(heat)],
                }
            )
    return rows


def object_masks(
    sample: Sample, truth: np.ndarray | None, decoded: Decoded | None = None
) -> dict[str, np.ndarray] | None:
    """Masks (H, W) bool of all objects of a sample's image by their ids, its own among them; None without ground truth.

    Another object whose mask cannot be used counts as not annotated: it takes nothing from this sample's IoU.
    `decoded`: what the other expressions of the image have decoded; it grows.
    """
    if truth is None:
        return None
    decoded = {} if decoded is None else decoded
    masks = {sample.object_id: truth}
    for other in sample.others or ():
        if other.object_id not in decoded:
            decoded[other.object_id] = _usable_mask(other, sample.size)
        if (mask := decoded[other.object_id]) is not None:
            masks[other.object_id] = mask
    return masks


def _usable_mask(other: Other, size: tuple[int, int]) -> np.ndarray | None:
    try:
        return decode_mask(other.segmentation, size)
    except SampleError:
        return None


def count(heat: np.ndarray, sample: Sample, masks: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """A row's figures, with the masks of `object_masks`: pixels at every threshold, IoU at those of the paper's grid;
    None without a ground truth; where the image's other objects are known, where the heat lies among them."""
    if masks is None:
        return dict.fromkeys(("iou_at", "intersection", "union"))
    hit, union = metrics.count_overlap(heat, masks[sample.object_id])
    at = metrics.iou(hit, union)
    iou_at = {metrics.key(k): round(float(at[k]), 6) for k in metrics.GRID}
    found = {} if sample.others is None else vars(binding.locate(heat, sample, masks))
    return {"iou_at": iou_at, "intersection": hit.tolist(), "union": union.tolist(), **found}


def image_rows(image: Segmented, truth: np.ndarray, names: Sequence[str], settings: RunSettings) -> list[Row]:
    """One row a variant and seed, in this order, of an image against its label map `truth` (H, W)."""
    labels = [names.index(item.sample.category or "") for item, _ in image.items]
    done: dict[tuple[int, ...], classes.ClassCounts] = {}
    rows: list[Row] = []
    for v, variant in enumerate(settings.variants):
        for s, seed in enumerate(settings.seeds):
            maps = [heats[v][s] for _, heats in image.items]
            key = tuple(map(id, maps))  # variants may share their maps
            if key not in done:
                done[key] = classes.count_classes({n: m.values for n, m in zip(labels, maps, strict=True)}, truth)
            rows.append(
                {
                    "image_id": image.image_id,
                    **variant_columns(variant, seed),
                    "looked_for": {item.sample.category: _prompt(item.prompt) for item, _ in image.items},
                    **{name: values.tolist() for name, values in vars(done[key]).items()},
                }
            )
    return rows


def variant_columns(variant: Variant, seed: int) -> dict[str, Any]:
    layers = {"attention_layers": variant.layers} if variant.layers else {}
    return {"text_processor": variant.name, "alpha": variant.alpha, **layers, "seed": seed}


def _prompt(prompt: Prompt) -> dict[str, Any]:
    parse = prompt.parse
    return {
        "prompt": prompt.text,
        "target": parse.target_text,
        "chunk": parse.chunk_text,
        "bound": prompt.bind,
        "fallbacks": list(prompt.fallbacks),
    }


def take(rows: Sequence[Row], samples: Mapping[str, Sample], scores: Scores | ClassScores) -> None:
    """Add the rows of one expression, or of one image, to the scores."""
    by_variant = [rows[start : start + len(rows) // len(scores.variants)] for start in _starts(rows, scores)]
    first = rows[0]
    if isinstance(scores, ClassScores):
        scores.images.append(first["image_id"])
        scores.readings += [_reading(r) for r in first["looked_for"].values()]
        for v, part in enumerate(by_variant):
            for s, row in enumerate(part):
                arrays = (np.array(row[name], np.int64) for name in ("classes", "truth", "predicted", "hit"))
                scores.counts[v][s].append(classes.ClassCounts(*arrays))
        return
    sample = samples[first["sample_id"]]
    if first["intersection"] is None:
        scores.unscored.append(sample)
        return
    scores.samples.append(sample)
    scores.readings.append(_reading(first))
    scores.labels.append(first["slices"])
    for v, part in enumerate(by_variant):
        scores.intersection[v].append(np.array([row["intersection"] for row in part], np.int64))
        scores.union[v].append(np.array([row["union"] for row in part], np.int64))
        if "peak" in first:
            scores.sightings[v].append([binding.Sighting(row["peak"], row["heat_on"]) for row in part])


def _starts(rows: Sequence[Row], scores: Scores | ClassScores) -> Iterable[int]:
    return range(0, len(rows), len(rows) // len(scores.variants))


def _reading(row: Row) -> Reading:
    return Reading(row["target"], row["chunk"], row["bound"], row["fallbacks"])
