"""Class-wise scoring: the classes looked for in an image against its label map."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import msgspec
import numpy as np

from attrbind_exp.data.coco import label_scene
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.edits import Variant
from attrbind_exp.edits.variant import find_shorter
from attrbind_exp.runs.levels import Levels, distinct, names_of
from attrbind_exp.runs.rows import ImageRow, Row
from attrbind_exp.scoring import classes, metrics
from attrbind_exp.scoring.classes import ClassCounts, ClassScores
from attrbind_exp.scoring.compare import class_difference
from attrbind_exp.scoring.counting import Maps
from attrbind_exp.scoring.figures import Beyond, Difference, Reference, SliceFigures, VariantFigures
from attrbind_exp.tasks.rows import cells, check_complete, prompt_columns, under_variant
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Gallery, HeatOf, Panel, Picture, Segmented, SegmentedImage, Tally, spread_out
from attrbind_exp.types import Failure, Sample, SampleError

COUNTS = ("classes", "truth", "predicted", "hit")


class ClassTask:
    """Images with a label map. A row is one image under one variant and seed (runs.rows.ImageRow)."""

    scored: ClassVar[str] = "images"

    def __init__(self, dataset: Dataset, settings: RunSettings):
        self.settings, self.dataset = settings, dataset
        self._images = by_image(dataset)
        self._scores = ClassScores(len(settings.variants), len(settings.seeds), dataset.classes, settings.threshold)
        self._added: list[str] = []
        self._fallbacks: Counter[str] = Counter()
        self._n_bound = 0

    def count(self, image: SegmentedImage) -> tuple[list[Row], list[Failure]]:
        """One row a variant and seed, in this order. An image of which one class could not be segmented is one
        failure."""
        try:
            if image.failures:
                raise SampleError(image.failures[0].reason, image.failures[0].message)
            for item in image.items:
                item.check_finite()
            truth = label_scene(self.dataset.scenes[image.image_id])
        except SampleError as error:
            return [], [Failure(image.image_id, error.reason, str(error))]
        return self._count(image, truth), []

    def _count(self, image: SegmentedImage, truth: np.ndarray) -> list[Row]:
        words = ImageRow(
            image_id=image.image_id,
            text_processor="",
            alpha=None,
            seed=0,
            looked_for={item.sample.category or "": prompt_columns(item.prompt) for item in image.items},
            classes=[],
            truth=[],
            predicted=[],
            hit=[],
        )
        rows: list[Row] = []
        done: dict[tuple[int, ...], ImageRow] = {}
        for v, s in cells(self.settings):
            key = tuple(item.index[v][s] for item in image.items)  # variants may share their maps
            if key not in done:
                done[key] = self._measure(words, [(i.sample, i.map_to_count(v, s)) for i in image.items], truth)
            rows.append(under_variant(done[key], self.settings.variants[v], self.settings.seeds[s]))
        return rows

    def recount(self, rows: Sequence[Row], heat: HeatOf) -> list[Row]:
        """One row a variant and seed, in this order."""
        words = _image_rows(rows)[0]
        truth = label_scene(self.dataset.scenes[words.image_id])
        variants, seeds = self.settings.variants, self.settings.seeds
        made: list[Row] = []
        for v, s in cells(self.settings):
            heats = [(sample, heat(sample, variants[v], s)) for sample in self._images[words.image_id]]
            made.append(under_variant(self._measure(words, heats, truth), variants[v], seeds[s]))
        return made

    def levels(self, rows: Sequence[Row], heat: HeatOf) -> Iterator[Levels]:
        """The best class of every pixel and its heat, of the image that has rows."""
        variants, shape = self.settings.variants, (len(self.settings.variants), len(self.settings.seeds))
        for name in names_of(rows):
            maps = (self._best(name, variants[v], s, heat) for v, s in cells(self.settings))
            yield distinct(name, maps, shape)

    def _best(self, image_id: str, variant: Variant, seed: int, heat: HeatOf) -> tuple[np.ndarray, np.ndarray]:
        """The level (H, W) and label (H, W), uint8 both, of the best class of every pixel; 0 where none is looked
        for."""
        heats = {self._label(sample): heat(sample, variant, seed) for sample in self._images[image_id]}
        best, value = classes.predict(heats, self.dataset.scenes[image_id].size)
        return metrics.find_level(np.maximum(value, 0)), best

    def _measure(self, row: ImageRow, heats: Sequence[tuple[Sample, Maps]], truth: np.ndarray) -> ImageRow:
        """The row with the counts of heat maps (H, W) against a label map (H, W)."""
        counts = classes.count_classes({self._label(sample): heat for sample, heat in heats}, truth)
        return msgspec.structs.replace(row, **{name: getattr(counts, name).tolist() for name in COUNTS})

    def _label(self, sample: Sample) -> int:
        return self.dataset.classes.index(sample.category or "")

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Add one image."""
        found = _image_rows(rows)
        if not found:
            return
        check_complete(found, self.settings)
        counts = [ClassCounts(*(np.array(getattr(row, name), np.int64) for name in COUNTS)) for row in found]
        seeds = len(self.settings.seeds)
        self._scores.add([counts[i : i + seeds] for i in range(0, len(counts), seeds)])
        self._added.append(found[0].image_id)
        self._fallbacks.update(rule for words in found[0].looked_for.values() for rule in words.fallbacks)
        self._n_bound += sum(words.bound for words in found[0].looked_for.values())

    def tally(self) -> Tally:
        """Images; prompts are those of the classes looked for in them."""
        return Tally(len(self._added), 0, self._n_bound, dict(sorted(self._fallbacks.items())))

    def figures(self) -> list[VariantFigures]:
        """Of every variant: class-wise mIoU, IoU of each class, the difference to the first variant, what its last edit
        adds."""
        found = [self._figures(v, variant) for v, variant in enumerate(self.settings.variants)]
        if not self._added:
            return found
        rows = [round(100 * (f.threshold or 0)) for f in found]
        # One variant's tables at a time, beside those of the one that it is compared to.
        differences = [None, *(self._difference(0, v, rows) for v in range(1, len(rows)))]
        shorter = find_shorter(self.settings.variants)
        beyond = [
            None if s is None else Beyond(found[s].label, self._difference(s, v, rows)) for v, s in enumerate(shorter)
        ]
        return [replace(f, difference=d, beyond=b) for f, d, b in zip(found, differences, beyond, strict=True)]

    def _difference(self, first: int, second: int, rows: Sequence[int]) -> Difference:
        """Of two variants, each at its own of the `rows` of THRESHOLDS; counted at the first one's."""
        base, mine = (self._scores.table(v, rows[v]) for v in (first, second))
        at_one = mine if rows[first] == rows[second] else self._scores.table(second, rows[first])
        return class_difference(base, mine, counted=at_one)

    def references(self) -> list[Reference]:
        """None. A union of all objects and a centre prior belong to no class, and the ceiling of a grid is one of a
        single mask; here classes compete for each pixel. The text-blind variant is the floor."""
        return []

    def _figures(self, number: int, variant: Variant) -> VariantFigures:
        by_seed = self._scores.mean_iou(number)  # (S, K)
        curve = by_seed.mean(0)
        row = metrics.best_row(curve, self.settings.threshold)
        each, present = self._scores.class_iou(number, row)
        mIoU_by_seed, mIoU_spread = metrics.spread(by_seed[:, row])
        by_class = {
            name: SliceFigures(float(each[c]), int(self._scores.n_images[c]))
            for c, name in enumerate(self.dataset.classes)
            if present[c]
        }
        return VariantFigures(
            variant.name,
            variant.alpha,
            variant.label,
            mIoU=float(curve[row]) if self._added else None,
            threshold=row / 100,
            mIoU_at={metrics.key(k): float(curve[k]) for k in metrics.GRID},
            oIoU=None,
            precision=dict.fromkeys(f"{p:g}" for p in metrics.PRECISIONS),
            n=len(self._added),
            slices={"class": by_class},
            mIoU_by_seed=mIoU_by_seed,
            mIoU_spread=mIoU_spread,
        )

    def curve(self, variant: int) -> np.ndarray:
        """mIoU in percent at all thresholds of the background, (K,)."""
        return self._scores.mean_iou(variant).mean(0)

    def galleries(self, figures: Sequence[VariantFigures], shown: Sequence[Variant]) -> list[Gallery]:
        """Images spread over the run."""
        picked = [self._added[i] for i in spread_out(self.settings.gallery, len(self._added))]
        samples = {image: self._images[image] for image in picked}
        pictures = [Picture(image, ", ".join(s.text for s in samples[image]), samples[image]) for image in picked]
        return [Gallery("gallery", shown, pictures)]

    def panels(
        self, items: Sequence[Segmented], gallery: Gallery, figures: Sequence[VariantFigures]
    ) -> dict[str, Panel]:
        """Image | label map | prediction of each variant at its own threshold."""
        truth = label_scene(self.dataset.scenes[items[0].sample.image_id])
        names = dict(enumerate(self.dataset.classes))
        found = {"image": Panel("photo"), "ground truth": Panel("labels", truth, names=names)}
        for v, variant in enumerate(gallery.variants):
            threshold = gallery.threshold_of(variant, figures, self.settings.headline) or 0
            heats = {self._label(item.sample): item.heat(v, 0).values for item in items}
            best, value = classes.predict(heats, truth.shape)
            labels = np.where(value >= np.float32(threshold), best, 0).astype(np.uint8)
            found[variant.label] = Panel("labels", labels, threshold, names=names)
        return found


def _image_rows(rows: Sequence[Row]) -> list[ImageRow]:
    return [row for row in rows if isinstance(row, ImageRow)]
