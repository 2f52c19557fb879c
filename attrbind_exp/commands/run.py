"""python -m attrbind_exp.run: compose, build, run, print. `--help` lists the groups."""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import config
from attrbind_exp.commands import command_line
from attrbind_exp.commands.finish import describe_origin, finish, show
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.runs.store import RunStore, finished
from attrbind_exp.runs.summary import Summary
from attrbind_exp.types import RunSettings, UserError


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="run")
@command_line.task
def main(cfg: DictConfig) -> float | None:
    """One run; returns its mIoU in percent."""
    config.check(cfg)
    config.text_settings(cfg)
    folder, key = Path(HydraConfig.get().runtime.output_dir), config.config_hash(cfg)
    if (done := finished(folder, key)) is not None:
        show(done, folder, "this run was finished before: nothing to do")
        return done.mIoU
    dataset = config.load_dataset(cfg)
    check_not_empty(dataset)
    captioner = instantiate(cfg.captioner)
    with RunStore(folder, key) as store:
        summary = evaluate(cfg, dataset, captioner, store)
    if summary.n_failed and summary.n_scored + summary.n_unscored == 0:
        raise UserError(
            f"none of the {summary.n_failed} {summary.scored} could be scored: see {store.folder}/failures.jsonl"
        )
    return summary.mIoU


def evaluate(cfg: DictConfig, dataset: Dataset, captioner: Any, store: RunStore) -> Summary:
    """Build what the configuration names, run it, leave table, summary and the tracker's share. Returns the summary."""
    # Heavy libraries load only once configuration and data are known to be good.
    from attrbind_exp.backbones.unet import load_model
    from attrbind_exp.cache import Cache
    from attrbind_exp.evaluation.batch_size import fit_batch_size
    from attrbind_exp.evaluation.loop import score
    from attrbind_exp.heatmaps.segmenter import Segmenter
    from attrbind_exp.language.processor import TextProcessor
    from attrbind_exp.reporting import figures
    from attrbind_exp.reporting.gallery import Artist
    from attrbind_exp.reporting.track import track_run

    cache = None if cfg.cache.folder is None else Cache(cfg.cache.folder, cfg.cache.gigabytes)
    model = load_model(cfg.model.path, cfg.model.device, cfg.model.dtype, config.model_size(cfg), cache)
    text = TextProcessor(model.tokenizer, model.encode_text, config.text_settings(cfg), cache)
    if cfg.model.compile:
        model.compile()
    segmenter = Segmenter(model, text, config.map_settings(cfg))
    batch_size = fit_batch_size(segmenter, cfg.model.batch_size) if cfg.batch_size == "auto" else cfg.batch_size
    found, headline = config.variants(cfg)
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    settings = RunSettings(
        found,
        headline,
        cfg.threshold.value,
        batch_size,
        cfg.gallery,
        cfg.changed,
        tuple(seeds),
        config.shard(cfg),
        cfg.keep_maps,
    )
    store.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    tracker = instantiate(cfg.tracker, _partial_=True)(
        folder=store.folder,
        run_config=tracked_config(cfg, settings),
        group=sweep_group(),
        tags=[dataset.name, cfg.model.name, *([str(cfg.dataset.split)] if "split" in cfg.dataset else [])],
    )
    choices = HydraConfig.get()
    origin = describe_origin(
        cfg, dataset, choices.runtime.choices["captioner"], command_line.as_typed(choices.overrides.task)
    )
    try:
        scored = score(dataset, segmenter, settings, store, captioner)

        def draw(summary: Summary) -> None:
            galleries = Artist(scored.task, segmenter, settings, store, captioner).draw(summary.variants)
            curves = {v.label: scored.task.curve(i) for i, v in enumerate(settings.variants) if summary.n_scored}
            if curves:
                figures.threshold_curve(curves, store.folder / "threshold_curve.png")
            track_run(summary, curves, store.folder, tracker, galleries)

        summary = finish(scored, headline, origin, store, draw)
    finally:
        upload = tracker.close()
    if flat := segmenter.flat_note():  # not in the summary: a run that was taken up again has seen a part only
        print(f"WARNING: {flat}", file=sys.stderr)
    show(summary, store.folder, upload)
    return summary


def check_not_empty(dataset: Dataset) -> None:
    """Raise UserError when the split is empty."""
    if not dataset.samples and not dataset.failures and not dataset.scenes:
        raise UserError(f"no expressions in {dataset.name}; choose another dataset.split or a larger dataset.fraction")


def tracked_config(cfg: DictConfig, settings: RunSettings) -> dict[str, Any]:
    """The resolved configuration with `alpha` a number in every run, so that a tracker can draw by it: the headline
    variant's; 1 where nothing is averaged, which comes to the same embedding."""
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    alpha = settings.variants[settings.headline].alpha
    return resolved | {"alpha": 1.0 if alpha is None else alpha, "alphas": config.alphas(cfg)}


def sweep_group() -> str | None:
    """The name under which a tracker keeps the runs of a sweep together; None for a single run."""
    job = HydraConfig.get()
    return command_line.group_name(job.sweep.dir) if job.mode == RunMode.MULTIRUN else None


def start() -> None:
    """python -m attrbind_exp.run"""
    command_line.run_main(main)
