"""Heat maps -> rows -> a task's figures, image by image.

Rows reach the disk as they come, and all figures are made of rows, so that a run that was cut short goes on where it
stopped. A bad sample is counted and named; it never stops the run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.evaluation.batching import Images, segment_images
from attrbind_exp.evaluation.finish import Scored
from attrbind_exp.evaluation.loading import map_ahead
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.language.caption import Captioner
from attrbind_exp.runs.maps import write_maps
from attrbind_exp.runs.progress import Progress
from attrbind_exp.runs.rows import Row, group_by_image
from attrbind_exp.runs.store import RunStore
from attrbind_exp.tasks.choose import choose_task
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Task
from attrbind_exp.types import Failure


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
        resumed = resume_rows(images, task, store, progress)
        failures = [*([] if number else dataset.failures), *resumed.failures]
        store.add_failures(failures)
        segmented = segment_images(images, segmenter, settings, captioner, resumed.images)
        # Counted in threads, so that counting pixels does not keep the device waiting.
        counted = map_ahead(lambda image: (image, *task.count(image)), segmented, depth=2)
        for image, rows, failed in counted:
            if image.kept:
                write_maps(store.folder, image.image_id, image.kept)
            store.add_rows(rows)
            store.add_failures(failed)
            failures += failed
            task.add_rows(rows)
            progress.update(1, rows)
    finally:
        progress.close()
    return Scored(task, failures, time.perf_counter() - started)


@dataclass(frozen=True)
class Resumed:
    """What an earlier start of a run has finished: so many images, and its failures among them."""

    images: int
    failures: Sequence[Failure]


def resume_rows(images: Images, task: Task, store: RunStore, progress: Progress) -> Resumed:
    """Add the rows of an earlier start to the task's figures; keep these rows alone in the store.

    Images are scored in order, so all before the last one with a row are whole; that one may be torn and is done again.
    """
    order = {image: i for i, image in enumerate(images)}
    done = kept = end = 0
    last: list[Row] = []  # of the image that may be torn; it ends at `end`
    for image, rows, stop in group_by_image(store.read_rows()):
        if image not in order:
            continue
        if order[image] < done:
            break  # out of order: what follows is written anew
        task.add_rows(last)
        progress.update(order[image] - done, last, fresh=False)
        done, kept = order[image], end
        last, end = rows, stop
    owner = {sample.sample_id: image for image, samples in images.items() for sample in samples}
    failures = [f for f in store.read_failures() if order.get(owner.get(f.sample_id, f.sample_id), done) < done]
    store.keep(kept)
    return Resumed(done, failures)
