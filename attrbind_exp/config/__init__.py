"""The composed configuration. Only this room, the commands and what Hydra itself calls see a DictConfig."""

from omegaconf import OmegaConf

from attrbind_exp.config.checks import check, check_choices
from attrbind_exp.config.from_folder import naming_config, read_config, targets_in
from attrbind_exp.config.identity import config_hash
from attrbind_exp.config.score import ScoreSettings, score_settings
from attrbind_exp.config.settings import (
    SegmenterSettings,
    Settings,
    fill_reading,
    load_dataset,
    load_layers,
    map_settings,
    model_size,
    model_warning,
    read_settings,
    reading_of,
    segmenter_settings,
    shard,
    text_settings,
    with_batch_size,
)
from attrbind_exp.config.variants import variants
from attrbind_exp.paths import CONF, PACKAGE, SWEEPS, option_files, options

__all__ = [
    "CONF",
    "PACKAGE",
    "SWEEPS",
    "ScoreSettings",
    "SegmenterSettings",
    "Settings",
    "check",
    "check_choices",
    "config_hash",
    "fill_reading",
    "load_dataset",
    "load_layers",
    "map_settings",
    "model_size",
    "model_warning",
    "naming_config",
    "option_files",
    "options",
    "read_config",
    "read_settings",
    "reading_of",
    "score_settings",
    "segmenter_settings",
    "shard",
    "targets_in",
    "text_settings",
    "variants",
    "with_batch_size",
]

OmegaConf.register_new_resolver("asset", lambda name="": str(PACKAGE / "assets" / name), replace=True)
