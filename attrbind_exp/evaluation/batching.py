"""Samples -> heat maps under every variant and seed: passes filled across images, expressions and variants."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.backbones.tensors import to_host
from attrbind_exp.evaluation.loading import (
    WORKERS,
    LoadedSample,
    delay_by_one,
    map_ahead,
    read_files,
    start_loading,
)
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.runs.maps import KeptMaps
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import Failure, Sample

Images = Mapping[str, Sequence[Sample]]  # samples by image id


@dataclass
class PassRow:
    """One picture under one embedding: a row of a pass. `maps`: its completed maps (C, h, w) by noise seed, once they
    are made."""

    loaded: LoadedSample
    embedding: Embedding
    maps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedExpression:
    """One expression with the rows that it needs: one for every distinct embedding; `index[variant]` says which of them
    a variant reads."""

    loaded: LoadedSample
    rows: Sequence[PassRow]
    index: Sequence[int]


@dataclass(frozen=True)
class LoadedImage:
    """One image on its way: its expressions, and what failed so far."""

    image_id: str
    items: Sequence[LoadedExpression]
    failures: Sequence[Failure]

    @property
    def rows(self) -> list[PassRow]:
        """The rows of all expressions."""
        return [row for item in self.items for row in item.rows]


def split_into_groups(images: Images, size: int) -> list[dict[str, Sequence[Sample]]]:
    """Groups that are read and parsed together: as many images as have up to `size` expressions, at least one."""
    groups: list[dict[str, Sequence[Sample]]] = [{}]
    filled = 0
    for image, samples in images.items():
        weight = max(1, len(samples))
        if groups[-1] and filled + weight > size:
            groups.append({})
            filled = 0
        groups[-1][image] = samples
        filled += weight
    return groups


def segment_images(
    images: Images, segmenter: Segmenter, settings: RunSettings, captioner: Captioner | None = None, done: int = 0
) -> Iterator[SegmentedImage]:
    """Every image in order, the first `done` left out."""
    left = dict(list(images.items())[done:])
    return segment(load_images(left, segmenter, settings, captioner), segmenter, settings)


def load_images(
    images: Images, segmenter: Segmenter, settings: RunSettings, captioner: Captioner | None
) -> Iterator[LoadedImage]:
    """Read, parse and encode images, group by group and before the caller asks for them."""
    groups = split_into_groups(images, settings.batch_size)
    samples = [[sample for group in part.values() for sample in group] for part in groups]
    read = map_ahead(lambda part: read_files(part, segmenter), samples, depth=WORKERS)
    started = delay_by_one(start_loading(found, segmenter, captioner) for found in read)
    for group, finish in zip(groups, started, strict=True):
        loaded, failed = finish()
        items = edit_loaded(loaded, segmenter, settings)
        for image in group:
            failures = [failure for sample, failure in failed if sample.image_id == image]
            yield LoadedImage(image, [x for x in items if x.loaded.sample.image_id == image], failures)


def edit_loaded(loaded: Sequence[LoadedSample], segmenter: Segmenter, settings: RunSettings) -> list[LoadedExpression]:
    """The rows that each expression needs. Variants with one embedding share a row."""
    edited = segmenter.edit([item.prompt for item in loaded], settings.variants) if loaded else []
    return [
        LoadedExpression(item, [PassRow(item, embedding) for embedding in found.embeddings], found.index)
        for item, found in zip(loaded, edited, strict=True)
    ]


def segment(images: Iterable[LoadedImage], segmenter: Segmenter, settings: RunSettings) -> Iterator[SegmentedImage]:
    """Heat maps of every image, in order. Rows wait until they fill a pass, whichever images they are of.

    An image's heat maps are queued on the device before the next pass is, and waited for after it, so that who scores
    them does not keep the device waiting.
    """
    batcher = Batcher(segmenter, settings)
    waiting: list[PassRow] = []
    line: deque[LoadedImage] = deque()  # images whose rows are not all made
    started: list[Callable[[], SegmentedImage]] = []
    for image in images:
        line.append(image)
        waiting += image.rows
        while len(waiting) >= batcher.size:
            part, waiting = waiting[: batcher.size], waiting[batcher.size :]
            batcher.run(part)
            yield from (finish() for finish in started)
            started = []
            while line and all(row.maps for row in line[0].rows):
                started.append(start_heat_maps(line.popleft(), segmenter, settings))
    batcher.run(waiting)
    yield from (finish() for finish in started)
    yield from (start_heat_maps(image, segmenter, settings)() for image in line)


class Batcher:
    """Makes passes of `size` rows. Where memory runs out the size is halved and the pass made again."""

    def __init__(self, segmenter: Segmenter, settings: RunSettings):
        self.segmenter, self.seeds, self.size = segmenter, settings.seeds, settings.batch_size

    def run(self, rows: Sequence[PassRow]) -> None:
        """Give every row its maps."""
        while rows:
            part = rows[: self.size]
            if (maps := self._complete(part)) is None:
                self._halve()
                continue
            for seed, found in maps.items():
                for row, columns in zip(part, found, strict=True):
                    row.maps[seed] = columns
            rows = rows[len(part) :]

    def _complete(self, part: Sequence[PassRow]) -> dict[int, Tensor] | None:
        """Completed maps (B, C, h, w) by seed, None where they do not fit into memory."""
        pictures = {row.loaded.sample.image_id: row.loaded.latents for row in part}
        ids, latents = list(pictures), torch.stack(list(pictures.values()))
        images = [ids.index(row.loaded.sample.image_id) for row in part]
        prompts, embeddings = [row.loaded.prompt for row in part], [row.embedding for row in part]
        try:
            return {
                seed: self.segmenter.complete(latents, ids, prompts, embeddings, seed, self.size, images)
                for seed in self.seeds
            }
        except torch.OutOfMemoryError:
            if self.size == 1:
                raise
            return None

    def _halve(self) -> None:
        # Not in the except clause: there the error still holds the tensors that were too many.
        self.size //= 2
        torch.cuda.empty_cache()
        print(f"WARNING: out of memory: batch_size is {self.size} from here on", file=sys.stderr)


def start_heat_maps(image: LoadedImage, segmenter: Segmenter, settings: RunSettings) -> Callable[[], SegmentedImage]:
    """Queue an image's heat maps on the device; calling the result waits for them.

    Variants and seeds of one expression are resized together; those of one row and one reading are made once.
    """
    started = []
    keep = start_keeping(image, segmenter, settings) if settings.keep_maps and image.items else None
    for item in image.items:
        wanted = [
            [(row, variant.heatmap, variant.layers, seed) for seed in settings.seeds]
            for variant, row in zip(settings.variants, item.index, strict=True)
        ]
        distinct = list(dict.fromkeys(key for of_variant in wanted for key in of_variant))
        index = [[distinct.index(key) for key in of_variant] for of_variant in wanted]
        maps = torch.stack([item.rows[row].maps[seed] for row, _, _, seed in distinct])
        readings = [(heatmap, layers) for _, heatmap, layers, _ in distinct]
        size = (item.loaded.image.height, item.loaded.image.width)
        started.append((item.loaded, index, segmenter.start_heat_maps(maps, size, readings)))

    def finish() -> SegmentedImage:
        items = [
            Segmented(loaded.sample, loaded.image, loaded.truth, loaded.prompt, wait(), index)
            for loaded, index, wait in started
        ]
        digest = image.items[0].loaded.digest if image.items else ""
        return SegmentedImage(image.image_id, items, image.failures, digest, keep() if keep else None)

    return finish


def start_keeping(image: LoadedImage, segmenter: Segmenter, settings: RunSettings) -> Callable[[], KeptMaps]:
    """Queue the copy of an image's completed maps to the host; calling the result waits for it."""
    seeds = settings.seeds
    wait = to_host(torch.stack([row.maps[seed] for row in image.rows for seed in seeds]))
    places: dict[str, list[list[int]]] = {}
    first = 0  # of the image's rows
    for item in image.items:
        places[item.loaded.sample.sample_id] = [
            [(first + row) * len(seeds) + s for s in range(len(seeds))] for row in item.index
        ]
        first += len(item.rows)
    variants = [v.edit for v in settings.variants]
    layers = [(x.name, x.block, x.ratio, x.cross) for x in segmenter.plan.layers]
    return lambda: KeptMaps(wait().numpy(), segmenter.plan.columns, places, variants, layers)
