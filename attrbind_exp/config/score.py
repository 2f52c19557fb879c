"""The composed configuration of the command score -> ScoreSettings: a dataset and another system's predictions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.config.checks import check_choices, check_numbers
from attrbind_exp.config.identity import config_hash
from attrbind_exp.config.options import check_options
from attrbind_exp.config.settings import load_dataset, text_settings
from attrbind_exp.data.dataset import Dataset
from attrbind_exp.edits.variant import is_ours
from attrbind_exp.scoring.metric import Metric
from attrbind_exp.types import Missing, TextSettings, UserError

KEPT = ("dataset", "threshold", "metric", "predictions", "name", "variant", "missing", "gallery")
READ = ("template", "chunk", "gate", "overrides")  # of text_processor: without a model nothing else is


@dataclass(frozen=True)
class ScoreSettings:
    """One scoring, as its configuration says.

    `system`: its name in tables; `variant`: which of several that save_masks wrote; `missing`: what an expression
    without a prediction is; `threshold`: None = best of the grid; `text`: how words are read, for the slices; `yaml`:
    the configuration, as config.yaml has it; `key`: a hash over all of it that can change a figure.
    """

    system: str
    predictions: Path
    variant: str | None
    missing: Missing
    threshold: float | None
    gallery: int
    metrics: Mapping[str, Metric]
    text: TextSettings
    split: str | None
    load_dataset: Callable[[], Dataset]
    yaml: str
    key: str


def score_settings(cfg: DictConfig) -> ScoreSettings:
    """The ScoreSettings of a composed configuration. Raises UserError for the first value that makes no sense."""
    if OmegaConf.is_missing(cfg, "predictions") or not str(cfg.predictions).strip():
        raise UserError("no predictions given; use predictions=FILE.json, FILE.npz or FOLDER, and name=NAME")
    check_options(cfg)
    check_choices(cfg)
    check_numbers(cfg)
    path = Path(str(cfg.predictions)).expanduser()
    kept = OmegaConf.create(
        {key: cfg[key] for key in KEPT} | {"text_processor": {k: cfg.text_processor[k] for k in READ}}
    )
    kept.name = system = system_name(cfg.name, cfg.variant, path)
    split = cfg.dataset.get("split")
    return ScoreSettings(
        system=system,
        predictions=path,
        variant=None if cfg.variant is None else str(cfg.variant),
        missing=cfg.missing,
        threshold=cfg.threshold.value,
        gallery=cfg.gallery,
        metrics={name: instantiate(metric, _convert_="all") for name, metric in cfg.metric.items()},
        text=text_settings(cfg),
        split=None if split is None else str(split),
        load_dataset=lambda: load_dataset(cfg),
        yaml=OmegaConf.to_yaml(kept, resolve=True),
        key=config_hash(kept),
    )


def system_name(given: object, variant: object, path: Path) -> str:
    """The name that was given, else the variant's, the file's or the folder's. Raises UserError for one that labels of
    our own have."""
    name = " ".join(str(next(found for found in (given, variant, path.stem) if found is not None)).split())
    if not name or is_ours(name):
        raise UserError(f"name='{name}' is what variants of our own are called; give name=NAME, the system's")
    return name
