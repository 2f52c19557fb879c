"""What a few names stand for, as Python gives them: the settings of a segmenter, options of a group, and other people's
edits."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from attrbind_exp.config.checks import check
from attrbind_exp.config.settings import SegmenterSettings, segmenter_settings
from attrbind_exp.edits import Edit
from attrbind_exp.paths import CONF, option_files, own_folder
from attrbind_exp.types import LayerChoice, UserError

COMMON = CONF / "text_processor" / "_common.yaml"


def settings_by_name(
    model: str, path: str | None, heatmap: str, layers: str | LayerChoice, seed: int, device: str, dtype: str
) -> SegmenterSettings:
    """Options of conf/model, conf/heatmap and conf/attention_layers by name, and the values that replace theirs.

    `path`: another model's folder or hub name, read as `model` says; None = the option's own. Raises UserError for the
    first value that makes no sense.
    """
    named = layers if isinstance(layers, str) else "all"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("segment", [f"model={model}", f"heatmap=[{heatmap}]", f"attention_layers={named}"])
    cfg.seed, cfg.model.device, cfg.model.dtype = seed, device, dtype
    if path is not None:
        cfg.model.path, cfg.model.name = path, Path(path).name
    check(cfg)
    settings = segmenter_settings(cfg)
    return settings if isinstance(layers, str) else replace(settings, maps=replace(settings.maps, layers=layers))


def make_option(group: str, name: str, **given: object) -> Any:
    """What an option of a group names, made of its values and of those that are `given` in their place; None for an
    option that names nothing ("none"). Raises UserError for a value that cannot be, and for one that is missing."""
    placed = OmegaConf.create({group: OmegaConf.load(option_files(group)[name])})  # where its references begin
    values: Any = OmegaConf.to_container(placed[group], resolve=True)
    if not values:
        return None
    kind = get_class(values.pop("_target_"))
    try:
        return kind(**values | given)
    except UserError as error:
        mend = f"in Python give {kind.__name__}(..), from {kind.__module__} import {kind.__name__}"
        raise UserError(f"{error}; {mend}") from error


@cache
def field_edits() -> dict[str, tuple[Edit, ...]]:
    """The edits of other people by the names that text_processor=edits_of_the_field gives them, with its constants."""
    ours = CONF / "text_processor"
    return _edits([ours / f"{name}.yaml" for name in ("_common", "_field", "edits_of_the_field")], alpha=1.0)


def own_edits(alpha: float) -> dict[str, tuple[Edit, ...]]:
    """The edits of a user's own options of text_processor (--config-dir) by the names of their methods."""
    folder = own_folder()
    files = sorted((folder / "text_processor").glob("*.yaml")) if folder else []
    return {name: found for file in files for name, found in _edits([COMMON, file], alpha).items()}


def _edits(files: Sequence[Path], alpha: float) -> dict[str, tuple[Edit, ...]]:
    """The edits of each method of some files of text_processor, one laid over the other."""
    parts = OmegaConf.merge(*map(OmegaConf.load, files))
    cfg = OmegaConf.create({"text_processor": parts, "alpha": {"value": alpha}})
    methods = cfg.text_processor.get("methods") or []
    return {method.name: tuple(instantiate(method.get("edits") or [], _convert_="all")) for method in methods}
