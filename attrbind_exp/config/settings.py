"""The composed configuration -> Settings, the one object that the rest of the package sees."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp.backbones.reading import Reading, read_reading
from attrbind_exp.backbones.weights_digest import read_loras
from attrbind_exp.config.checks import check
from attrbind_exp.config.identity import config_hash
from attrbind_exp.config.latents import latent_steps
from attrbind_exp.config.refinement import read_refinement
from attrbind_exp.config.variants import grid_of, variants
from attrbind_exp.data.broken_text import without_broken_text
from attrbind_exp.language.overrides import read_overrides
from attrbind_exp.paths import PACKAGE, option_files
from attrbind_exp.tasks.settings import RunSettings
from attrbind_exp.types import LayerChoice, MapSettings, TextSettings, UserError

if TYPE_CHECKING:  # a table of finished runs is made without loading torch
    from attrbind_exp.backbones.backbone import Backbone
    from attrbind_exp.data.dataset import Dataset
    from attrbind_exp.heatmaps.method import HeatMapMethod
    from attrbind_exp.language.caption import Captioner
    from attrbind_exp.latent_steps.method import LatentSteps
    from attrbind_exp.tracking.tracker import Tracker


@dataclass(frozen=True)
class ModelSettings:
    """Which model, where and how: `size` is (height, width) in pixels, None = the model's own; `batch_size`: rows of a
    pass, but on CUDA, where they are fitted to its memory; `compile`: fuse what reads no attention; `load` makes the
    backbone."""

    path: str
    name: str
    device: str
    dtype: str
    size: tuple[int, int] | None
    batch_size: int
    compile: bool
    load: "Callable[[], Backbone]"
    loras: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmenterSettings:
    """What a segmenter is made of; `cache_folder` None = nothing is kept, `make_methods` makes the heat-map methods,
    `latent_steps` None = noisy latents are read as they are."""

    model: ModelSettings
    text: TextSettings
    maps: MapSettings
    make_methods: "Callable[[], Mapping[str, HeatMapMethod]]"
    cache_folder: str | None = None
    cache_gigabytes: float = 0.0
    latent_steps: "LatentSteps | None" = None


@dataclass(frozen=True)
class Settings:
    """One run, as its configuration says. What takes time to load is a function that makes it.

    `batch_size`: None = fit it to the device's memory, and `run.batch_size` is the model's until then
    (with_batch_size). `warning`: what a reader must know of this model on this data. `yaml`: the whole configuration,
    as config.yaml has it; `key`: twelve hex digits over all of it that can change a figure.
    """

    run: RunSettings
    segmenter: SegmenterSettings
    batch_size: int | None
    split: str | None
    warning: str | None
    load_dataset: "Callable[[], Dataset]"
    make_captioner: "Callable[[], Captioner | None]"
    make_tracker: "Callable[..., Tracker]"
    yaml: str
    key: str


def read_settings(cfg: DictConfig) -> Settings:
    """The Settings of a composed configuration. Raises UserError for the first value that makes no sense."""
    fill_reading(cfg)
    check(cfg)
    split = cfg.dataset.get("split")
    return Settings(
        run=run_settings(cfg),
        segmenter=segmenter_settings(cfg),
        batch_size=None if cfg.batch_size == "auto" else cfg.batch_size,
        split=None if split is None else str(split),
        warning=model_warning(cfg.model.path, cfg.dataset.get("root")),
        load_dataset=lambda: load_dataset(cfg),
        make_captioner=lambda: instantiate(cfg.captioner),
        make_tracker=lambda **told: instantiate(cfg.tracker, _partial_=True)(**told),
        yaml=OmegaConf.to_yaml(cfg, resolve=True),
        key=config_hash(cfg),
    )


def with_batch_size(settings: Settings, batch_size: int) -> Settings:
    """The same run with passes of so many rows. Where its configuration said auto, it says the number now."""
    yaml = re.sub(r"^batch_size: auto$", f"batch_size: {batch_size}", settings.yaml, count=1, flags=re.MULTILINE)
    return replace(settings, batch_size=batch_size, run=replace(settings.run, batch_size=batch_size), yaml=yaml)


def run_settings(cfg: DictConfig) -> RunSettings:
    """What a run does with its data."""
    found, headline = variants(cfg)
    refinement = read_refinement(cfg)
    return RunSettings(
        found,
        headline,
        threshold=cfg.threshold.value,
        batch_size=cfg.model.batch_size if cfg.batch_size == "auto" else cfg.batch_size,
        gallery=cfg.gallery,
        changed=cfg.changed,
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.seeds)),
        shard=shard(cfg),
        keep_maps=cfg.keep_maps,
        save_masks=_unless_none(cfg, "save_masks"),
        figure_width=_unless_none(cfg, "figure.width"),
        metrics={name: instantiate(metric, _convert_="all") for name, metric in cfg.metric.items()},
        peaks=refinement is None or refinement.peaks,
        refinement=refinement,
    )


def _unless_none(cfg: DictConfig, key: str) -> Any:
    """The value of a key; None where it is none, or where the configuration is older than the key."""
    value = OmegaConf.select(cfg, key)
    return None if value == "none" else value


def segmenter_settings(cfg: DictConfig) -> SegmenterSettings:
    """What a segmenter is made of."""
    fill_reading(cfg)
    model, text, maps = model_settings(cfg), text_settings(cfg), map_settings(cfg)
    return SegmenterSettings(model, text, maps, lambda: heatmap_methods(cfg), *cache_settings(cfg), latent_steps(cfg))


def cache_settings(cfg: DictConfig) -> tuple[str | None, float]:
    """The folder of the cache, None where nothing is kept, and how many gigabytes it may hold."""
    folder, gigabytes = OmegaConf.select(cfg, "cache.folder"), OmegaConf.select(cfg, "cache.gigabytes")
    if folder is None:
        return None, 0.0
    if isinstance(gigabytes, bool) or not isinstance(gigabytes, int | float) or not gigabytes >= 0:
        raise UserError(f"cache.gigabytes={gigabytes} is no size; give a number from 0 on, or cache.folder=null")
    return str(folder), float(gigabytes)


def reading_of(cfg: DictConfig) -> Reading:
    """The timesteps and weights of a configuration in which they were filled."""
    return Reading(tuple(cfg.model.timesteps), {int(k): float(v) for k, v in cfg.model.weights.items()})


def fill_reading(cfg: DictConfig) -> None:
    """Write the model's own timesteps and weights into a configuration that leaves them open (null)."""
    reading = read_reading(str(cfg.model.path))
    if cfg.model.timesteps is None:
        cfg.model.timesteps = list(reading.timesteps)
    if cfg.model.weights is None:
        cfg.model.weights = dict(reading.weights)


def shard(cfg: DictConfig) -> tuple[int, int]:
    """(k, n) of shard=K/N, (0, 1) where there is none. Raises UserError for anything but K/N with K < N."""
    match = re.fullmatch(r"(\d+)/(\d+)", "0/1" if cfg.shard is None else str(cfg.shard))
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"shard={cfg.shard}; give K/N with K from 0 to N - 1, such as 0/7")
    return int(match[1]), int(match[2])


def text_settings(cfg: DictConfig) -> TextSettings:
    """How expressions are read. Raises UserError for a file of overrides that cannot be used."""
    t = cfg.text_processor
    overrides = {} if t.overrides is None else read_overrides(t.overrides)
    offsets = (t.ing_offsets,) if isinstance(t.ing_offsets, int) else tuple(t.ing_offsets)
    return TextSettings(t.chunk, t.token_pooling, t.gate, t.ing_rule, overrides, " ".join(t.template.split()), offsets)


def map_settings(cfg: DictConfig) -> MapSettings:
    """How attention becomes heat maps; model.timesteps null = the model's own."""
    steps = cfg.model.timesteps
    return MapSettings(
        timesteps=(steps,) if isinstance(steps, int) else tuple(steps) if steps else None,
        draws=cfg.model.draws,
        layers=layer_choice(cfg.attention_layers),
        seed=cfg.seed,
        grid={name: layer_choice(load_layers(name)) for name in grid_of(cfg)},
        keep=cfg.get("keep_maps", False),
    )


def heatmap_methods(cfg: DictConfig) -> "dict[str, HeatMapMethod]":
    """The heat-map methods of a run by name."""
    return {name: instantiate(method, _convert_="all") for name, method in cfg.heatmap.items()}


def load_layers(name: str) -> Any:
    """An option of the group attention_layers. Raises UserError for a name that it does not have: a name, no path."""
    known = option_files("attention_layers")
    if name not in known:
        raise UserError(f"unknown attention_layers {name!r}; choose from {', '.join(sorted(known))}")
    return OmegaConf.load(known[name])


def layer_choice(layers: Any) -> LayerChoice:
    """One option of the group attention_layers."""
    return LayerChoice(
        None if layers.ratios is None else tuple(layers.ratios),
        None if layers.blocks is None else tuple(layers.blocks),
        None if layers.weights is None else {int(k): float(v) for k, v in layers.weights.items()},
    )


def model_settings(cfg: DictConfig) -> ModelSettings:
    """Which model, where and how."""
    m = cfg.model
    size = model_size(cfg)

    def load() -> "Backbone":  # only now are torch and diffusers imported, which merge does without
        return instantiate(m.load, _partial_=True)(path=m.path, device=m.device, dtype=m.dtype, size=size)

    loras = tuple(read_loras(OmegaConf.select(m, "lora")))
    return ModelSettings(m.path, m.name, m.device, m.dtype, size, m.batch_size, m.compile, load, loras)


def model_size(cfg: DictConfig) -> tuple[int, int] | None:
    """(height, width) in pixels; one number is a square."""
    size = cfg.model.size
    return None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])


def load_dataset(cfg: DictConfig) -> "Dataset":
    """The Dataset of the composed config. `splits` speaks to sweeps, `parses` to the text processor."""
    keys = [k for k in cfg.dataset if k not in ("splits", "parses")]
    return without_broken_text(instantiate(OmegaConf.masked_copy(cfg.dataset, keys)))


def model_warning(model: str, data: object) -> str | None:
    """What a reader must know of the model at this path on what lies at the path `data`, before believing any of it."""
    bundled = str(PACKAGE / "assets" / "bundled")
    if model == bundled and not str(data).startswith(str(PACKAGE)):
        return "the bundled model knows only shapes: its figures on other data mean nothing"
    return None
