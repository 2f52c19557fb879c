"""python -m attrbind_exp.run: compose, build, run, print. `--help` lists the groups."""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import __version__, config
from attrbind_exp.commands import command_line
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.reporting.html.write import write_report
from attrbind_exp.reporting.tables import ablation, markdown
from attrbind_exp.runs.store import RunStore, finished
from attrbind_exp.types import RunSettings, UserError

BUNDLED = str(config.PACKAGE / "assets" / "bundled")


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="run")
@command_line.task
def main(cfg: DictConfig) -> float | None:
    """One run; returns its mIoU in percent."""
    config.check(cfg)
    config.text_settings(cfg)
    folder, key = Path(HydraConfig.get().runtime.output_dir), config.config_hash(cfg)
    if (done := finished(folder, key)) is not None:
        show(done, markdown(ablation(done)), "this run was finished before: nothing to do", folder)
        return done["mIoU"]
    dataset = config.load_dataset(cfg)
    captioner = instantiate(cfg.captioner)
    with RunStore(folder, key) as store:
        summary = evaluate(cfg, dataset, captioner, store)
    if summary["n_failed"] and summary["n_scored"] + summary["n_unscored"] == 0:
        raise UserError(
            f"none of the {summary['n_failed']} {summary['scored']} could be scored: see {store.folder}/failures.jsonl"
        )
    return summary["mIoU"]


def evaluate(cfg: DictConfig, dataset: Dataset, captioner: Any, store: RunStore) -> dict[str, Any]:
    """Build what the configuration names, run it, leave table, summary and the tracker's share. Returns the summary."""
    # Heavy libraries load only once configuration and data are known to be good.
    from attrbind_exp.backbones.unet import load_model
    from attrbind_exp.cache import Cache
    from attrbind_exp.evaluation.batch_size import fit_batch_size
    from attrbind_exp.evaluation.experiment import run_experiment
    from attrbind_exp.heatmaps.segmenter import Segmenter
    from attrbind_exp.language.processor import TextProcessor

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
    try:
        summary = run_experiment(dataset, segmenter, settings, store, tracker, captioner)
        choices = HydraConfig.get()
        summary["captioner"] = choices.runtime.choices["captioner"]
        summary["overrides"] = command_line.as_typed(choices.overrides.task)
        summary |= facts(cfg, dataset)
        write_figures(summary, store)
        write_report(store.folder)
    finally:
        upload = tracker.close()
    if flat := segmenter.flat_note():  # not in the summary: a run that was taken up again has seen a part only
        print(f"WARNING: {flat}", file=sys.stderr)
    show(summary, markdown(ablation(summary)), upload, store.folder)
    return summary


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


def facts(cfg: DictConfig, dataset: Dataset) -> dict[str, Any]:
    """What a summary says of the run's making."""
    return {
        "dataset": dataset.name,
        "split": cfg.dataset.get("split"),
        "model": cfg.model.path,
        "model_name": cfg.model.name,
        "note": note(cfg, dataset.note),
        "config_hash": config.config_hash(cfg),
        "version": __version__,
    }


def write_figures(summary: dict[str, Any], store: RunStore) -> None:
    """The table in two forms, then the summary: where that is, the run is finished."""
    table = ablation(summary)
    store.write_text("ablation.csv", table.to_csv(index=False))
    store.write_text("ablation.md", markdown(table) + "\n")
    store.write_summary(summary)


def note(cfg: DictConfig, dataset_note: str | None) -> str | None:
    """What a reader must know before believing the figures."""
    notes = [dataset_note] if dataset_note else []
    if cfg.model.path == BUNDLED and not str(cfg.dataset.root).startswith(str(config.PACKAGE)):
        notes.append("the bundled model knows only shapes: its figures on other data mean nothing")
    return "; ".join(notes) or None


def show(summary: dict[str, Any], table: str, upload: str | None, folder: Path) -> None:
    """Print the table, the counts and how to upload; the last line is the run folder."""
    print(table)
    rate = summary["n_scored"] * len(summary["variants"]) / max(summary["seconds"], 1e-9)
    what = summary["scored"]
    print(
        f"\n{summary['n_scored']} {what} scored, {summary['n_failed']} failed {summary['failures'] or ''}, "
        f"{summary['n_unscored']} without ground truth, {summary['n_bound']} prompts with a modifier to bind; "
        f"fallbacks {summary['n_fallback'] or 'none'}; {summary['seconds']:.1f} s, {rate:.0f} {what[:-1]}-variants/s"
    )
    if summary["note"]:
        print(f"NOTE: {summary['note']}")
    if upload:
        print(upload)
    print(folder)
    sys.stdout.flush()


def start() -> None:
    """python -m attrbind_exp.run"""
    command_line.run_main(main)
