"""The composed configuration: where it lies, what its values may be, and the Settings that it stands for.

Only this module, the commands and what Hydra itself calls see a DictConfig.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from attrbind_exp import __version__
from attrbind_exp.backbones.reading import Reading, read_reading
from attrbind_exp.language.overrides import read_overrides
from attrbind_exp.types import (
    ChunkRule,
    LayerChoice,
    MapSettings,
    PoolingRule,
    PrefixRule,
    RunSettings,
    TextSettings,
    UncondRule,
    UserError,
    Variant,
)

if TYPE_CHECKING:  # a table of finished runs is made without loading torch
    from attrbind_exp.backbones.backbone import Backbone
    from attrbind_exp.data.dataset import Dataset
    from attrbind_exp.heatmaps.method import HeatMapMethod
    from attrbind_exp.language.caption import Captioner
    from attrbind_exp.tracking.tracker import Tracker

PACKAGE = Path(__file__).resolve().parent
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())
SWEEPS = CONF.parent / "sweeps"
OWN_FOLDER = "ATTRBIND_EXP_CONFIG_DIR"  # names the folder of --config-dir to every process of a command
CHANGE_NO_FIGURE = ("tracker", "batch_size", "cache", "gallery", "changed", "report")
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

OmegaConf.register_new_resolver("asset", lambda name="": str(PACKAGE / "assets" / name), replace=True)


@dataclass(frozen=True)
class ModelSettings:
    """Which model, where and how: `size` is (height, width) in pixels, None = the model's own; `batch_size`: rows of a
    pass on a CPU; `compile`: fuse what reads no attention; `load` makes the backbone."""

    path: str
    name: str
    device: str
    dtype: str
    size: tuple[int, int] | None
    batch_size: int
    compile: bool
    load: "Callable[[], Backbone]"


@dataclass(frozen=True)
class SegmenterSettings:
    """What a segmenter is made of; `cache_folder` None = nothing is kept, `make_methods` makes the heat-map methods."""

    model: ModelSettings
    text: TextSettings
    maps: MapSettings
    make_methods: "Callable[[], Mapping[str, HeatMapMethod]]"
    cache_folder: str | None = None
    cache_gigabytes: float = 0.0


@dataclass(frozen=True)
class Settings:
    """One run, as its configuration says. What takes time to load is a function that makes it.

    `batch_size`: None = fit it to the device's memory, and `run.batch_size` is the model's until then. `warning`: what
    a reader must know of this model on this data. `yaml`: the whole configuration, as config.yaml has it; `key`: twelve
    hex digits over all of it that can change a figure.
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
        warning=_warning(cfg),
        load_dataset=lambda: load_dataset(cfg),
        make_captioner=lambda: instantiate(cfg.captioner),
        make_tracker=instantiate(cfg.tracker, _partial_=True),
        yaml=OmegaConf.to_yaml(cfg, resolve=True),
        key=config_hash(cfg),
    )


def run_settings(cfg: DictConfig) -> RunSettings:
    """What a run does with its data."""
    found, headline = variants(cfg)
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
        metrics={name: instantiate(metric, _convert_="all") for name, metric in cfg.metric.items()},
    )


def segmenter_settings(cfg: DictConfig) -> SegmenterSettings:
    """What a segmenter is made of."""
    fill_reading(cfg)
    model, text, maps = model_settings(cfg), text_settings(cfg), map_settings(cfg)
    cache = OmegaConf.select(cfg, "cache.folder"), OmegaConf.select(cfg, "cache.gigabytes") or 0.0
    return SegmenterSettings(model, text, maps, lambda: heatmap_methods(cfg), *cache)


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


def own_folder() -> Path | None:
    """The user's own folder of options and Python files, which --config-dir named; None where there is none."""
    named = os.environ.get(OWN_FOLDER)
    return Path(named) if named else None


def option_files(group: str) -> dict[str, Path]:
    """The files of a config group by option, "_common" and its like left out: ours, then those of the user's folder.
    Of two with the same name ours is taken, as Hydra does."""
    own = own_folder()
    ours = SWEEPS if group == "sweeps" else CONF / group
    found = [f for folder in (ours, *([own / group] if own else [])) for f in sorted(folder.glob("*.yaml"))]
    return {f.stem: f for f in reversed(found) if not f.stem.startswith("_")}


def options(group: str) -> list[str]:
    """The options of a config group by name, those of the user's folder among them."""
    return sorted(option_files(group))


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
    if value is not None and not (
        _is_real(value) and 0 <= value <= 1 and math.isclose(value * 100, round(value * 100))
    ):
        raise UserError(f"threshold={value}; give a number between 0 and 1 in steps of 0.01, or one of grid")


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def variants(cfg: DictConfig) -> tuple[list[Variant], int]:
    """The variants of a run and the number of the one that heads its summary.

    There is one for every method of text_processor.methods, every alpha of it, every heat-map method and every choice
    of layers that the run compares. The headline is the method text_processor.report (the last where that is null) at
    alpha.report, read in the first way. Raises UserError where two variants would carry the same label.
    """
    methods: Any = OmegaConf.to_container(cfg.text_processor.methods, resolve=True)
    for method in methods:
        if not {"name"} <= set(method) <= {"name", "edits"}:
            raise UserError(
                f"text_processor.methods holds {method}; give each a name and a list of edits, nothing else"
            )
    heatmaps = list(cfg.heatmap) if len(cfg.heatmap) > 1 else [None]
    choices: list[str | None] = [*grid_of(cfg)] or [None]
    found = [
        Variant(method["name"], instantiate(edits, _convert_="all"), alpha, heatmap, layers)
        for method in methods
        for alpha, edits in by_alpha(method.get("edits") or [])
        for heatmap in heatmaps
        for layers in choices
    ]
    found = [Variant(v.method, tuple(v.edits), v.alpha, v.heatmap, v.layers) for v in found]
    labels = [v.label for v in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"variant '{twice}' stands twice; give every method its own name and every alpha once")
    head = cfg.text_processor.get("report") or found[-1].method
    first = (found[0].heatmap, found[0].layers)
    candidates = [i for i, v in enumerate(found) if v.method == head and (v.heatmap, v.layers) == first]
    if not candidates:
        raise UserError(
            f"text_processor.report='{head}' is no method; choose from {', '.join(m['name'] for m in methods)}"
        )
    wanted = OmegaConf.select(cfg, "alpha.report")
    return found, next((i for i in candidates if found[i].alpha == wanted), candidates[-1])


def by_alpha(edits: Sequence[dict[str, Any]]) -> list[tuple[float | None, list[dict[str, Any]]]]:
    """The edits of a method once for every alpha: where an edit's `alpha` is a list, each of its values in turn. The
    alpha is None where no edit has one. Raises UserError for an alpha that is no number >= 0."""
    lists = [edit["alpha"] for edit in edits if isinstance(edit.get("alpha"), list)]
    chosen = []
    for place in range(len(lists[0])) if lists else [0]:
        now = [{**e, "alpha": e["alpha"][place]} if isinstance(e.get("alpha"), list) else e for e in edits]
        alphas = [edit["alpha"] for edit in now if "alpha" in edit]
        for alpha in alphas:
            if not _is_real(alpha) or alpha < 0:
                known = ", ".join(options("alpha"))
                raise UserError(f"alpha={alpha}; give a finite number >= 0 (paper: 0.9), or one of {known}")
        chosen.append((float(alphas[0]) if alphas else None, [_as_float(edit) for edit in now]))
    return chosen


def _as_float(edit: dict[str, Any]) -> dict[str, Any]:
    return {**edit, "alpha": float(edit["alpha"])} if "alpha" in edit else edit


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
    return TextSettings(t.chunk, t.token_pooling, t.gate, t.ing_rule, overrides)


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
    """An option of the group attention_layers."""
    return OmegaConf.load(option_files("attention_layers")[name])


def layer_choice(layers: Any) -> LayerChoice:
    """One option of the group attention_layers."""
    return LayerChoice(
        None if layers.ratios is None else tuple(layers.ratios),
        None if layers.blocks is None else tuple(layers.blocks),
        None if layers.weights is None else {int(k): float(v) for k, v in layers.weights.items()},
    )


def grid_of(cfg: DictConfig) -> list[str]:
    """Names of the choices of layers that a run compares, none where it has one. Raises UserError for unknown ones."""
    names = list(cfg.attention_layers.get("grid") or [])
    known = [name for name in options("attention_layers") if name != "grid"]
    if unknown := next((name for name in names if name not in known), None):
        raise UserError(f"attention_layers.grid holds {unknown!r}; choose from {', '.join(known)}")
    return names


def model_settings(cfg: DictConfig) -> ModelSettings:
    """Which model, where and how."""
    m = cfg.model
    size = model_size(cfg)
    load = instantiate(m.load, _partial_=True, path=m.path, device=m.device, dtype=m.dtype, size=size)
    return ModelSettings(m.path, m.name, m.device, m.dtype, size, m.batch_size, m.compile, load)


def model_size(cfg: DictConfig) -> tuple[int, int] | None:
    """(height, width) in pixels; one number is a square."""
    size = cfg.model.size
    return None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])


def load_dataset(cfg: DictConfig) -> "Dataset":
    """The Dataset of the composed config. `splits` speaks to sweeps, `parses` to the text processor."""
    return instantiate(OmegaConf.masked_copy(cfg.dataset, [k for k in cfg.dataset if k not in ("splits", "parses")]))


def _warning(cfg: DictConfig) -> str | None:
    """What a reader must know of this model on this data before believing the figures."""
    bundled = str(PACKAGE / "assets" / "bundled")
    if cfg.model.path == bundled and not str(cfg.dataset.get("root")).startswith(str(PACKAGE)):
        return "the bundled model knows only shapes: its figures on other data mean nothing"
    return None


def config_hash(cfg: DictConfig) -> str:
    """Twelve hex digits over everything that can change a figure: not the tracker, batch size, device or pictures.
    Files that people edit by hand count by their contents."""
    plain: dict = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    kept = {k: v for k, v in plain.items() if k not in CHANGE_NO_FIGURE}
    kept["model"] = {k: v for k, v in kept["model"].items() if k not in ("device", "batch_size")}
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in edited_files(cfg)]
    text = json.dumps([__version__, kept, contents], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def edited_files(cfg: DictConfig) -> list[Path]:
    """The files of a configuration that people write by hand: overrides, captions, labels, a folder's table."""
    named = [OmegaConf.select(cfg, key) for key in ("text_processor.overrides", "captioner.file", "dataset.labels")]
    files = [Path(name).expanduser() for name in named if name]
    if "file" in cfg.dataset:  # a folder of pictures with a table
        root = Path(cfg.dataset.root).expanduser()
        table = cfg.dataset.file
        files += [root / table] if table else sorted(f for f in root.glob("*") if f.suffix in (".csv", ".jsonl"))
    return [file for file in files if file.is_file()]
