"""What the values of a configuration may be."""

import math
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from attrbind_exp.config.variants import is_real, variants
from attrbind_exp.types import ChunkRule, PoolingRule, PrefixRule, UncondRule, UserError

CHOICES: dict[str, tuple[Any, ...]] = {
    "text_processor.chunk": get_args(ChunkRule),
    "text_processor.chunk_prefix": get_args(PrefixRule),
    "text_processor.uncond": get_args(UncondRule),
    "text_processor.token_pooling": get_args(PoolingRule),
    "text_processor.gate": (True, False),
    "text_processor.ing_rule": (True, False),
    "model.dtype": ("auto", "fp32", "fp16", "bf16"),
}
LEAST: dict[str, int] = {
    "batch_size": 1,
    "gallery": 0,
    "changed": 0,
    "seed": 0,
    "seeds": 1,
    "model.draws": 1,
    "dataset.limit": 1,
}


def check_choices(cfg: DictConfig) -> None:
    """Raise UserError for the first value outside its key's choices."""
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key)
        if value not in choices:
            raise UserError(f"{key}={value!r}; choose from {', '.join(map(str, choices))}")


def check(cfg: DictConfig) -> None:
    """Raise UserError for the first value that makes no sense."""
    check_choices(cfg)
    check_threshold(cfg.threshold.value)
    for key, least in LEAST.items():
        value = OmegaConf.select(cfg, key)
        if key == "batch_size" and value == "auto":
            continue
        if value is not None and (not isinstance(value, int) or value < least):
            raise UserError(f"{key}={value!r}; give a whole number >= {least}")
    size = cfg.model.size
    if size is not None and not isinstance(size, int) and (len(size) != 2 or not all(isinstance(n, int) for n in size)):
        raise UserError(f"model.size={size}; give one whole number or [height,width], in pixels")
    variants(cfg)


def check_threshold(value: Any) -> None:
    """Raise UserError unless a threshold is null or lies on the grid of hundredths from 0 to 1."""
    if value is not None and not (is_real(value) and 0 <= value <= 1 and math.isclose(value * 100, round(value * 100))):
        raise UserError(f"threshold={value}; give a number between 0 and 1 in steps of 0.01, or one of grid")
