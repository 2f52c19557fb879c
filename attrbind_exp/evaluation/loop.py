"""Heat maps -> rows -> a task's figures, image by image.

Rows reach the disk as they come, and all figures are made of rows, so that a run that was cut short goes on where it
stopped. A bad sample is counted and named; it never stops the run.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.data.digests import digest_annotations
from attrbind_exp.evaluation.batching import Images, segment_images
from attrbind_exp.evaluation.finish import Scored
from attrbind_exp.evaluation.heat import give_back_memory
from attrbind_exp.evaluation.loading import map_ahead
from attrbind_exp.evaluation.resume import resume_rows
from attrbind_exp.evaluation.unchanged import check_unchanged
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.runs.levels import has_levels, write_levels
from attrbind_exp.runs.maps import KeptMaps, write_maps
from attrbind_exp.runs.progress import Progress
from attrbind_exp.runs.rows import Row, with_digests
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.levels import encode_heat, heat_of
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import SegmentedImage, Task
from attrbind_exp.types import Failure

Segment = Callable[[Images, int], Iterator[SegmentedImage]]  # every image, but so many at the beginning


def score(
    dataset: Dataset,
    segmenter: Segmenter,
    settings: RunSettings,
    store: RunStore,
    captioner: Captioner | None = None,
    watch: Callable[[Task, int], None] = lambda *_: None,
) -> Scored:
    """What `score_images` does, with the heat maps of a model."""

    def segment(images: Images, done: int) -> Iterator[SegmentedImage]:
        return segment_images(images, segmenter, settings, captioner, done)

    return score_images(dataset, segment, settings, store, watch)


def score_images(
    dataset: Dataset,
    segment: Segment,
    settings: RunSettings,
    store: RunStore,
    watch: Callable[[Task, int], None] = lambda *_: None,
) -> Scored:
    """The evaluation loop: every image is segmented, counted and written.

    Images that an earlier start of the same run has finished are taken from the store. `watch` is called with the task
    so far and the number of failures: first with what was taken from the store, then after every image.
    """
    started = time.perf_counter()
    task = choose_task(dataset, settings)
    images = by_image(dataset, settings.shard)
    progress = Progress(store, len(images), settings.variants[settings.headline])
    try:
        spent = store.read_seconds() - started  # by earlier starts
        given = [] if settings.shard[0] else dataset.failures
        check = partial(check_unchanged, images, dataset.scenes, since=store.begun)
        has_heat = partial(has_levels, store.folder) if settings.save_masks else lambda _: True
        resumed = resume_rows(images, task, settings, store, progress, given, check, has_heat)
        failures = list(resumed.failures)
        progress.work.advance(0, len(failures))
        watch(task, len(failures))
        segmented = segment(images, resumed.images)
        # Counted in threads, so that counting pixels does not keep the device waiting.
        counted = map_ahead(partial(count_image, task, settings, dataset, images), segmented, depth=2)
        for image in counted:
            if image.kept:
                write_maps(store.folder, image.image_id, image.kept)
            for name, content in image.levels.items():
                write_levels(store.folder, name, content)
            store.add_rows(image.rows)
            store.add_failures(image.failures)
            failures += image.failures
            store.write_seconds(spent + time.perf_counter())
            task.add_rows(image.rows)
            progress.update(1, image.rows, len(image.failures))
            watch(task, len(failures))
    finally:
        progress.close()
    seconds = spent + time.perf_counter()
    store.write_seconds(seconds)
    return Scored(task, failures, seconds)


@dataclass(frozen=True)
class Counted:
    """What is written of an image: its rows, what of it could not be scored, the maps to be kept, and by the names of
    its samples the files of heat to be taken away."""

    image_id: str
    rows: Sequence[Row]
    failures: Sequence[Failure]
    kept: KeptMaps | None
    levels: Mapping[str, bytes]


def count_image(task: Task, settings: RunSettings, dataset: Dataset, images: Images, image: SegmentedImage) -> Counted:
    """Count an image; its rows say what data they were made of. Its heat maps are let go."""
    with image.beside():
        rows, failures = task.count(image)
    levels = encode_heat(task, settings, rows, heat_of(image, settings)) if settings.save_masks else {}
    give_back_memory(image)
    annotations = digest_annotations(images[image.image_id], dataset.scenes.get(image.image_id))
    return Counted(image.image_id, with_digests(rows, annotations, image.digest), failures, image.kept, levels)
