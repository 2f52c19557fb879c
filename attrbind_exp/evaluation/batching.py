"""Samples -> heat maps under every variant and seed: passes filled across images, expressions and variants."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from attrbind_exp.backbones.backbone import Embedding
from attrbind_exp.edits.chain import EditedPrompt
from attrbind_exp.evaluation.heat import start_heat_maps
from attrbind_exp.evaluation.loading import (
    WORKERS,
    LoadedSample,
    delay_by_one,
    map_ahead,
    read_files,
    start_loading,
)
from attrbind_exp.evaluation.passes import Batcher, LoadedExpression, LoadedImage, PassRow
from attrbind_exp.evaluation.weighing import Weights, weigh
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import SegmentedImage
from attrbind_exp.types import Sample

Images = Mapping[str, Sequence[Sample]]  # samples by image id

EDITED = 256  # embeddings that are made together: each of SD 1.5 takes 0.24 MB


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
    """Read and parse images, group by group and before the caller asks for them. Their expressions are encoded as they
    are taken; those of an image must be taken before the next image is."""
    groups = split_into_groups(images, settings.batch_size)
    samples = [[sample for group in part.values() for sample in group] for part in groups]
    read = map_ahead(lambda part: read_files(part, segmenter), samples, depth=WORKERS)
    started = delay_by_one(start_loading(found, segmenter, captioner) for found in read)
    for group, finish in zip(groups, started, strict=True):
        loaded, failed = finish()
        edited = edit_loaded(loaded, segmenter, settings)
        for image in group:
            failures = [failure for sample, failure in failed if sample.image_id == image]
            count = sum(x.sample.image_id == image for x in loaded)
            yield LoadedImage(image, count, islice(edited, count), failures)


def edit_loaded(
    loaded: Sequence[LoadedSample], segmenter: Segmenter, settings: RunSettings
) -> Iterator[LoadedExpression]:
    """Each expression with the rows that it needs. Variants with one embedding share a row, and so do embeddings that
    only differ in what is read; so do expressions of one image that have the same embeddings and read the same
    positions of them."""
    size = max(1, EDITED // len(settings.variants))
    image = ""
    known: dict[Hashable, PassRow] = {}
    weights = deque(weigh(loaded, segmenter, settings))
    for part in (loaded[i : i + size] for i in range(0, len(loaded), size)):
        edited = deque(segmenter.edit([item.prompt for item in part], settings.variants))
        for item in part:
            if item.sample.image_id != image:
                image, known = item.sample.image_id, {}
            # Not kept here, so that a row alone holds its embeddings.
            yield find_rows(item, edited.popleft(), known, weights.popleft())


def find_rows(
    item: LoadedSample, edited: EditedPrompt, known: dict[Hashable, PassRow], weights: Weights
) -> LoadedExpression:
    """A sample with the rows that it needs, among them those that are `known` of its image; that grows. `weights` are
    its text's, so a row that is blind to the text has none."""
    rows: list[PassRow] = []
    new: list[PassRow] = []
    places: dict[int, tuple[int, int]] = {}
    for group in share_passes(edited.embeddings):
        key = (tuple(edited.keys[n] for n in group), item.prompt.read)
        if key not in known:
            own = {} if edited.blind[group[0]] else weights
            known[key] = PassRow(item, [edited.embeddings[n] for n in group], own)
            new.append(known[key])
        places |= {n: (len(rows), place) for place, n in enumerate(group)}
        rows.append(known[key])
    return LoadedExpression(item, rows, [places[n] for n in range(len(places))], edited.index, new)


def share_passes(embeddings: Sequence[Embedding]) -> list[list[int]]:
    """The numbers of a sample's distinct embeddings, together where one pass serves them."""
    groups: list[list[int]] = []
    for number, embedding in enumerate(embeddings):
        group = next((group for group in groups if embeddings[group[0]].shares_pass(embedding)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups


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
        for item in image.coming:
            image.items.append(item)
            waiting += item.new
            while len(waiting) >= batcher.size:
                part, waiting = waiting[: batcher.size], waiting[batcher.size :]
                batcher.run(part)
                yield from (finish() for finish in started)
                started = []
                while line and line[0].has_all_maps:
                    started.append(start_heat_maps(line.popleft(), segmenter, settings))
    batcher.run(waiting)
    yield from (finish() for finish in started)
    yield from (start_heat_maps(image, segmenter, settings)() for image in line)
