"""The composed configuration. Only this room, the commands and what Hydra itself calls see a DictConfig."""

from attrbind_exp.config.checks import check, check_choices
from attrbind_exp.config.identity import config_hash
from attrbind_exp.config.places import CONF, OWN_FOLDER, PACKAGE, SWEEPS, option_files, options, own_folder
from attrbind_exp.config.settings import (
    SegmenterSettings,
    Settings,
    load_dataset,
    load_layers,
    map_settings,
    model_size,
    read_settings,
    reading_of,
    segmenter_settings,
    text_settings,
)
from attrbind_exp.config.variants import variants

__all__ = [
    "CONF",
    "OWN_FOLDER",
    "PACKAGE",
    "SWEEPS",
    "SegmenterSettings",
    "Settings",
    "check",
    "check_choices",
    "config_hash",
    "load_dataset",
    "load_layers",
    "map_settings",
    "model_size",
    "option_files",
    "options",
    "own_folder",
    "read_settings",
    "reading_of",
    "segmenter_settings",
    "text_settings",
    "variants",
]
