"""config.yaml of a run's folder as text: checked, since a folder may come from anybody, before it is made into more."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import yaml

from attrbind_exp.types import UserError

NAME = "config.yaml"
MEND = "get the folder again, or run again"
CHANGE_NO_FIGURE = (
    "tracker",
    "batch_size",
    "cache",
    "gallery",
    "changed",
    "save_masks",
    "figure",
    "report",
    "proposals",
)
MODEL_CHANGES_NO_FIGURE = ("device", "batch_size")
WEIGHTS_ARE_NEWER = tuple(f"attrbind_exp.heatmaps.{name}" for name in ("daam.Daam", "diffseg.DiffSeg", "ovam.Ovam"))
MOST_DEEP = 50  # what a run writes has eight levels at most
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it


Configuration: TypeAlias = Mapping[str, object]


def read_configuration(folder: Path) -> str:
    """The text of config.yaml.

    Raises UserError for a file that cannot be read, is no YAML, or is what no run writes: nested so deeply that
    building it ends the process, or with parts that refer to others, which can be made to fill any memory.
    """
    file, deep = folder / NAME, 0
    try:
        text = file.read_bytes().decode("utf-8")
        for event in yaml.parse(text, LOADER):  # events build nothing
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"'{file}' refers to its own parts (*{event.anchor[:40]}), which no run writes; {MEND}")
            if isinstance(event, yaml.CollectionStartEvent | yaml.CollectionEndEvent):
                deep += 1 if isinstance(event, yaml.CollectionStartEvent) else -1
                if deep > MOST_DEEP:
                    raise UserError(f"'{file}' is nested more than {MOST_DEEP} deep, which no run writes; {MEND}")
    except OSError as error:
        raise UserError(f"cannot read '{file}' ({error.strerror}); it belongs to a run's folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read '{file}' ({' '.join(str(error).split())[:200]}); {MEND}") from error
    return text


def kept_batch_size(folder: Path) -> int | None:
    """The batch_size of the run that was begun in a folder, as its configuration says; None where it says no number."""
    if not (folder / NAME).is_file():
        return None
    try:
        found = yaml.load(read_configuration(folder), LOADER)
    except (yaml.YAMLError, ValueError):
        return None
    size = found.get("batch_size") if isinstance(found, dict) else None
    return size if type(size) is int and size > 0 else None


def differing(before: str, now: str) -> list[str]:
    """Keys that can change a figure and have another value in each of two configurations, texts of config.yaml:
    "seed 0 / 1". None where a text is no configuration."""
    try:
        given = [yaml.load(text, LOADER) for text in (before, now)]
    except (yaml.YAMLError, ValueError):
        return []
    if not all(isinstance(one, dict) for one in given):
        return []
    rows = config_diff({str(n): flatten(counted(one)) for n, one in enumerate(given)})
    return [f"{key} {_shown(list(row.values()))}".strip() for key, row in rows.items()]


def _shown(values: Sequence[object]) -> str:
    """Two values side by side; of lists, which a line has no room for, nothing."""
    return "" if any(isinstance(value, list) for value in values) else " / ".join(str(v)[:80] for v in values)


def counted(configuration: Configuration) -> dict[str, object]:
    """The part of a configuration that can change a figure."""
    kept = {k: v for k, v in configuration.items() if k not in CHANGE_NO_FIGURE}
    if isinstance(model := kept.get("model"), Mapping):
        kept["model"] = {k: v for k, v in model.items() if k not in MODEL_CHANGES_NO_FIGURE}
    if isinstance(heatmap := kept.get("heatmap"), Mapping):
        kept["heatmap"] = {name: _without_open_keys(method) for name, method in heatmap.items()}
    steps = kept.get("latent_steps")
    if "latent_steps" in kept and (not steps or (isinstance(steps, Mapping) and steps.get("steps") == 0)):
        del kept["latent_steps"]  # none, as in every configuration that is older than the key
    return kept


def _without_open_keys(method: object) -> object:
    """A heat-map method without those keys that are null and that older configurations do not have: `timesteps`, and
    `weights` of methods that had none. DiffSegmenter's have always counted, null or not."""
    if not isinstance(method, Mapping):
        return method
    newer = ("timesteps", "weights") if method.get("_target_") in WEIGHTS_ARE_NEWER else ("timesteps",)
    return {k: v for k, v in method.items() if v is not None or k not in newer}


def flatten(tree: Configuration, prefix: str = "") -> dict[str, object]:
    """{"alpha": {"value": 0.9}} -> {"alpha.value": 0.9}; lists stay whole."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_diff(configs: Mapping[str, Configuration]) -> dict[str, dict[str, object]]:
    """{key: {name: value}} of the flat keys whose values are not the same everywhere; "-" where a key is lacking."""
    keys = sorted({key for config in configs.values() for key in config})
    table = {key: {name: config.get(key, "-") for name, config in configs.items()} for key in keys}
    return {key: row for key, row in table.items() if len({repr(v) for v in row.values()}) > 1}
