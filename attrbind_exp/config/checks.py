"""What the values of a configuration may be."""

import math
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from attrbind_exp.config.options import check_options
from attrbind_exp.config.variants import is_real, variants
from attrbind_exp.types import CHOICES, UserError

LEAST: dict[str, int] = {
    "batch_size": 1,
    "gallery": 0,
    "changed": 0,
    "seed": 0,
    "seeds": 1,
    "model.draws": 1,
    "model.batch_size": 1,
    "captioner.batch_size": 1,
    "captioner.max_new_tokens": 1,
    "captioner.num_beams": 1,
    "captioner.max_length": 1,
    "dataset.limit": 1,
}


WEIGHTS = ("model.weights", "attention_layers.weights")
ABSENT = object()  # of a key that a command does not have


def check_choices(cfg: DictConfig) -> None:
    """Raise UserError for the first value outside its key's choices."""
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key, default=ABSENT)
        if value is not ABSENT and value not in choices:
            known = ", ".join(str(choice) for choice in choices if choice is not None)
            raise UserError(f"{key}={value!r}; choose from {known}")
    if "figure" in cfg and not isinstance(cfg.figure, DictConfig):
        raise UserError(f"figure={cfg.figure}; give its width: figure.width=single or figure.width=double")
    template = OmegaConf.select(cfg, "text_processor.template")
    if not isinstance(template, str):
        raise UserError(
            f"text_processor.template={template}; give the words before an expression, or '' for none; an "
            "option of your own begins with defaults: [_common, _self_], which has this and other keys"
        )


def check(cfg: DictConfig) -> None:
    """Raise UserError for the first value that makes no sense."""
    check_options(cfg)
    check_choices(cfg)
    check_numbers(cfg)
    size = cfg.model.size
    if size is not None and not isinstance(size, int) and (len(size) != 2 or not all(isinstance(n, int) for n in size)):
        raise UserError(f"model.size={size}; give one whole number or [height,width], in pixels")
    check_lists(cfg)
    variants(cfg)


def check_numbers(cfg: DictConfig) -> None:
    """Raise UserError for a threshold, a count or a share that cannot be one."""
    check_threshold(cfg.threshold.value)
    for key, least in LEAST.items():
        value = OmegaConf.select(cfg, key)
        if key == "batch_size" and value == "auto":
            continue
        if value is not None and (not isinstance(value, int) or value < least):
            raise UserError(f"{key}={value!r}; give a whole number >= {least}")
    fraction = cfg.get("dataset", {}).get("fraction")
    if fraction is not None and not is_real(fraction):
        raise UserError(f"dataset.fraction={fraction}; give a number above 0 and up to 1, or null for all images")


def check_lists(cfg: DictConfig) -> None:
    """Raise UserError for timesteps, ratios or blocks that are no list of what they are, and for weights that are not
    by ratio."""
    for key, kind, example in (
        ("model.timesteps", int, "a whole number, or several as [50,100]"),
        ("attention_layers.ratios", int, "a list such as [1,2]"),
        ("attention_layers.blocks", str, "a list such as [down,mid]"),
    ):
        value = OmegaConf.select(cfg, key)
        each = value if isinstance(value, ListConfig) else [value]
        one_will_do = key == "model.timesteps" or isinstance(value, ListConfig)
        if value is not None and not (one_will_do and all(type(v) is kind for v in each)):
            raise UserError(f"{key}={value}; give {example}")
    for key in WEIGHTS:
        value = OmegaConf.select(cfg, key)
        by_ratio = isinstance(value, DictConfig) and all(
            str(ratio).isdecimal() and is_real(weight) for ratio, weight in value.items()
        )
        if value is not None and not by_ratio:
            raise UserError(f"{key}={value}; give a weight for each ratio, such as {{8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}}")


def check_threshold(value: Any) -> None:
    """Raise UserError unless a threshold is null or lies on the grid of hundredths from 0 to 1."""
    if value is not None and not (is_real(value) and 0 <= value <= 1 and math.isclose(value * 100, round(value * 100))):
        raise UserError(f"threshold={value}; give a number between 0 and 1 in steps of 0.01, or one of grid")
