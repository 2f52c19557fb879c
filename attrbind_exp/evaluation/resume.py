"""What an earlier start of a run left: checked, added to the figures, and kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attrbind_exp.evaluation.batching import Images
from attrbind_exp.evaluation.whole import find_wrong, is_whole
from attrbind_exp.runs.progress import Progress
from attrbind_exp.runs.rows import NAME, Row, group_by_image
from attrbind_exp.runs.store import RunStore, encode_failure
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tasks.task import Task
from attrbind_exp.types import Failure, UserError


@dataclass(frozen=True)
class Resumed:
    """What an earlier start of a run has finished: so many images; the failures among them, after the dataset's own."""

    images: int
    failures: Sequence[Failure]


def resume_rows(
    images: Images,
    task: Task,
    settings: RunSettings,
    store: RunStore,
    progress: Progress,
    given: Sequence[Failure] = (),
    check: Callable[[str, Sequence[Row], Path], None] = lambda *_: None,
    beside: Callable[[Sequence[Row]], bool] = lambda _: True,
) -> Resumed:
    """Add the rows of an earlier start to the task's figures; keep these rows alone in the store, and their failures
    after the `given` ones.

    Images are scored in order, so all before the last one with a row are whole; that one may be torn and is done again.
    An image that lacks an expression without a failure for it is done again, too, and all that follow; so is one of
    which not all is there that is kept `beside` its rows. Raises UserError for a row that this run cannot have written,
    naming its line, and what `check` raises for an image and its rows.
    """
    names = list(images)
    order = {image: i for i, image in enumerate(names)}
    known = {encode_failure(failure) for failure in given}  # they come with the dataset at every start
    earlier = [failure for failure in store.read_failures() if encode_failure(failure) not in known]
    failed = {failure.sample_id for failure in earlier}
    done = kept = end = line = 0
    last: list[Row] = []  # of the image that may be torn; it ends at `end`
    for image, rows, stop in group_by_image(store.read_rows()):
        if (wrong := find_wrong(rows, images.get(image), settings)) is not None:
            raise UserError(
                f"'{store.folder / NAME}' line {line + wrong + 1} is no row that this run writes there: the file or "
                "the data was changed; remove the folder and run again"
            )
        check(image, rows, store.folder)
        between = names[done : order[image]]
        parts = [last, *([[]] * (len(between) - 1))]
        if order[image] < done or not all(
            is_whole(name, images[name], part, failed) and beside(part)
            for name, part in zip(between, parts, strict=False)
        ):
            break  # what follows is written anew
        add_rows(task, last, f"'{store.folder / NAME}' lines {line - len(last) + 1} to {line}")
        line += len(rows)
        progress.update(len(between), last, fresh=False)
        done, kept = order[image], end
        last, end = rows, stop
    owner = {sample.sample_id: image for image, samples in images.items() for sample in samples}
    failures = [*given, *(f for f in earlier if order.get(owner.get(f.sample_id, f.sample_id), done) < done)]
    store.keep(kept, failures)
    return Resumed(done, failures)


def add_rows(task: Task, rows: Sequence[Row], where: str) -> None:
    """Add rows that were read from a file. Raises UserError, saying `where` they stand, for rows that lack numbers."""
    try:
        task.add_rows(rows)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} are not what this run writes of an image ({error}); remove the folder and run again"
        ) from error
