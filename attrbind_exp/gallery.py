"""What the numbers look like: samples spread over the run, the most improved and the most harmed expressions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attrbind_exp.batch import Heats, Loaded, load_batch, segment_batch
from attrbind_exp.data.coco import label_scene
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.runs import figures
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import classes
from attrbind_exp.scoring.summary import ClassScores, Scores, expression_iou
from attrbind_exp.segmentation.segmenter import BASELINE, Segmenter
from attrbind_exp.text.caption import Captioner
from attrbind_exp.types import RunSettings, Sample, Variant

MANY = 5  # variants; of more only the one that heads the summary is drawn

Pictures = dict[str, Path]  # by caption


def draw_galleries(
    dataset: Dataset, scores: Scores | ClassScores, summary: dict[str, Any], segmenter: Segmenter,
    settings: RunSettings, store: RunStore, captioner: Captioner | None,
) -> dict[str, Pictures]:  # fmt: skip
    """All galleries of a run by name; each is also stacked into NAME.png."""
    if isinstance(scores, ClassScores):
        galleries = {"gallery": draw_scenes(dataset, scores, summary, segmenter, settings, store, captioner)}
    else:
        picks = spread_out([*scores.samples, *scores.unscored], settings.gallery)
        titled = [(sample, sample.text) for sample in picks]
        galleries = {
            "gallery": draw_expressions(
                "gallery", titled, shown_variants(settings), segmenter, settings, store, captioner
            )
        }
        for name, chosen in most_changed(scores, summary, settings).items():
            pair = [settings.variants[0], settings.variants[settings.headline]]
            galleries[name] = draw_expressions(name, chosen, pair, segmenter, settings, store, captioner)
    for name, pictures in galleries.items():
        figures.sheet(list(pictures.values()), store.folder / f"{name}.png")
    return galleries


def shown_variants(settings: RunSettings) -> list[Variant]:
    """The baseline first, then all variants where they are few, else the one that heads the summary."""
    many = len(settings.variants) > MANY
    ours = [settings.variants[settings.headline]] if many else settings.variants
    return [BASELINE, *(v for v in ours if v != BASELINE)]


def spread_out(items: Sequence[Any], count: int) -> list[Any]:
    """`count` items at even distances from first to last."""
    rows = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[row] for row in rows]


def most_changed(scores: Scores, summary: dict[str, Any], settings: RunSettings) -> dict[str, list[tuple[Sample, str]]]:
    """The expressions that gained and lost most IoU from the first variant to the one that heads the summary, both at
    the first one's threshold, so that a change is one of the map; nothing where a run has one variant."""
    ours = settings.headline % len(settings.variants)
    if ours == 0 or not scores.samples:
        return {}
    threshold = summary["variants"][0]["threshold"]
    base, new = (100 * expression_iou(scores, v, threshold) for v in (0, ours))
    change = new - base
    order = np.argsort(-change, kind="stable")
    chosen = {"improved": order[change[order] > 0], "harmed": order[::-1][change[order[::-1]] < 0]}
    return {
        name: [
            (scores.samples[i], f"{scores.samples[i].text}   IoU {base[i]:.1f} -> {new[i]:.1f}")
            for i in rows[: settings.changed]
        ]
        for name, rows in chosen.items()
    }


def draw_expressions(
    name: str, chosen: Sequence[tuple[Sample, str]], variants: Sequence[Variant], segmenter: Segmenter,
    settings: RunSettings, store: RunStore, captioner: Captioner | None,
) -> Pictures:  # fmt: skip
    """Image | ground truth | heat map of each variant, one picture an expression under its title."""
    drawing = replace(settings, variants=variants, seeds=settings.seeds[:1])
    pictures: Pictures = {}
    for number, (sample, title) in enumerate(chosen):
        loaded, _ = load_batch([sample], segmenter, captioner)
        heats = next(segment_batch(loaded, segmenter, drawing))
        image, truth = np.asarray(loaded[0].image), loaded[0].truth
        panels = {"image": image}
        if truth is not None:
            panels["ground truth"] = figures.outline(image, truth)
        panels |= {v.label: figures.overlay(image, row[0].values) for v, row in zip(variants, heats, strict=True)}
        pictures[f"{sample.sample_id} {title}"] = figures.panels(panels, title, store.gallery_path(name, number))
    return pictures


def draw_scenes(
    dataset: Dataset, scores: ClassScores, summary: dict[str, Any], segmenter: Segmenter, settings: RunSettings,
    store: RunStore, captioner: Captioner | None,
) -> Pictures:  # fmt: skip
    """Image | label map | prediction of each variant at its own threshold, one picture an image."""
    variants = shown_variants(settings)
    thresholds = {e["label"]: e["threshold"] for e in summary["variants"]}
    drawing = replace(settings, variants=variants, seeds=settings.seeds[:1])
    pictures: Pictures = {}
    for number, image_id in enumerate(spread_out(scores.images, settings.gallery)):
        loaded, _ = load_batch([s for s in dataset.samples if s.image_id == image_id], segmenter, captioner)
        if not loaded:
            continue  # no class was looked for: there is no picture to show
        heats = list(segment_batch(loaded, segmenter, drawing))
        image = np.asarray(loaded[0].image)
        panels = {"image": image, "ground truth": figures.paint(image, label_scene(dataset.scenes[image_id]))}
        for v, variant in enumerate(variants):
            threshold = thresholds.get(variant.label, summary["threshold"])
            panels[variant.label] = figures.paint(image, predicted(loaded, heats, v, threshold, dataset.classes))
        words = ", ".join(item.sample.text for item in loaded)
        pictures[f"{image_id} {words}"] = figures.panels(panels, words, store.gallery_path("gallery", number))
    return pictures


def predicted(
    loaded: Sequence[Loaded], heats: Sequence[Heats], variant: int, threshold: float, names: Sequence[str]
) -> np.ndarray:
    """Label map (H, W) of one image: the class of the highest heat where that reaches the threshold, else 0."""
    maps = {
        names.index(item.sample.category or ""): h[variant][0].values for item, h in zip(loaded, heats, strict=True)
    }
    best, value = classes.predict(maps, next(iter(maps.values())).shape)  # type: ignore[arg-type]
    return np.where(value >= np.float32(threshold), best, 0).astype(np.uint8)
