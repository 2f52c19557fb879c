"""Rows that have their maps -> heat maps at the size of the picture.

A heat map is as large as its picture. An image of a hundred expressions or variants has more of them than memory
holds: only the first are made ahead, the others when they are asked for.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch

from attrbind_exp.backbones.tensors import to_host
from attrbind_exp.evaluation.passes import LoadedExpression, LoadedImage
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.runs.maps import KeptMaps
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import HeatMap

# Bytes of an image's heat maps that are made before they are asked for: four expressions under eleven variants on a
# picture of 640 x 480 take 54 MB.
AHEAD = 60_000_000
TOGETHER = 16  # heat maps that are resized at once

Start = Callable[[range], Callable[[], Sequence[HeatMap]]]  # queue the maps of these numbers; the result waits for them


class HeatMaps(Sequence[HeatMap]):
    """The distinct heat maps of one expression. The first `ahead` are queued on the device at once, and kept; each of
    the others is made whenever it is asked for, and not kept."""

    def __init__(self, start: Start, count: int, ahead: int):
        self._start, self._count = start, count
        self._queued = [start(part) for part in _split(range(min(count, ahead)))]
        self._made: list[HeatMap] = []

    def wait(self) -> "HeatMaps":
        """Itself, once the maps that were queued are there."""
        self._made += [heat for finish in self._queued for heat in finish()]
        self._queued = []
        return self

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> HeatMap: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[HeatMap]: ...
    def __getitem__(self, number: int | slice) -> HeatMap | Sequence[HeatMap]:
        if isinstance(number, slice):
            return [self[i] for i in range(self._count)[number]]
        number = range(self._count)[number]
        return self._made[number] if number < len(self._made) else self._start(range(number, number + 1))()[0]

    def __iter__(self) -> Iterator[HeatMap]:
        yield from self._made
        for part in _split(range(len(self._made), self._count)):
            yield from self._start(part)()


def give_back_memory(image: SegmentedImage) -> None:
    """After an image with more heat maps than AHEAD, give what was freed back to the system.

    glibc keeps freed pieces of this size for later ones. Over forty such pictures its heap grew to 3.5 GB, where 1 GB
    was in use. For other images this would cost more than it gives.
    """
    size = sum(4 * item.image.width * item.image.height * len(item.heats) for item in image.items)
    if size > AHEAD and sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _split(numbers: range) -> list[range]:
    return [numbers[i : i + TOGETHER] for i in range(0, len(numbers), TOGETHER)]


def start_heat_maps(image: LoadedImage, segmenter: Segmenter, settings: RunSettings) -> Callable[[], SegmentedImage]:
    """Queue an image's heat maps on the device, as many as AHEAD allows; calling the result waits for them.

    Variants and seeds of one expression are resized together; those of one embedding and one reading are made once.
    """
    started = []
    keep = start_keeping(image, segmenter, settings) if settings.keep_maps and image.items else None
    left = AHEAD
    for item in image.items:
        wanted = [
            [(embedding, variant.heatmap, variant.layers, seed) for seed in settings.seeds]
            for variant, embedding in zip(settings.variants, item.index, strict=True)
        ]
        distinct = list(dict.fromkeys(key for of_variant in wanted for key in of_variant))
        numbers = {key: number for number, key in enumerate(distinct)}
        index = [[numbers[key] for key in of_variant] for of_variant in wanted]
        size = 4 * item.loaded.image.height * item.loaded.image.width
        heats = HeatMaps(_starter(item, distinct, segmenter), len(distinct), left // size)
        left -= size * min(len(distinct), left // size)
        h, w = item.rows[0].maps[settings.seeds[0]].shape[-2:]
        started.append((item.loaded, heats, index, (h, w)))

    def finish() -> SegmentedImage:
        items = [
            Segmented(loaded.sample, loaded.image, loaded.truth, loaded.prompt, heats.wait(), index, grid)
            for loaded, heats, index, grid in started
        ]
        digest = image.items[0].loaded.digest if image.items else ""
        return SegmentedImage(image.image_id, items, image.failures, digest, keep() if keep else None)

    return finish


def _starter(
    item: LoadedExpression, distinct: Sequence[tuple[int, str | None, str | None, int]], segmenter: Segmenter
) -> Start:
    """How to queue an expression's heat maps, by (embedding, heat-map method, choice of layers, seed)."""
    size = (item.loaded.image.height, item.loaded.image.width)

    def start(part: range) -> Callable[[], Sequence[HeatMap]]:
        chosen = distinct[part.start : part.stop]
        maps = torch.stack([item.maps(embedding, seed) for embedding, _, _, seed in chosen])
        return segmenter.start_heat_maps(maps, size, [(heatmap, layers) for _, heatmap, layers, _ in chosen])

    return start


def start_keeping(image: LoadedImage, segmenter: Segmenter, settings: RunSettings) -> Callable[[], KeptMaps]:
    """Queue the copy of an image's completed maps to the host; calling the result waits for it."""
    seeds = settings.seeds
    wait = to_host(torch.stack([x.maps(i, seed) for x in image.items for i in range(len(x.places)) for seed in seeds]))
    places: dict[str, list[list[int]]] = {}
    first = 0  # of the image's embeddings
    for item in image.items:
        places[item.loaded.sample.sample_id] = [
            [(first + embedding) * len(seeds) + s for s in range(len(seeds))] for embedding in item.index
        ]
        first += len(item.places)
    variants = [v.edit for v in settings.variants]
    layers = [(x.name, x.block, x.ratio, x.cross) for x in segmenter.plan.layers]
    return lambda: KeptMaps(wait().numpy(), segmenter.plan.columns, places, variants, layers)
