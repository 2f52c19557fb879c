"""What the numbers look like: samples spread over the run, the most improved and the most harmed expressions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from attrbind_exp.data.coco import label_scene
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.evaluation.batching import Heats, segment_images
from attrbind_exp.evaluation.loading import Loaded
from attrbind_exp.heatmaps.segmenter import BASELINE, Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.reporting import figures
from attrbind_exp.runs.store import RunStore
from attrbind_exp.scoring import classes
from attrbind_exp.scoring.summary import ClassScores, Scores, expression_iou
from attrbind_exp.types import RunSettings, Sample, Variant

MANY = 5  # variants; of more only the one that heads the summary is drawn

Pictures = dict[str, Path]  # by caption


@dataclass(frozen=True)
class Artist:
    """All that drawing needs: heat maps are made again for the few samples that become pictures."""

    dataset: Dataset
    segmenter: Segmenter
    settings: RunSettings
    store: RunStore
    captioner: Captioner | None = None

    def draw(self, scores: Scores | ClassScores, summary: dict[str, Any]) -> dict[str, Pictures]:
        """All galleries of a run by name; each is also stacked into NAME.png."""
        if isinstance(scores, ClassScores):
            galleries = {"gallery": self.draw_scenes(scores, summary)}
        else:
            settings = self.settings
            picks = spread_out([*scores.samples, *scores.unscored], settings.gallery)
            pair = [settings.variants[0], settings.variants[settings.headline]]
            wanted = {"gallery": ([(sample, sample.text) for sample in picks], shown_variants(settings))}
            wanted |= {name: (chosen, pair) for name, chosen in most_changed(scores, summary, settings).items()}
            galleries = {name: self.draw_expressions(name, *chosen) for name, chosen in wanted.items()}
        for name, pictures in galleries.items():
            figures.sheet(list(pictures.values()), self.store.folder / f"{name}.png")
        return galleries

    def draw_expressions(
        self, name: str, chosen: Sequence[tuple[Sample, str]], variants: Sequence[Variant]
    ) -> Pictures:
        """Image | ground truth | heat map of each variant, one picture an expression under its title."""
        rank = {sample.sample_id: number for number, (sample, _) in enumerate(chosen)}
        drawn: dict[int, tuple[str, Path]] = {}
        for item, heats in chain.from_iterable(self._segment([sample for sample, _ in chosen], variants)):
            image, number = np.asarray(item.image), rank[item.sample.sample_id]
            panels = {"image": image}
            if item.truth is not None:
                panels["ground truth"] = figures.outline(image, item.truth)
            panels |= {v.label: figures.overlay(image, row[0].values) for v, row in zip(variants, heats, strict=True)}
            sample, title = chosen[number]
            path = figures.panels(panels, title, self.store.gallery_path(name, number), sample.sample_id)
            drawn[number] = f"{sample.sample_id} {title}", path
        return dict(drawn[number] for number in sorted(drawn))

    def draw_scenes(self, scores: ClassScores, summary: dict[str, Any]) -> Pictures:
        """Image | label map | prediction of each variant at its own threshold, one picture an image."""
        variants = shown_variants(self.settings)
        thresholds = {e["label"]: e["threshold"] for e in summary["variants"]}
        pictures: Pictures = {}
        picks = spread_out(scores.images, self.settings.gallery)
        for items in self._segment([s for s in self.dataset.samples if s.image_id in picks], variants):
            image_id = items[0][0].sample.image_id
            image, truth = np.asarray(items[0][0].image), label_scene(self.dataset.scenes[image_id])
            panels = {"image": image, "ground truth": figures.paint(image, truth)}
            for v, variant in enumerate(variants):
                threshold = thresholds.get(variant.label, summary["threshold"])
                maps = {item.sample.category or "": heats[v][0].values for item, heats in items}
                panels[variant.label] = figures.paint(image, predicted(maps, threshold, self.dataset.classes))
            words = ", ".join(item.sample.text for item, _ in items)
            path = figures.panels(panels, words, self.store.gallery_path("gallery", picks.index(image_id)), image_id)
            pictures[f"{image_id} {words}"] = path
        return pictures

    def _segment(
        self, samples: Sequence[Sample], variants: Sequence[Variant]
    ) -> Iterator[Sequence[tuple[Loaded, Heats]]]:
        """Heat maps of samples that were scored before, image by image, under the first noise seed."""
        images: dict[str, list[Sample]] = {}
        for sample in samples:
            images.setdefault(sample.image_id, []).append(sample)
        drawing = replace(self.settings, variants=variants, seeds=self.settings.seeds[:1], keep_maps=False)
        made = segment_images(images, self.segmenter, drawing, self.captioner)
        return (image.items for image in made if image.items)


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


def predicted(maps: Mapping[str, np.ndarray], threshold: float, names: Sequence[str]) -> np.ndarray:
    """Label map (H, W) of one image from heat maps by class: the class of the highest heat where that reaches the
    threshold, else 0."""
    size = next(iter(maps.values())).shape
    best, value = classes.predict({names.index(name): heat for name, heat in maps.items()}, size)  # type: ignore[arg-type]
    return np.where(value >= np.float32(threshold), best, 0).astype(np.uint8)
