"""Heat maps -> rows -> a task's figures, image by image.

Rows reach the disk as they come, and all figures are made of rows, so that a run that was cut short goes on where it
stopped. A bad sample is counted and named; it never stops the run.
"""

import time

from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.evaluation.batching import segment_images
from attrbind_exp.evaluation.finish import Scored
from attrbind_exp.evaluation.loading import map_ahead
from attrbind_exp.evaluation.resume import resume_rows
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.runs.maps import write_maps
from attrbind_exp.runs.progress import Progress
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.settings import RunSettings


def score(
    dataset: Dataset, segmenter: Segmenter, settings: RunSettings, store: RunStore, captioner: Captioner | None = None
) -> Scored:
    """The evaluation loop: every image is segmented, counted and written.

    Images that an earlier start of the same run has finished are taken from the store.
    """
    started = time.perf_counter()
    task = choose_task(dataset, settings)
    number, count = settings.shard
    images = dict(list(by_image(dataset).items())[number::count])
    progress = Progress(store, len(images), settings.variants[settings.headline])
    try:
        spent = store.read_seconds() - started  # by earlier starts
        resumed = resume_rows(images, task, settings, store, progress, [] if number else dataset.failures)
        failures = list(resumed.failures)
        segmented = segment_images(images, segmenter, settings, captioner, resumed.images)
        # Counted in threads, so that counting pixels does not keep the device waiting.
        counted = map_ahead(lambda image: (image.image_id, image.kept, *task.count(image)), segmented, depth=2)
        for image, kept, rows, failed in counted:
            if kept:
                write_maps(store.folder, image, kept)
            store.add_rows(rows)
            store.add_failures(failed)
            failures += failed
            store.write_seconds(spent + time.perf_counter())
            task.add_rows(rows)
            progress.update(1, rows)
    finally:
        progress.close()
    seconds = spent + time.perf_counter()
    store.write_seconds(seconds)
    return Scored(task, failures, seconds)
