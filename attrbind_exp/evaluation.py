"""Heat maps -> counts: every expression against its mask, or every image against its label map.

Rows are written as they come; a bad sample is counted and named, it never stops the run.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attrbind_exp.batch import Heats, Loaded, Segmented, check_finite, segment_images
from attrbind_exp.data.coco import label_scene
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import classes, metrics
from attrbind_exp.scoring.summary import ClassScores, Scores
from attrbind_exp.segmentation.segmenter import Segmenter
from attrbind_exp.text.caption import Captioner
from attrbind_exp.types import Failure, Prompt, RunSettings, SampleError, Variant


def score(
    dataset: Dataset, segmenter: Segmenter, settings: RunSettings, store: RunStore, captioner: Captioner | None = None
) -> Scores | ClassScores:
    """The evaluation loop: class-wise where the dataset holds scenes, else expression by expression."""
    images = segment_images(dataset, segmenter, settings, captioner)
    if dataset.classes:
        return score_classes(dataset, images, settings, store)
    return score_expressions(dataset, images, settings, store)


def fail(failures: Iterable[Failure], scores: Scores | ClassScores, store: RunStore) -> None:
    """Count and name what cannot be scored."""
    for failure in failures:
        scores.failures.append(failure)
        store.add_failure(failure)


def score_expressions(dataset: Dataset, images: Iterable[Segmented], settings: RunSettings, store: RunStore) -> Scores:
    """Every expression against its own mask; those without a mask are only noted."""
    scores = Scores(settings.variants, described=dataset.described)
    fail(dataset.failures, scores, store)
    for image in images:
        fail(image.failures, scores, store)
        for item, heats in image.items:
            try:
                check_finite(heats)
            except SampleError as error:
                fail([Failure(item.sample.sample_id, error.reason, str(error))], scores, store)
                continue
            if item.truth is None:
                scores.unscored.append((item.sample, item.prompt))
            else:
                record_expression(item, item.truth, heats, settings, scores, store)
    return scores


def record_expression(
    item: Loaded, truth: np.ndarray, heats: Heats, settings: RunSettings, scores: Scores, store: RunStore
) -> None:
    """Count one expression under every variant and seed and write its rows."""
    scores.samples.append(item.sample)
    scores.prompts.append(item.prompt)
    distinct = {id(heat): heat for row in heats for heat in row}  # variants may share a map
    counts = {key: metrics.count_overlap(heat.values, truth) for key, heat in distinct.items()}
    for number, (variant, row) in enumerate(zip(settings.variants, heats, strict=True)):
        mine = [counts[id(heat)] for heat in row]
        scores.intersection[number].append(np.stack([hit for hit, _ in mine]))
        scores.union[number].append(np.stack([union for _, union in mine]))
        for seed, (hit, union) in zip(settings.seeds, mine, strict=True):
            each = metrics.iou(hit, union)
            store.add_row({
                "sample_id": item.sample.sample_id,
                "image_id": item.sample.image_id,
                **_variant(variant, seed),
                "expression": item.sample.text,
                **_prompt(item.prompt),
                "slices": scores.label(item.sample, item.prompt),
                "iou_at": {metrics.key(k): round(float(each[k]), 6) for k in metrics.GRID},
                "intersection": hit.tolist(),
                "union": union.tolist(),
            })  # fmt: skip


def score_classes(dataset: Dataset, images: Iterable[Segmented], settings: RunSettings, store: RunStore) -> ClassScores:
    """Every image against its label map. An image of which one class could not be segmented is one failure."""
    scores = ClassScores(settings.variants, settings.seeds, dataset.classes)
    fail(dataset.failures, scores, store)
    for image in images:
        if image.failures:
            first = image.failures[0]
            fail([Failure(image.image_id, first.reason, first.message)], scores, store)
            continue
        try:
            for _, heats in image.items:
                check_finite(heats)
            truth = label_scene(dataset.scenes[image.image_id])
        except SampleError as error:
            fail([Failure(image.image_id, error.reason, str(error))], scores, store)
            continue
        record_image(image, truth, dataset.classes, settings, scores, store)
    return scores


def record_image(
    image: Segmented, truth: np.ndarray, names: Sequence[str], settings: RunSettings, scores: ClassScores,
    store: RunStore,
) -> None:  # fmt: skip
    """Count one image under every variant and seed and write its rows."""
    scores.images.append(image.image_id)
    scores.prompts += [item.prompt for item, _ in image.items]
    labels = [names.index(item.sample.category or "") for item, _ in image.items]
    done: dict[tuple[int, ...], classes.ClassCounts] = {}
    for v, variant in enumerate(settings.variants):
        for s, seed in enumerate(settings.seeds):
            maps = [heats[v][s] for _, heats in image.items]
            key = tuple(map(id, maps))  # variants may share their maps
            if key not in done:
                done[key] = classes.count_classes({n: m.values for n, m in zip(labels, maps, strict=True)}, truth)
            counts = done[key]
            scores.counts[v][s].append(counts)
            store.add_row({
                "image_id": image.image_id,
                **_variant(variant, seed),
                "looked_for": {item.sample.category: _prompt(item.prompt) for item, _ in image.items},
                "classes": counts.classes.tolist(),
                "truth": counts.truth.tolist(),
                "predicted": counts.predicted.tolist(),
                "hit": counts.hit.tolist(),
            })  # fmt: skip


def _variant(variant: Variant, seed: int) -> dict[str, Any]:
    return {"text_processor": variant.name, "alpha": variant.alpha, "seed": seed}


def _prompt(prompt: Prompt) -> dict[str, Any]:
    parse = prompt.parse
    return {"prompt": prompt.text, "target": parse.target_text, "chunk": parse.chunk_text, "bound": prompt.bind,
            "fallbacks": list(prompt.fallbacks)}  # fmt: skip
