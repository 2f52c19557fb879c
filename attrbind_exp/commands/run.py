"""python -m attrbind_exp.run: compose, build, run, print. `--help` lists the groups."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.finish import describe_origin, finish, show
from attrbind_exp.config import Settings
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.reporting.write import write_report
from attrbind_exp.runs.store import RunStore, finished
from attrbind_exp.runs.summary import Summary
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from attrbind_exp.heatmaps.segmenter import Segmenter
    from attrbind_exp.language.caption import Captioner
    from attrbind_exp.tracking.tracker import Tracker


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="run")
@command_line.task
def main(cfg: DictConfig) -> float | None:
    """One run; returns its mIoU in percent."""
    settings = config.read_settings(cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if (done := finished(folder, settings.key)) is not None:
        show(done, folder, "this run was finished before: nothing to do")
        return done.mIoU
    dataset = settings.load_dataset()
    check_not_empty(dataset)
    captioner = settings.make_captioner()
    with RunStore(folder, settings.key) as store:
        segmenter = load_segmenter(settings)
        store.write_text("config.yaml", settings.yaml)
        tracker = start_tracker(cfg, settings, dataset, folder)
        try:
            summary = evaluate(settings, dataset, segmenter, captioner, store, tracker)
        finally:
            upload = tracker.close()
    if flat := segmenter.flat_note():  # not in the summary: a run that was resumed has seen a part of the images only
        print(f"WARNING: {flat}", file=sys.stderr)
    write_report(folder)
    show(summary, folder, upload)
    if summary.n_failed and summary.n_scored + summary.n_unscored == 0:
        raise UserError(f"none of the {summary.n_failed} {summary.scored} could be scored: see {folder}/failures.jsonl")
    return summary.mIoU


def load_segmenter(settings: Settings) -> "Segmenter":
    """The model and the ways of reading it. Its libraries load here, once configuration and data are known good."""
    from attrbind_exp.commands.build import build_segmenter

    return build_segmenter(settings.segmenter)


def evaluate(
    settings: Settings,
    dataset: Dataset,
    segmenter: "Segmenter",
    captioner: "Captioner | None",
    store: RunStore,
    tracker: "Tracker",
) -> Summary:
    """Score the dataset, leave tables and pictures, tell the tracker. Returns the summary."""
    from attrbind_exp.evaluation.batch_size import fit_batch_size
    from attrbind_exp.evaluation.loop import score

    batch_size = settings.batch_size or fit_batch_size(segmenter, settings.segmenter.model.batch_size)
    run = replace(settings.run, batch_size=batch_size)
    scored = score(dataset, segmenter, run, store, captioner)

    def draw(summary: Summary) -> None:
        # Plots and tables load when there is something to draw: the first pass does not wait for them.
        from attrbind_exp.reporting import figures
        from attrbind_exp.reporting.gallery import Artist
        from attrbind_exp.reporting.track import track_run

        galleries = Artist(scored.task, segmenter, run, store, captioner).draw(summary.variants)
        curves = {v.label: scored.task.curve(i) for i, v in enumerate(run.variants) if summary.n_scored}
        if curves:
            figures.threshold_curve(curves, store.folder / "threshold_curve.png")
        track_run(summary, curves, store.folder, tracker, galleries)

    choices = HydraConfig.get()
    typed = command_line.as_typed(choices.overrides.task)
    origin = describe_origin(settings, dataset, choices.runtime.choices["captioner"], typed)
    return finish(scored, run.headline, origin, store, draw)


def check_not_empty(dataset: Dataset) -> None:
    """Raise UserError when the split is empty."""
    if not dataset.samples and not dataset.failures and not dataset.scenes:
        raise UserError(f"no expressions in {dataset.name}; choose another dataset.split or a larger dataset.fraction")


def start_tracker(cfg: DictConfig, settings: Settings, dataset: Dataset, folder: Path) -> "Tracker":
    """The tracker of a run, told where the run belongs."""
    return settings.make_tracker(
        folder=folder,
        run_config=tracked_config(cfg, settings.run),
        group=sweep_group(),
        tags=[dataset.name, settings.segmenter.model.name, *([settings.split] if settings.split else [])],
    )


def tracked_config(cfg: DictConfig, settings: RunSettings) -> dict[str, Any]:
    """The resolved configuration with `alpha` a number in every run, so that a tracker can draw by it: the headline
    variant's; 1 where nothing is averaged, which comes to the same embedding."""
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    alpha = settings.variants[settings.headline].alpha
    alphas = [v.alpha for v in settings.variants if v.alpha is not None]
    return resolved | {"alpha": 1.0 if alpha is None else alpha, "alphas": list(dict.fromkeys(alphas))}


def sweep_group() -> str | None:
    """The name under which a tracker keeps the runs of a sweep together; None for a single run."""
    job = HydraConfig.get()
    return command_line.group_name(job.sweep.dir) if job.mode == RunMode.MULTIRUN else None


def start() -> None:
    """python -m attrbind_exp.run"""
    command_line.run_main(main)
