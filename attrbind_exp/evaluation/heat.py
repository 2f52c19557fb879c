"""Rows that have their maps -> heat maps at the size of the picture.

A heat map is as large as its picture. An image of a hundred expressions or variants has more of them than memory
holds: only the first are made ahead, the others when they are asked for.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch
from torch import Tensor

from attrbind_exp.backbones.tensors import beside, counts_there, to_host
from attrbind_exp.evaluation.loading import LoadedSample
from attrbind_exp.evaluation.passes import LoadedExpression, LoadedImage
from attrbind_exp.heatmaps.refinement import RefinedMaps
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.runs.maps import KeptMaps
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Segmented, SegmentedImage
from attrbind_exp.types import HeatMap

# Bytes of an image's heat maps that are made before they are asked for: four expressions under eleven variants on a
# picture of 640 x 480 take 54 MB.
AHEAD = 60_000_000
TOGETHER = 16  # heat maps that are resized at once

Make = Callable[[Sequence[int]], Tensor]  # maps by number, (M, H, W) on the device
Start = Callable[[Sequence[int]], Callable[[], Sequence[HeatMap]]]  # queue maps by number; the result waits for them


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
    """After an image with more heat maps on the host than AHEAD, give what was freed back to the system.

    glibc keeps freed pieces of this size for later ones. Over forty such pictures its heap grew to 3.5 GB, where 1 GB
    was in use. For other images this would cost more than it gives.
    """
    here = [item for item in image.items if item.make is None]
    size = sum(4 * item.image.width * item.image.height * len(item.heats) for item in here)
    if size > AHEAD and sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _split(numbers: range) -> list[range]:
    return [numbers[i : i + TOGETHER] for i in range(0, len(numbers), TOGETHER)]


def start_heat_maps(image: LoadedImage, segmenter: Segmenter, settings: RunSettings) -> Callable[[], SegmentedImage]:
    """Queue an image's heat maps on the device, as many as AHEAD allows; calling the result waits for them.

    Variants and seeds of one expression are resized together; those of one embedding and one reading are made once.
    Where maps are counted on the device nothing is queued: they are made there when they are counted, a few at a time,
    and come to the host only where one is looked at.
    """
    there = counts_there(segmenter.backbone.device) and not (
        settings.save_masks or settings.metrics or settings.refinement
    )
    started = []
    keep = start_keeping(image, segmenter, settings) if settings.keep_maps and image.items else None
    left = 0 if there else AHEAD
    for item in image.items:
        wanted = [
            [(embedding, variant.heatmap, variant.layers, seed) for seed in settings.seeds]
            for variant, embedding in zip(settings.variants, item.index, strict=True)
        ]
        distinct = list(dict.fromkeys(key for of_variant in wanted for key in of_variant))
        numbers = {key: number for number, key in enumerate(distinct)}
        index = [[numbers[key] for key in of_variant] for of_variant in wanted]
        size = 4 * item.loaded.image.height * item.loaded.image.width
        make, start = _makers(item, distinct, segmenter)
        heats = HeatMaps(start, len(distinct), left // size)
        left -= size * min(len(distinct), left // size)
        h, w = item.rows[0].maps[settings.seeds[0]].shape[-2:]
        started.append((item.loaded, heats, index, (h, w), make if there else None))

    def refined(loaded: LoadedSample, heats: Sequence[HeatMap]) -> Sequence[HeatMap]:
        return RefinedMaps(heats, settings.refinement, loaded.image, loaded.sample) if settings.refinement else heats

    place = beside(segmenter.backbone.device)

    def finish() -> SegmentedImage:
        items = [
            Segmented(
                loaded.sample,
                loaded.image,
                loaded.truth,
                loaded.prompt,
                refined(loaded, heats.wait()),
                index,
                grid,
                make,
            )
            for loaded, heats, index, grid, make in started
        ]
        digest = image.items[0].loaded.digest if image.items else ""
        return SegmentedImage(image.image_id, items, image.failures, digest, keep() if keep else None, place)

    return finish


def _makers(
    item: LoadedExpression, distinct: Sequence[tuple[int, str | None, str | None, int]], segmenter: Segmenter
) -> tuple[Make, Start]:
    """How to make an expression's heat maps by number on the device, and how to queue them for the host. `distinct`:
    the (embedding, heat-map method, choice of layers, seed) of each."""
    size = (item.loaded.image.height, item.loaded.image.width)

    def chosen(numbers: Sequence[int]) -> tuple[Tensor, tuple[int, int], list[tuple[str | None, str | None]]]:
        found = [distinct[number] for number in numbers]
        maps = torch.stack([item.maps(embedding, seed) for embedding, _, _, seed in found])
        return maps, size, [(heatmap, layers) for _, heatmap, layers, _ in found]

    return (
        lambda numbers: segmenter.heat_maps(*chosen(numbers)),
        lambda numbers: segmenter.start_heat_maps(*chosen(numbers)),
    )


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
