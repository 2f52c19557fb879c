"""The composed configuration: where it lies, what its values may be, what they mean to the rest."""

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import __version__
from attrbind_exp.language.overrides import read_overrides
from attrbind_exp.paths import CONF, PACKAGE, SWEEPS, option_files, options  # noqa: F401
from attrbind_exp.types import (
    ChunkRule,
    LayerChoice,
    MapSettings,
    PoolingRule,
    PrefixRule,
    TextSettings,
    UncondRule,
    UserError,
    Variant,
)

UNSEEN = ("tracker", "batch_size", "cache", "gallery", "changed", "report")  # change no figure
CHOICES: dict[str, tuple[Any, ...]] = {
    "text_processor.chunk": get_args(ChunkRule),
    "text_processor.chunk_prefix": get_args(PrefixRule),
    "text_processor.uncond": get_args(UncondRule),
    "text_processor.token_pooling": get_args(PoolingRule),
    "text_processor.gate": (True, False),
    "text_processor.ing_rule": (True, False),
    "model.dtype": ("auto", "fp32", "fp16", "bf16"),
}

OmegaConf.register_new_resolver("asset", lambda name="": str(PACKAGE / "assets" / name), replace=True)


def check_choices(cfg: DictConfig) -> None:
    """Raise UserError for the first value outside its key's choices."""
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key)
        if value not in choices:
            raise UserError(f"{key}={value!r}; choose from {', '.join(map(str, choices))}")


def check(cfg: DictConfig) -> None:
    """Raise UserError for the first value that makes no sense."""
    check_choices(cfg)
    for alpha in [*alphas(cfg), *(m.alpha for m in cfg.text_processor.methods if m.get("alpha") is not None)]:
        if not _is_real(alpha) or alpha < 0:
            raise UserError(
                f"alpha={alpha}; give a finite number >= 0 (paper: 0.9), or one of {', '.join(options('alpha'))}"
            )
    value = cfg.threshold.value
    if value is not None and not (
        _is_real(value) and 0 <= value <= 1 and math.isclose(value * 100, round(value * 100))
    ):
        raise UserError(f"threshold={value}; give a number between 0 and 1 in steps of 0.01, or one of grid")
    for key, least in {
        "batch_size": 1,
        "gallery": 0,
        "changed": 0,
        "seed": 0,
        "seeds": 1,
        "model.draws": 1,
        "dataset.limit": 1,
    }.items():
        value = OmegaConf.select(cfg, key)
        if key == "batch_size" and value == "auto":
            continue
        if value is not None and (not isinstance(value, int) or value < least):
            raise UserError(f"{key}={value!r}; give a whole number >= {least}")
    size = cfg.model.size
    if size is not None and not isinstance(size, int) and (len(size) != 2 or not all(isinstance(n, int) for n in size)):
        raise UserError(f"model.size={size}; give one whole number or [height,width], in pixels")
    variants(cfg)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def alphas(cfg: DictConfig) -> list[float]:
    """The alphas of a run, one or several."""
    value = OmegaConf.to_container(cfg.alpha, resolve=True)["value"]  # type: ignore[call-overload,index]
    return value if isinstance(value, list) else [value]  # type: ignore[list-item]


def variants(cfg: DictConfig) -> tuple[list[Variant], int]:
    """The variants of a run and the number of the one that heads its summary: the method text_processor.report (the
    last where that is null), at alpha.report. A method that averages takes every alpha of the run, or its own one.

    Raises UserError where two variants would carry the same label.
    """
    found = []
    for method in cfg.text_processor.methods:
        own = method.get("alpha")
        for alpha in (alphas(cfg) if own is None else [own]) if method.average else [None]:
            weight = None if alpha is None else float(alpha)
            plain = Variant(method.name, method.replace, weight, method.get("chunk_prefix"))
            found += [replace(plain, name=f"{plain.name} layers={x}", layers=x) for x in grid_of(cfg)] or [plain]
    labels = [v.label for v in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"variant '{twice}' stands twice; give every method its own name and every alpha once")
    head = cfg.text_processor.get("report") or found[-1].edit[0]
    candidates = [i for i, v in enumerate(found) if v.edit[0] == head and v.layers == found[0].layers]
    return found, next((i for i in candidates if found[i].alpha == cfg.alpha.get("report")), candidates[-1])


def shard(cfg: DictConfig) -> tuple[int, int]:
    """(k, n) of shard=K/N, (0, 1) where there is none. Raises UserError for anything but K/N with K < N."""
    match = re.fullmatch(r"(\d+)/(\d+)", "0/1" if cfg.shard is None else str(cfg.shard))
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"shard={cfg.shard}; give K/N with K from 0 to N - 1, such as 0/7")
    return int(match[1]), int(match[2])


def text_settings(cfg: DictConfig) -> TextSettings:
    """TextSettings of the composed config. Raises UserError for a file of overrides that cannot be used."""
    t = cfg.text_processor
    overrides = {} if t.overrides is None else read_overrides(t.overrides)
    return TextSettings(t.chunk, t.chunk_prefix, t.uncond, t.token_pooling, t.gate, t.ing_rule, overrides)


def map_settings(cfg: DictConfig) -> MapSettings:
    """MapSettings of the composed config: what attention_layers leaves open is the model's own."""
    own = layer_choice(cfg, cfg.attention_layers)
    grid = {name: layer_choice(cfg, load_layers(name)) for name in grid_of(cfg)}
    steps = cfg.model.timesteps
    return MapSettings(
        timesteps=(steps,) if isinstance(steps, int) else tuple(steps),
        draws=cfg.model.draws,
        weights=own.weights,
        ratios=own.ratios,
        blocks=own.blocks,
        seed=cfg.seed,
        grid=grid,
        keep=cfg.get("keep_maps", False),
    )


def load_layers(name: str) -> Any:
    """An option of the group attention_layers."""
    return OmegaConf.load(option_files("attention_layers")[name])


def layer_choice(cfg: DictConfig, layers: Any) -> LayerChoice:
    """One option of the group attention_layers; weights that it leaves open are the model's own."""
    weights = cfg.model.weights if layers.weights is None else layers.weights
    return LayerChoice(
        None if layers.ratios is None else tuple(layers.ratios),
        None if layers.blocks is None else tuple(layers.blocks),
        {int(k): float(v) for k, v in weights.items()},
    )


def grid_of(cfg: DictConfig) -> list[str]:
    """Names of the choices of layers that a run compares, none where it has one. Raises UserError for unknown ones."""
    names = list(cfg.attention_layers.get("grid") or [])
    known = [name for name in options("attention_layers") if name != "grid"]
    if unknown := next((name for name in names if name not in known), None):
        raise UserError(f"attention_layers.grid holds {unknown!r}; choose from {', '.join(known)}")
    return names


def model_size(cfg: DictConfig) -> tuple[int, int] | None:
    """(height, width) in pixels; one number is a square."""
    size = cfg.model.size
    return None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])


def load_dataset(cfg: DictConfig) -> Any:
    """The Dataset of the composed config. `splits` speaks to sweeps, `parses` to the text processor."""
    return instantiate(OmegaConf.masked_copy(cfg.dataset, [k for k in cfg.dataset if k not in ("splits", "parses")]))


def config_hash(cfg: DictConfig) -> str:
    """Twelve hex digits over everything that can change a figure: not the tracker, batch size, device or pictures."""
    plain: dict = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    kept = {k: v for k, v in plain.items() if k not in UNSEEN}
    kept["model"] = {k: v for k, v in kept["model"].items() if k not in ("device", "batch_size")}
    files = [OmegaConf.select(cfg, key) for key in ("text_processor.overrides", "captioner.file", "dataset.labels")]
    contents = [Path(f).read_bytes() for f in files if f and Path(f).is_file()]
    text = json.dumps([__version__, kept, [hashlib.sha256(c).hexdigest() for c in contents]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
