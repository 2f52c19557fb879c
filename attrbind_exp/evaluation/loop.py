"""Heat maps -> rows -> a task's figures, image by image.

Rows reach the disk as they come, and all figures are made of rows, so that a run that was cut short goes on where it
stopped. A bad sample is counted and named; it never stops the run.
"""

import time
from collections.abc import Callable
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
from attrbind_exp.runs.maps import KeptMaps, write_maps
from attrbind_exp.runs.progress import Progress
from attrbind_exp.runs.rows import Row, with_digests
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import SegmentedImage, Task
from attrbind_exp.types import Failure


def score(
    dataset: Dataset,
    segmenter: Segmenter,
    settings: RunSettings,
    store: RunStore,
    captioner: Captioner | None = None,
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
        resumed = resume_rows(images, task, settings, store, progress, given, check)
        failures = list(resumed.failures)
        watch(task, len(failures))
        segmented = segment_images(images, segmenter, settings, captioner, resumed.images)
        # Counted in threads, so that counting pixels does not keep the device waiting.
        counted = map_ahead(partial(count_image, task, dataset, images), segmented, depth=2)
        for image, kept, rows, failed in counted:
            if kept:
                write_maps(store.folder, image, kept)
            store.add_rows(rows)
            store.add_failures(failed)
            failures += failed
            store.write_seconds(spent + time.perf_counter())
            task.add_rows(rows)
            progress.update(1, rows)
            watch(task, len(failures))
    finally:
        progress.close()
    seconds = spent + time.perf_counter()
    store.write_seconds(seconds)
    return Scored(task, failures, seconds)


def count_image(
    task: Task, dataset: Dataset, images: Images, image: SegmentedImage
) -> tuple[str, KeptMaps | None, list[Row], list[Failure]]:
    """Of an image its id, the maps to be kept, its rows, which say what data they were made of, and what of it could
    not be scored. Its heat maps are let go."""
    rows, failures = task.count(image)
    give_back_memory(image)
    annotations = digest_annotations(images[image.image_id], dataset.scenes.get(image.image_id))
    return image.image_id, image.kept, with_digests(rows, annotations, image.digest), failures
