"""The runs of a folder, side by side: what was measured on the same data stands together, one column a variant."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attrbind_exp.reporting.html.folder import Config, dataset_config, read_config
from attrbind_exp.reporting.paper_tables import Run
from attrbind_exp.scoring.figures import VariantFigures


@dataclass(frozen=True)
class Column:
    """One variant of one run under a label that no other column of its group has."""

    run: Run
    entry: VariantFigures
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
        return self.runs[0].summary.scored


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
    """What was scored, as text that is equal for equal data."""
    config = read_config(run.folder)
    about = dataset_config(config) or {"name": run.summary.dataset, "split": run.split}
    kept = {k: v for k, v in about.items() if k not in ("splits", "_target_")}
    part = {"scored": run.summary.scored, "shard": config.get("shard")}
    return json.dumps({**kept, **part}, sort_keys=True, default=str)


def _name(run: Run) -> str:
    """shapes(made), test."""
    name, split = run.summary.dataset or "data", run.summary.split
    return name if split is None or split in name else f"{name}, {split}"


def _columns(runs: Sequence[Run], root: Path) -> list[Column]:
    found: list[Column] = []
    for run in runs:
        for entry in run.summary.variants:
            if not any(_measured(entry) == _measured(c.entry) for c in found):
                found.append(Column(run, entry, entry.label))
    labels = [c.label for c in found]
    configs = {str(r.folder.relative_to(root)): flatten(read_config(r.folder)) for r in runs}
    return [
        replace(c, label=f"{c.label} · {_differing(configs, str(c.run.folder.relative_to(root)))}")
        if labels.count(c.label) > 1
        else c
        for c in found
    ]


def _measured(entry: VariantFigures) -> VariantFigures:
    """A variant's figures without its difference, which says as much of the run's first variant."""
    return replace(entry, difference=None)


def _differing(of: Mapping[str, Config], name: str) -> str:
    """What tells `name` from the others: "seed=1, limit=60"; its own name where nothing does."""
    differing = config_diff(of)
    return ", ".join(f"{key}={values[name]}" for key, values in differing.items()) or name


def flatten(tree: Config, prefix: str = "") -> dict[str, object]:
    """{"alpha": {"value": 0.9}} -> {"alpha.value": 0.9}; lists stay whole."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_diff(configs: Mapping[str, Config]) -> dict[str, dict[str, object]]:
    """{key: {name: value}} of the flat keys whose values are not the same everywhere; "-" where a key is lacking."""
    keys = sorted({key for config in configs.values() for key in config})
    table = {key: {name: config.get(key, "-") for name, config in configs.items()} for key in keys}
    return {key: row for key, row in table.items() if len({repr(v) for v in row.values()}) > 1}
