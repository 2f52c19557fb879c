"""Samples -> heat maps under every variant and seed: UNet batches filled across images, expressions and variants."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from attrbind_exp.backbones.unet import to_host
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.evaluation.loading import WORKERS, Loaded, ahead, one_behind, read_samples, start_loading
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.runs.maps import KeptMaps
from attrbind_exp.types import BoundPrompt, Failure, HeatMap, RunSettings, Sample, SampleError

Heats = list[list[HeatMap]]  # [variant][seed] of one expression
Images = Mapping[str, Sequence[Sample]]  # samples by image id


@dataclass(frozen=True)
class Segmented:
    """One image: its expressions with their heat maps, what failed in it, and its maps where they are to be kept."""

    image_id: str
    items: list[tuple[Loaded, Heats]]
    failures: list[Failure]
    kept: KeptMaps | None = None


@dataclass
class Pass:
    """One picture under one embedding; `maps`: its completed maps (C, h, w) by noise seed, once they are made."""

    item: Loaded
    edit: BoundPrompt
    maps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """One image on its way: the passes of every expression, [variant] each, and what failed so far. Variants with one
    embedding share a pass."""

    image_id: str
    items: list[tuple[Loaded, list[Pass]]]
    failures: list[Failure]

    def passes(self) -> list[Pass]:
        """Every pass once."""
        return list({id(p): p for _, passes in self.items for p in passes}.values())


def by_image(dataset: Dataset) -> dict[str, list[Sample]]:
    """The samples of every image. Images of a class-wise dataset without any label are in it, too."""
    groups: dict[str, list[Sample]] = {image: [] for image in dataset.scenes}
    for sample in dataset.samples:
        groups.setdefault(sample.image_id, []).append(sample)
    return groups


def plan(images: Images, size: int) -> list[dict[str, Sequence[Sample]]]:
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
) -> Iterator[Segmented]:
    """Every image in order, the first `done` left out."""
    left = dict(list(images.items())[done:])
    return segment(open_images(left, segmenter, settings, captioner), segmenter, settings)


def open_images(
    images: Images, segmenter: Segmenter, settings: RunSettings, captioner: Captioner | None
) -> Iterator[Opened]:
    """Read, parse and encode images, group by group and ahead of who asks."""
    groups = plan(images, settings.batch_size)
    samples = [[sample for group in part.values() for sample in group] for part in groups]
    read = ahead(lambda part: read_samples(part, segmenter), samples, depth=WORKERS)
    started = one_behind(start_loading(found, segmenter, captioner) for found in read)
    for group, finish in zip(groups, started, strict=True):
        loaded, failed = finish()
        items = open_items(loaded, segmenter, settings)
        for image in group:
            failures = [failure for sample, failure in failed if sample.image_id == image]
            yield Opened(image, [x for x in items if x[0].sample.image_id == image], failures)


def open_items(
    loaded: Sequence[Loaded], segmenter: Segmenter, settings: RunSettings
) -> list[tuple[Loaded, list[Pass]]]:
    """The passes that each item needs, [variant]."""
    items = []
    bound = segmenter.text.bind([item.prompt for item in loaded], settings.variants) if loaded else []
    for item, edits in zip(loaded, bound, strict=True):
        passes = {id(edit): Pass(item, edit) for edit in edits}
        items.append((item, [passes[id(edit)] for edit in edits]))
    return items


def segment(images: Iterable[Opened], segmenter: Segmenter, settings: RunSettings) -> Iterator[Segmented]:
    """Heat maps of every image, in order. Passes wait until they fill a batch, whichever images they are of.

    An image's heat maps are queued on the device before the next batch is, and waited for after it, so that who scores
    them does not keep the device waiting.
    """
    batcher = Batcher(segmenter, settings)
    waiting: list[Pass] = []
    line: deque[Opened] = deque()  # images whose passes are not all made
    drawing: list[Callable[[], Segmented]] = []
    for image in images:
        line.append(image)
        waiting += image.passes()
        while len(waiting) >= batcher.size:
            part, waiting = waiting[: batcher.size], waiting[batcher.size :]
            batcher.run(part)
            yield from (finish() for finish in drawing)
            drawing = []
            while line and all(p.maps for p in line[0].passes()):
                drawing.append(draw(line.popleft(), segmenter, settings))
    batcher.run(waiting)
    yield from (finish() for finish in drawing)
    yield from (draw(image, segmenter, settings)() for image in line)


class Batcher:
    """Makes passes, `size` at a time. Where memory runs out the size is halved and the batch made again."""

    def __init__(self, segmenter: Segmenter, settings: RunSettings):
        self.segmenter, self.seeds, self.size = segmenter, settings.seeds, settings.batch_size

    def run(self, passes: Sequence[Pass]) -> None:
        """Give every pass its maps."""
        while passes:
            part = passes[: self.size]
            if (maps := self._complete(part)) is None:
                self._halve()
                continue
            for seed, found in maps.items():
                for one, columns in zip(part, found, strict=True):
                    one.maps[seed] = columns
            passes = passes[len(part) :]

    def _complete(self, part: Sequence[Pass]) -> dict[int, Tensor] | None:
        """Completed maps (B, C, h, w) by seed, None where they do not fit into memory."""
        pictures = {p.item.sample.image_id: p.item.latents for p in part}
        ids, latents = list(pictures), torch.stack(list(pictures.values()))
        images = [ids.index(p.item.sample.image_id) for p in part]
        edits = [p.edit for p in part]
        try:
            return {seed: self.segmenter.complete(latents, ids, edits, seed, self.size, images) for seed in self.seeds}
        except torch.OutOfMemoryError:
            if self.size == 1:
                raise
            return None

    def _halve(self) -> None:
        # Not in the except clause: there the error still holds the tensors that were too many.
        self.size //= 2
        torch.cuda.empty_cache()
        print(f"WARNING: out of memory: batch_size is {self.size} from here on", file=sys.stderr)


def draw(image: Opened, segmenter: Segmenter, settings: RunSettings) -> Callable[[], Segmented]:
    """Queue an image's heat maps on the device; to call the result is to wait for them.

    Variants and seeds of one expression are resized together; those of one pass and one choice of layers are the same
    object.
    """
    started = []
    keep = start_keeping(image, segmenter, settings) if settings.keep_maps and image.items else None
    for item, passes in image.items:
        wanted = {
            (id(one), variant.layers, seed): one.maps[seed]
            for variant, one in zip(settings.variants, passes, strict=True)
            for seed in settings.seeds
        }
        size = (item.image.height, item.image.width)
        layers = [name for _, name, _ in wanted]
        started.append((list(wanted), segmenter.start_heat_maps(torch.stack(list(wanted.values())), size, layers)))

    def finish() -> Segmented:
        items = []
        for (item, passes), (keys, wait) in zip(image.items, started, strict=True):
            heat = dict(zip(keys, wait(), strict=True))
            pairs = zip(settings.variants, passes, strict=True)
            items.append((item, [[heat[id(one), v.layers, seed] for seed in settings.seeds] for v, one in pairs]))
        return Segmented(image.image_id, items, image.failures, keep() if keep else None)

    return finish


def start_keeping(image: Opened, segmenter: Segmenter, settings: RunSettings) -> Callable[[], KeptMaps]:
    """Queue the copy of an image's completed maps to the host; to call the result is to wait for it."""
    passes = image.passes()
    row = {id(one): i * len(settings.seeds) for i, one in enumerate(passes)}
    wait = to_host(torch.stack([one.maps[seed] for one in passes for seed in settings.seeds]))
    places = {
        item.sample.sample_id: [[row[id(one)] + s for s in range(len(settings.seeds))] for one in of_item]
        for item, of_item in image.items
    }
    variants = [v.edit for v in settings.variants]
    return lambda: KeptMaps(wait(), segmenter.columns, places, variants)


def check_finite(heats: Heats) -> None:
    """Half precision can overflow: raises SampleError "not_finite" rather than let such a map become a mask."""
    if not all(np.isfinite(heat.values).all() for row in heats for heat in row):
        raise SampleError("not_finite", "a heat map holds values that are not finite; try model.dtype=bf16 or fp32")
