"""Samples -> heat maps under every variant and seed: UNet batches filled across images, expressions and variants."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrbind_exp.backbones.unet import to_host
from attrbind_exp.data.dataset import by_image
from attrbind_exp.evaluation.loading import WORKERS, Loaded, ahead, one_behind, read_samples, start_loading
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.runs.maps import KeptMaps
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import BoundPrompt, Failure, RunSettings, Sample

__all__ = ["by_image", "segment_images"]
Images = Mapping[str, Sequence[Sample]]  # samples by image id


@dataclass
class Pass:
    """One picture under one embedding; `maps`: its completed maps (C, h, w) by noise seed, once they are made."""

    item: Loaded
    edit: BoundPrompt
    maps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenItem:
    """One expression on its way: each of its passes once, and which of them every variant reads. Variants with one
    embedding share a pass."""

    item: Loaded
    passes: list[Pass]
    index: list[int]


@dataclass(frozen=True)
class Opened:
    """One image on its way: its expressions, and what failed so far."""

    image_id: str
    items: list[OpenItem]
    failures: list[Failure]

    def passes(self) -> list[Pass]:
        """Every pass once."""
        return [p for open_item in self.items for p in open_item.passes]


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
) -> Iterator[SegmentedImage]:
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
            yield Opened(image, [x for x in items if x.item.sample.image_id == image], failures)


def open_items(loaded: Sequence[Loaded], segmenter: Segmenter, settings: RunSettings) -> list[OpenItem]:
    """The passes that each item needs."""
    items = []
    bound = segmenter.text.bind([item.prompt for item in loaded], settings.variants) if loaded else []
    for item, edits in zip(loaded, bound, strict=True):
        distinct = [edit for i, edit in enumerate(edits) if not any(edit is other for other in edits[:i])]
        index = [next(i for i, other in enumerate(distinct) if edit is other) for edit in edits]
        items.append(OpenItem(item, [Pass(item, edit) for edit in distinct], index))
    return items


def segment(images: Iterable[Opened], segmenter: Segmenter, settings: RunSettings) -> Iterator[SegmentedImage]:
    """Heat maps of every image, in order. Passes wait until they fill a batch, whichever images they are of.

    An image's heat maps are queued on the device before the next batch is, and waited for after it, so that who scores
    them does not keep the device waiting.
    """
    batcher = Batcher(segmenter, settings)
    waiting: list[Pass] = []
    line: deque[Opened] = deque()  # images whose passes are not all made
    drawing: list[Callable[[], SegmentedImage]] = []
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


def draw(image: Opened, segmenter: Segmenter, settings: RunSettings) -> Callable[[], SegmentedImage]:
    """Queue an image's heat maps on the device; to call the result is to wait for them.

    Variants and seeds of one expression are resized together; those of one pass and one choice of layers are the same
    object.
    """
    started = []
    keep = start_keeping(image, segmenter, settings) if settings.keep_maps and image.items else None
    for one in image.items:
        wanted = [
            [(number, variant.layers, seed) for seed in settings.seeds]
            for variant, number in zip(settings.variants, one.index, strict=True)
        ]
        distinct = list(dict.fromkeys(key for row in wanted for key in row))
        index = [[distinct.index(key) for key in row] for row in wanted]
        size = (one.item.image.height, one.item.image.width)
        maps = torch.stack([one.passes[number].maps[seed] for number, _, seed in distinct])
        started.append((one.item, segmenter.start_heat_maps(maps, size, [name for _, name, _ in distinct]), index))

    def finish() -> SegmentedImage:
        items = [
            Segmented(item.sample, item.image, item.truth, item.prompt, wait(), index) for item, wait, index in started
        ]
        return SegmentedImage(image.image_id, items, image.failures, keep() if keep else None)

    return finish


def start_keeping(image: Opened, segmenter: Segmenter, settings: RunSettings) -> Callable[[], KeptMaps]:
    """Queue the copy of an image's completed maps to the host; to call the result is to wait for it."""
    wait = to_host(torch.stack([one.maps[seed] for one in image.passes() for seed in settings.seeds]))
    places: dict[str, list[list[int]]] = {}
    count = len(settings.seeds)
    before = 0  # passes of the expressions so far
    for one in image.items:
        rows = [(before + number) * count for number in one.index]
        places[one.item.sample.sample_id] = [[row + s for s in range(count)] for row in rows]
        before += len(one.passes)
    variants = [v.edit for v in settings.variants]
    return lambda: KeptMaps(wait().numpy(), segmenter.columns, places, variants)
