"""The runs below a folder, side by side: what was measured on the same data stands together, one column a variant."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from attrbind_exp.reporting.paper_tables import Run, read_runs
from attrbind_exp.runs.index import read_launched
from attrbind_exp.types import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where PyYAML was built with it


@dataclass(frozen=True)
class Unfinished:
    """A run without a summary: its `rows` and `failed` samples so far, and what its launcher says of it: `state`,
    `error` where it failed, `command` to start it alone."""

    folder: Path
    rows: int
    failed: int
    state: str = "not finished"
    error: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class Column:
    """One variant of one run under a label that no other column of its group has."""

    run: Run
    entry: Mapping[str, Any]
    label: str


@dataclass(frozen=True)
class Group:
    """Runs on the same data (dataset, split, part and shard of it), with their variants as columns."""

    name: str
    columns: Sequence[Column]

    @property
    def runs(self) -> list[Run]:
        """Its runs, each once."""
        return list({c.run.folder: c.run for c in self.columns}.values())

    @property
    def scored(self) -> str:
        """What was scored: expressions or images."""
        return str(self.runs[0].summary["scored"])


def read_folder(folder: Path) -> tuple[list[Run], list[Unfinished]]:
    """Finished and unfinished runs of a run's or a sweep's folder. Raises UserError where there is neither."""
    if not folder.is_dir():
        raise UserError(f"no folder '{folder}'; give the folder of a run or of a sweep")
    unfinished = _unfinished(folder)
    if (folder / "summary.json").is_file():
        return [Run(folder, json.loads((folder / "summary.json").read_text(encoding="utf-8")))], unfinished
    if unfinished and next(folder.glob("**/summary.json"), None) is None:
        return [], unfinished
    runs = read_runs(folder)
    splits = str(read_config(runs[0].folder).get("dataset", {}).get("splits") or "").split(",")
    return read_runs(folder, splits), unfinished


def _unfinished(folder: Path) -> list[Unfinished]:
    """Folders that a run has begun to fill, and runs that never came so far but stand in the sweep's list."""
    started = {f.parent for name in ("config_hash", "expressions.jsonl") for f in folder.glob(f"**/{name}")}
    launched = {folder / run.folder: run for run in read_launched(folder)}
    found = []
    for path in sorted(started | set(launched)):
        if (path / "summary.json").is_file():
            continue
        rows, failed = (_lines(path / name) for name in ("expressions.jsonl", "failures.jsonl"))
        run = launched.get(path)
        # Of a launcher that was killed itself, "running" is its last word.
        state = run.state if run and run.state in ("failed", "stopped", "queued") else "not finished"
        error, command = (run.error, run.command) if run else (None, None)
        found.append(Unfinished(path, rows, failed, state, error, command))
    return found


def _lines(file: Path) -> int:
    if not file.is_file():
        return 0
    with open(file, "rb") as stream:
        return sum(line.endswith(b"\n") for line in stream)


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml of a run; empty where there is none."""
    file = folder / "config.yaml"
    if not file.is_file():
        return {}
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read '{file}' ({' '.join(str(error).split())}); mend it or remove it") from error
    return found if isinstance(found, dict) else {}


def without_merged_shards(runs: Sequence[Run]) -> list[Run]:
    """The runs less the shards that were made one again: what they measured stands in the merged run."""
    configs = [read_config(run.folder) for run in runs]
    whole = [{k: v for k, v in c.items() if k != "shard"} for c in configs]
    merged = [w for w, c in zip(whole, configs) if c and c.get("shard") is None]
    return [run for run, w, c in zip(runs, whole, configs) if c.get("shard") is None or w not in merged]


def make_groups(runs: Iterable[Run], root: Path) -> list[Group]:
    """Groups in the order in which their data first comes. A variant that two runs measured alike stands once; labels
    that would stand twice also name what tells the runs apart."""
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(_data(run), []).append(run)
    parts = {key: _differing({key: json.loads(key) for key in by_data}, key) for key in by_data}
    named = [(_name(members[0]), parts[key], members) for key, members in by_data.items()]
    names = [name for name, _, _ in named]
    return [
        Group(name if names.count(name) == 1 else f"{name} ({part})", _columns(members, root))
        for name, part, members in named
    ]


def _data(run: Run) -> str:
    config = read_config(run.folder)
    about = config.get("dataset") or {"name": run.summary.get("dataset"), "split": run.split}
    kept = {k: v for k, v in about.items() if k not in ("splits", "_target_")}
    part = {"scored": run.summary["scored"], "shard": config.get("shard")}
    return json.dumps({**kept, **part}, sort_keys=True, default=str)


def _name(run: Run) -> str:
    """shapes(made), test."""
    name, split = str(run.summary.get("dataset") or "data"), run.summary.get("split")
    return name if split is None or str(split) in name else f"{name}, {split}"


def _columns(runs: Sequence[Run], root: Path) -> list[Column]:
    found: list[Column] = []
    for run in runs:
        for entry in run.summary["variants"]:
            if not any(_figures(entry) == _figures(c.entry) for c in found):
                found.append(Column(run, entry, str(entry["label"])))
    labels = [c.label for c in found]
    configs = {str(r.folder.relative_to(root)): flatten(read_config(r.folder)) for r in runs}
    return [
        replace(c, label=f"{c.label} · {_differing(configs, str(c.run.folder.relative_to(root)))}")
        if labels.count(c.label) > 1
        else c
        for c in found
    ]


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k != "difference"}


def _differing(of: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """What tells `name` from the others: "seed=1, limit=60"; its own name where nothing does."""
    differing = config_diff(of)
    return ", ".join(f"{key}={values[name]}" for key, values in differing.items()) or name


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"alpha": {"value": 0.9}} -> {"alpha.value": 0.9}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_diff(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{key: {name: value}} of the flat keys whose values are not the same everywhere; "-" where a key is lacking."""
    keys = sorted({key for config in configs.values() for key in config})
    table = {key: {name: config.get(key, "-") for name, config in configs.items()} for key in keys}
    return {key: row for key, row in table.items() if len({repr(v) for v in row.values()}) > 1}
