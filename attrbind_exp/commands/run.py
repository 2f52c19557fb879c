"""python -m attrbind_exp.run: compose, build, run, print. `--help` lists the groups."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.finish import describe_origin, finish, leave_masks, show
from attrbind_exp.commands.parts import begin_part, check_finished, tracked_parts
from attrbind_exp.commands.start import loading
from attrbind_exp.config import Settings
from attrbind_exp.data.dataset import Dataset, by_image
from attrbind_exp.evaluation.unchanged import check_unchanged
from attrbind_exp.log import log, timed
from attrbind_exp.reporting.write import write_report
from attrbind_exp.runs.configuration import kept_batch_size
from attrbind_exp.runs.ending import PARTS, Ending, missing, note_made, read_ending, write_ending
from attrbind_exp.runs.levels import has_masks
from attrbind_exp.runs.provenance import Part
from attrbind_exp.runs.rows import read_images
from attrbind_exp.runs.shown import clean
from attrbind_exp.runs.store import RunStore, finished
from attrbind_exp.runs.summary import Summary
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.tracking.tracker import tell
from attrbind_exp.types import UserError
from attrbind_exp.work import Work, each

if TYPE_CHECKING:
    import numpy as np

    from attrbind_exp.heatmaps.segmenter import Segmenter
    from attrbind_exp.language.caption import Captioner
    from attrbind_exp.reporting.gallery import Segment
    from attrbind_exp.tasks.task import Task
    from attrbind_exp.tracking.tracker import Tracker


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="run")
@command_line.task
def main(cfg: DictConfig) -> float | None:
    """One run; returns its mIoU in percent. Of a finished one what its end lacks is made; nothing is scored."""
    settings = config.read_settings(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    summary = before = finished(folder, settings.key)
    if summary is not None:
        check_finished(summary, settings, folder)
    left = PARTS if summary is None else missing(folder, (settings.run.gallery, settings.run.changed))
    said = [] if summary is None else [f"this run was finished before: {made_again(left)}"]
    if summary is None or set(left) - {"page"}:
        summary, upload = run(cfg, settings, folder, left, summary)
        said += [upload] if upload else []
    if before is not None and settings.run.save_masks:
        ask_for_masks(settings, folder, before)
    if "page" in left:
        write_page(folder)
    if settings.run.figure_width:
        from attrbind_exp.reporting.paper_figures import write_asked  # loads matplotlib

        said.append(write_asked(folder, settings.run.figure_width))
    show(summary, folder, said)
    if summary.n_failed and summary.n_scored + summary.n_unscored == 0:
        raise UserError(f"none of the {summary.n_failed} {summary.scored} could be scored: see {folder}/failures.jsonl")
    return summary.mIoU


def ask_for_masks(settings: Settings, folder: Path, summary: Summary) -> None:
    """Masks of a run that was finished before, where it has none of the form that is asked for."""
    assert settings.run.save_masks is not None
    if not has_masks(folder, settings.run.save_masks):
        leave_masks(folder, settings.load_dataset(), settings.run, summary)


def made_again(left: Sequence[str]) -> str:
    """What is done for a finished run that lacks these parts of its end."""
    return f"{', '.join(left)} made again" if left else "nothing to do"


def write_page(folder: Path) -> None:
    """The run's page, and the note that it is there."""
    with timed("the page"):
        written = write_report(folder)
    if written and read_ending(folder) is not None:
        note_made(folder, page=True)


def run(
    cfg: DictConfig, settings: Settings, folder: Path, left: Sequence[str], before: Summary | None
) -> tuple[Summary, str | None]:
    """Score the dataset, then make the parts of the end that are `left`, but the page: pictures, the tracker's share.

    `before`: the summary of a run that was finished; its rows are read and nothing is scored. Returns the summary and
    what the tracker has to say.
    """
    if settings.run.refinement and "pictures" in left:
        settings.run.refinement.check()
    with timed("reading the data"):
        dataset = settings.load_dataset()
    check_not_empty(dataset)
    captioner = settings.make_captioner()
    segmenter, upload, told = None, None, False
    with RunStore(folder, settings.key, settings.yaml) as store:
        if "pictures" in left:
            segmenter = load_segmenter(settings)
            settings = with_fitting_batch(settings, segmenter, folder)
        parts: Sequence[Part] = ()
        if before is None:
            assert segmenter is not None  # a fresh run lacks its pictures
            parts = begin_part(settings, dataset, segmenter, store)
        made = tracked_parts(parts if before is None else before)
        tracker = start_tracker(cfg, settings, dataset, folder, made) if "tracker" in left else None
        try:
            if before is None:
                assert segmenter is not None
                task, summary = evaluate(settings, dataset, segmenter, captioner, store, parts, tracker)
            else:
                task, summary = read_task(settings.run, dataset, folder), before
            if segmenter is not None:
                with timed("drawing"):
                    draw(task, summary, settings.run, segment_with(segmenter, captioner, dataset), store)
            if tracker is not None:
                told, _ = tell(partial(track, task, summary, settings.run, folder, tracker))
        finally:
            closed, upload = (False, None) if tracker is None else tell(tracker.close)
        if told and closed:
            note_made(folder, tracked=True)
    if segmenter is not None and (flat := segmenter.flat_note()):
        # Not in the summary: a run that was resumed has seen a part of the images only.
        log.warning(f"WARNING: {clean(flat, 1000)}")
    return summary, upload


def load_segmenter(settings: Settings) -> "Segmenter":
    """The model and the ways of reading it. Its libraries load here, once configuration and data are known good."""
    with loading(), timed("loading the model"), Work("loading the model"):
        from attrbind_exp.commands.build import build_segmenter

        return build_segmenter(settings.segmenter)


def with_fitting_batch(settings: Settings, segmenter: "Segmenter", folder: Path) -> Settings:
    """The settings with a batch size that fits the device. A run that goes on keeps the one that it was begun with:
    the last bits of figures depend on it."""
    from attrbind_exp.evaluation.batch_size import fit_batch_size

    batch_size = settings.batch_size or kept_batch_size(folder)
    batch_size = batch_size or fit_batch_size(segmenter, settings.segmenter.model.batch_size, settings.run.variants)
    log.debug(f"batch_size: {batch_size}")
    return config.with_batch_size(settings, batch_size)


def evaluate(
    settings: Settings,
    dataset: Dataset,
    segmenter: "Segmenter",
    captioner: "Captioner | None",
    store: RunStore,
    parts: Sequence[Part],
    tracker: "Tracker | None",
) -> tuple["Task", Summary]:
    """Score the dataset while the tracker is told how far it is; leave tables and summary, which names the run's
    `parts`."""
    from attrbind_exp.evaluation.loop import score
    from attrbind_exp.tracking.live import live_curves

    store.write_text("config.yaml", settings.yaml)
    with live_curves(tracker, settings.run) as watch, timed("scoring"):
        scored = score(dataset, segmenter, settings.run, store, captioner, watch)
    if (cache := segmenter.cache) is not None:
        log.debug(f"cache: {cache.hits} entries found, {cache.misses} made")
    choices = HydraConfig.get()
    typed = command_line.as_typed(choices.overrides.task)
    origin = describe_origin(settings, dataset, choices.runtime.choices["captioner"], typed, parts)
    write_ending(store.folder, Ending())  # before the summary: from then on the run is finished
    return scored.task, finish(scored, settings.run, dataset, origin, store)


def read_task(settings: RunSettings, dataset: Dataset, folder: Path) -> "Task":
    """The task of a finished run, of the rows that lie in its folder."""
    from attrbind_exp.tasks.choose import choose_task

    task = choose_task(dataset, settings)
    images = by_image(dataset)
    for image, rows in each(read_images(folder), "reading rows", "images", len(images)):
        check_unchanged(images, dataset.scenes, image, rows, folder)
        task.add_rows(rows)
    return task


def segment_with(segmenter: "Segmenter", captioner: "Captioner | None", dataset: Dataset) -> "Segment":
    """How pictures are segmented again by a model, to be drawn: with all of their expressions where a heat-map method
    compares these."""
    from attrbind_exp.evaluation.batching import segment_images

    whole = by_image(dataset) if segmenter.compare_texts.timesteps else {}
    return lambda images, settings: segment_images(
        {image: whole.get(image, samples) for image, samples in images.items()}, segmenter, settings, captioner
    )


def draw(task: "Task", summary: Summary, settings: RunSettings, segment: "Segment", store: RunStore) -> None:
    """Galleries and the threshold curve; written down when all are there."""
    # Plots and tables load when there is something to draw: the first pass does not wait for them.
    from attrbind_exp.reporting import plots
    from attrbind_exp.reporting.gallery import Artist

    about = f"data {summary.dataset}; model {summary.model_name}"
    galleries = Artist(task, segment, settings, store, about).draw(summary.variants)
    others = [file for name in galleries if (file := store.folder / f"{name}.png").is_file()]
    if lines := curves(task, summary, settings):
        others.append(plots.threshold_curve(lines, store.folder / "threshold_curve.png", about))
    found = {
        name: [(caption, str(file.relative_to(store.folder))) for caption, file in pictures.items()]
        for name, pictures in galleries.items()
    }
    asked = (settings.gallery, settings.changed)
    note_made(store.folder, galleries=found, plots=[file.name for file in others], asked=asked, page=False)


def track(task: "Task", summary: Summary, settings: RunSettings, folder: Path, tracker: "Tracker") -> None:
    """Tell the tracker what the folder holds."""
    from attrbind_exp.reporting.track import track_run

    drawn = (read_ending(folder) or Ending()).galleries or {}
    galleries = {name: {caption: folder / file for caption, file in found} for name, found in drawn.items()}
    alone = sweep_group() is None
    track_run(summary, curves(task, summary, settings), folder, tracker, galleries, alone)


def curves(task: "Task", summary: Summary, settings: RunSettings) -> dict[str, "np.ndarray"]:
    """mIoU in percent at every threshold by variant; none where nothing was scored."""
    return {v.label: task.curve(i) for i, v in enumerate(settings.variants) if summary.n_scored}


def check_not_empty(dataset: Dataset) -> None:
    """Raise UserError when the split is empty."""
    if not dataset.samples and not dataset.failures and not dataset.scenes:
        raise UserError(f"no expressions in {dataset.name}; choose another dataset.split or a larger dataset.fraction")


def start_tracker(
    cfg: DictConfig, settings: Settings, dataset: Dataset, folder: Path, made: Mapping[str, object]
) -> "Tracker":
    """The tracker of a run, told where the run belongs and what it was `made` of and with."""
    return settings.make_tracker(
        folder=folder,
        run_config={**tracked_config(cfg, settings.run), **made},
        name=tracked_name(settings.run, dataset, folder),
        group=sweep_group(),
        tags=[dataset.name, settings.segmenter.model.name, *([settings.split] if settings.split else [])],
    )


def tracked_config(cfg: DictConfig, settings: RunSettings) -> dict[str, Any]:
    """The resolved configuration with `alpha` a number in every run, so that a tracker can draw by it: the headline
    variant's; 1 where nothing is averaged, which comes to the same embedding."""
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    head = settings.variants[settings.headline]
    alphas = list(dict.fromkeys(v.alpha for v in settings.variants if v.alpha is not None))
    labels = {"variant": head.label, "variants": [v.label for v in settings.variants]}
    numbers = {"alpha": 1.0 if head.alpha is None else head.alpha, "alphas": alphas, "batch_size": settings.batch_size}
    return resolved | labels | numbers


def tracked_name(settings: RunSettings, dataset: Dataset, folder: Path) -> str:
    """What a run goes by in a tracker: in a sweep what was typed of it, else the variant that heads it, how many there
    are more, and the data."""
    if sweep_group() is not None:
        # Seen from the sweep's folder: a shard, 0/7, is a folder in a folder.
        return os.path.relpath(folder, HydraConfig.get().sweep.dir).replace(".value=", "=")
    more = len(settings.variants) - 1
    return f"{settings.variants[settings.headline].label}{f' and {more} more' if more else ''}, {dataset.name}"


def sweep_group() -> str | None:
    """The name under which a tracker keeps the runs of a sweep together; None for a single run."""
    job = HydraConfig.get()
    return command_line.group_name(job.sweep.dir) if job.mode == RunMode.MULTIRUN else None


def start() -> None:
    """python -m attrbind_exp.run"""
    command_line.run_main(main, "run")
