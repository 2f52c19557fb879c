"""Scoring expressions: each against the mask of the object that it names."""

from array import array
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import ClassVar

import msgspec
import numpy as np

from attrbind_exp.data.dataset import Dataset
from attrbind_exp.data.masks import decode_mask
from attrbind_exp.edits import Variant
from attrbind_exp.edits.variant import find_shorter
from attrbind_exp.runs.levels import Levels, distinct, names_of
from attrbind_exp.runs.rows import ExpressionRow, Row
from attrbind_exp.scoring import binding, metrics
from attrbind_exp.scoring.binding import BindingScores, Sighting
from attrbind_exp.scoring.compare import estimate, paired_differences
from attrbind_exp.scoring.counting import Prepared
from attrbind_exp.scoring.expressions import ExpressionScores
from attrbind_exp.scoring.figures import Beyond, Estimate, Reference, SliceFigures, VariantFigures
from attrbind_exp.scoring.references import ReferenceScores
from attrbind_exp.tasks.measured import measure_heat
from attrbind_exp.tasks.objects import Masks, known_masks, object_masks
from attrbind_exp.tasks.references import Measured, References, measure_references, with_references
from attrbind_exp.tasks.rows import cells, check_complete, prompt_columns, under_variant
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import (
    Gallery,
    HeatOf,
    Panel,
    Picture,
    Segmented,
    SegmentedImage,
    Tally,
    spread_out,
)
from attrbind_exp.types import Failure, Sample, SampleError

Labels = Mapping[str, str | Sequence[str]]


class ExpressionTask:
    """Expressions with masks. A row is one expression under one variant and seed (runs.rows.ExpressionRow)."""

    scored: ClassVar[str] = "expressions"

    def __init__(self, dataset: Dataset, settings: RunSettings):
        self.settings, self.described = settings, dataset.described
        self._by_id = {s.sample_id: s for s in dataset.samples}
        self._scores = ExpressionScores(settings.variants, len(settings.seeds), settings.threshold)
        self._binding = BindingScores(dataset.samples)
        self._references = ReferenceScores()
        self._samples: list[Sample] = []
        self._unscored: list[Sample] = []
        self._labels: list[Labels] = []
        self._shared: dict[Hashable, Labels] = {}  # equal labels once
        self._measured = {name: array("d") for name in settings.metrics}  # (n, V, S) by metric of one's own
        self._fallbacks: Counter[str] = Counter()
        self._n_bound = 0

    def count(self, image: SegmentedImage) -> tuple[list[Row], list[Failure]]:
        """One row a variant and seed of each expression, in this order."""
        rows: list[Row] = []
        failures = list(image.failures)
        decoded = known_masks([(item.sample, item.truth) for item in image.items])
        measured: Measured = {}
        prepared: Prepared = {}
        for item in image.items:
            try:
                rows += self._count(item, decoded, measured, prepared)
            except SampleError as error:
                failures.append(Failure(item.sample.sample_id, error.reason, str(error)))
        return rows, failures

    def _count(self, item: Segmented, decoded: Masks, measured: Measured, prepared: Prepared) -> list[ExpressionRow]:
        sample = item.sample
        labels = {} if self.described else {"modifier": list(item.prompt.parse.modifiers)}
        words = ExpressionRow(
            sample_id=sample.sample_id,
            image_id=sample.image_id,
            text_processor="",
            alpha=None,
            seed=0,
            expression=sample.text,
            **msgspec.structs.asdict(prompt_columns(item.prompt)),
            slices={**sample.slices, **labels},
            iou_at=None,
            intersection=None,
            union=None,
        )
        masks = object_masks(sample, item.truth, decoded)
        counted: list[ExpressionRow] = []
        found: References = {}
        for heats in item.parts():
            counted += measure_heat(words, heats, sample, masks, prepared, self.settings)
            if masks is not None:
                found = measure_references(sample, masks, item.grid, heats, measured, self.settings.refinement)
        variants, seeds = self.settings.variants, self.settings.seeds
        rows = [under_variant(counted[item.index[v][s]], variants[v], seeds[s]) for v, s in cells(self.settings)]
        return with_references(rows, found)

    def recount(self, rows: Sequence[Row], heat: HeatOf) -> list[Row]:
        """One row a variant and seed of each expression, in this order."""
        made: list[Row] = []
        decoded: Masks = {}
        variants, seeds = self.settings.variants, self.settings.seeds
        for part in _by_sample(rows):
            words, sample = msgspec.structs.replace(part[0], references={}), self._by_id[part[0].sample_id]
            expression: list[ExpressionRow] = []
            prepared: Prepared = {}
            truth = None if sample.segmentation is None else decode_mask(sample.segmentation, sample.size)
            masks = object_masks(sample, truth, decoded)
            for v, s in cells(self.settings):
                given = heat(sample, variants[v], s)[None]
                (counted,) = measure_heat(words, given, sample, masks, prepared, self.settings)
                expression.append(under_variant(counted, variants[v], seeds[s]))
            made += with_references(expression, part[0].references)
        return made

    def levels(self, rows: Sequence[Row], heat: HeatOf) -> Iterator[Levels]:
        """The heat of each expression that has rows."""
        variants, seeds = self.settings.variants, self.settings.seeds
        for name in names_of(rows):
            heats = (heat(self._by_id[name], variants[v], s) for v, s in cells(self.settings))
            maps = ((metrics.find_level(values), None) for values in heats)
            yield distinct(name, maps, (len(variants), len(seeds)))

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Add the expressions of one image."""
        for part in _by_sample(rows):
            check_complete(part, self.settings)
            self._add(part)

    def _add(self, rows: Sequence[ExpressionRow]) -> None:
        """Add one expression: its rows by variant and seed."""
        first, sample = rows[0], self._by_id[rows[0].sample_id]
        if first.intersection is None:
            self._unscored.append(sample)
            return
        shape = (len(self.settings.variants), len(self.settings.seeds))
        counts = np.array([[row.intersection, row.union] for row in rows], np.int64)  # (V S, 2, K)
        self._scores.add(counts[:, 0].reshape(*shape, -1), counts[:, 1].reshape(*shape, -1))
        self._references.add(first.references)
        if first.peak is not None:
            found = [Sighting(row.peak or "", row.heat_on or {}) for row in rows]
            self._binding.add(sample, [found[i : i + shape[1]] for i in range(0, len(found), shape[1])])
        for name, values in self._measured.items():
            values.extend(row.metrics.get(name, np.nan) for row in rows)
        self._samples.append(sample)
        key = tuple((name, value if isinstance(value, str) else tuple(value)) for name, value in first.slices.items())
        self._labels.append(self._shared.setdefault(key, first.slices))
        self._fallbacks.update(first.fallbacks)
        self._n_bound += first.bound

    def tally(self) -> Tally:
        """Expressions; prompts are those of expressions with a ground truth."""
        return Tally(len(self._samples), len(self._unscored), self._n_bound, dict(sorted(self._fallbacks.items())))

    def figures(self) -> list[VariantFigures]:
        """Of every variant: overlap, slices, where the heat lies, your own metrics, the difference to the first one,
        what its last edit adds."""
        overlap = [self._scores.figures(v) for v in range(len(self.settings.variants))]
        if not self._samples:
            return overlap
        images = [s.image_id for s in self._samples]
        each = np.stack([100 * self._scores.iou(v, f.threshold) for v, f in enumerate(overlap)])  # (V, n)
        others = range(1, len(overlap))
        differences = [None, *paired_differences(each[0], each[1:], images, counted=self._changes(overlap, 0, others))]
        beyond = self._beyond(overlap, each, images)
        bindings = self._binding.figures() if self._binding.samples else [None] * len(overlap)
        rows = metrics.slice_rows(self._labels)
        return [
            replace(
                found,
                slices=self._slices(each[v], v, rows),
                binding=bindings[v],
                difference=differences[v],
                beyond=beyond.get(v),
                metrics={name: self._metric(name, v, images) for name in self.settings.metrics},
            )
            for v, found in enumerate(overlap)
        ]

    def _changes(self, overlap: Sequence[VariantFigures], first: int, others: Sequence[int]) -> Iterator[np.ndarray]:
        """The change in IoU (n,) from one variant to others, all at the first one's threshold."""
        threshold = overlap[first].threshold
        base = self._scores.iou(first, threshold)
        return (self._scores.iou(v, threshold) - base for v in others)

    def _beyond(self, overlap: Sequence[VariantFigures], each: np.ndarray, images: Sequence[str]) -> dict[int, Beyond]:
        """What the last edit of a variant adds, by its number, from IoU `each` (V, n) in percent at own thresholds."""
        shorter = find_shorter(self.settings.variants)
        found: dict[int, Beyond] = {}
        for first in {s for s in shorter if s is not None}:
            longer = [v for v, s in enumerate(shorter) if s == first]
            changes = self._changes(overlap, first, longer)
            added = paired_differences(each[first], each[longer], images, counted=changes)
            found |= {v: Beyond(overlap[first].label, d) for v, d in zip(longer, added, strict=True)}
        return found

    def references(self) -> list[Reference]:
        """The union of all objects and the centre, floors; the ceiling of the map's grid."""
        return self._references.figures()

    def _slices(
        self, iou: np.ndarray, variant: int, rows: Mapping[str, Mapping[str, np.ndarray]]
    ) -> dict[str, dict[str, SliceFigures]]:
        """The figures of the rows of every slice value, from IoU (n,) in percent."""
        shares = self._binding.peak_shares(variant) if len(self._binding.samples) == len(iou) else None
        return {
            name: {value: _slice(iou, shares, found) for value, found in values.items()}
            for name, values in rows.items()
        }

    def _metric(self, name: str, variant: int, images: Sequence[str]) -> Estimate:
        """A metric of one's own, mean over noise seeds, then over the expressions that have a value."""
        shape = (-1, len(self.settings.variants), len(self.settings.seeds))
        values = np.array(np.asarray(self._measured[name]).reshape(shape)[:, variant], order="C").mean(-1)  # (n,)
        known = ~np.isnan(values)
        return estimate(values[known], np.array(images)[known])

    def curve(self, variant: int) -> np.ndarray:
        """mIoU in percent at all thresholds, (K,)."""
        return self._scores.curve(variant)

    def galleries(self, figures: Sequence[VariantFigures], shown: Sequence[Variant]) -> list[Gallery]:
        """Expressions spread over the run, the most improved and the most harmed ones."""
        settings = self.settings
        found = [*self._samples, *self._unscored]
        picked = [found[i] for i in spread_out(settings.gallery, len(found))]
        spread = Gallery("gallery", shown, [Picture(s.sample_id, s.text, [s]) for s in picked])
        pair = [settings.variants[0], settings.variants[settings.headline]]
        changed = self._most_changed(figures)
        return [spread, *(Gallery(name, pair, chosen, figures[0].threshold) for name, chosen in changed.items())]

    def _most_changed(self, figures: Sequence[VariantFigures]) -> dict[str, list[Picture]]:
        """The expressions that gained and lost most IoU from the first variant to the one that heads the summary, both
        at the first one's threshold, so that a change is one of the map; nothing where a run has one variant."""
        ours = self.settings.headline % len(self.settings.variants)
        if ours == 0 or not self._samples:
            return {}
        base, new = (100 * self._scores.iou(v, figures[0].threshold) for v in (0, ours))
        change = new - base
        order = np.argsort(-change, kind="stable")
        chosen = {"improved": order[change[order] > 0], "harmed": order[::-1][change[order[::-1]] < 0]}

        def picture(row: int) -> Picture:
            sample = self._samples[row]
            return Picture(sample.sample_id, f"{sample.text}   IoU {base[row]:.1f} -> {new[row]:.1f}", [sample])

        return {name: [picture(row) for row in rows[: self.settings.changed]] for name, rows in chosen.items()}

    def panels(
        self, items: Sequence[Segmented], gallery: Gallery, figures: Sequence[VariantFigures]
    ) -> dict[str, Panel]:
        """Image | ground truth | heat map of each variant, with the outlines of its mask and of the truth."""
        (item,) = items
        panels = {"image": Panel("photo")}
        if item.truth is not None:
            panels["ground truth"] = Panel("mask", item.truth, truth=item.truth)
        for i, variant in enumerate(gallery.variants):
            threshold = gallery.threshold_of(variant, figures, self.settings.headline)
            panels[variant.label] = Panel("heat", item.heat(i, 0).values, threshold, item.truth)
        return panels


def _by_sample(rows: Sequence[Row]) -> list[list[ExpressionRow]]:
    found = groupby((row for row in rows if isinstance(row, ExpressionRow)), lambda row: row.sample_id)
    return [list(part) for _, part in found]


def _slice(iou: np.ndarray, shares: np.ndarray | None, rows: np.ndarray) -> SliceFigures:
    """The figures of some rows of IoU (n,) and of peak shares (places, n)."""
    peak = None
    if shares is not None:
        peak = {place: float(100 * shares[i][rows].mean()) for i, place in enumerate(binding.PLACES)}
    return SliceFigures(float(iou[rows].mean()), len(rows), peak)
