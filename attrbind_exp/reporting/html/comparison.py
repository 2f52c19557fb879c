"""The runs of a folder, side by side: what was measured on the same data stands together, one column a variant."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attrbind_exp.edits.variant import has_latent_steps, is_floor, is_plain
from attrbind_exp.reporting.html.folder import Config, dataset_config, named_splits, read_config
from attrbind_exp.reporting.paper_tables import Run, chosen_threshold
from attrbind_exp.reporting.refined import refinement_of
from attrbind_exp.runs.configuration import config_diff, flatten
from attrbind_exp.scoring.figures import VariantFigures


@dataclass(frozen=True)
class Column:
    """One variant of one run under a label that no other column of its group has; `settings`: its run's configuration
    by flat key."""

    run: Run
    entry: VariantFigures
    label: str
    settings: Config

    @property
    def is_baseline(self) -> bool:
        """Whether it measures the prompt without any edit, on latents as they are."""
        return is_baseline(self.entry)

    @property
    def is_rival(self) -> bool:
        """Whether it edits anything, and is no floor."""
        return is_rival(self.entry)


def is_baseline(entry: VariantFigures) -> bool:
    """Whether a variant is the prompt without any edit, on latents as they are, whose heat maps were not refined."""
    return is_plain(entry.label)


def is_rival(entry: VariantFigures) -> bool:
    """Whether a variant edits anything, and is no floor."""
    return not is_baseline(entry) and not is_floor(entry.label)


@dataclass(frozen=True)
class Group:
    """Runs on the same data (dataset, split, part and shard of it) whose heat maps are refined alike, with their
    variants as columns."""

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


def reference(group: Group, column: Column) -> Column | None:
    """What a column is compared to: its run's first variant; where a run has but one, the baseline of the run whose
    configuration is most alike, or the group's first column where there is no baseline. The first variant of a run with
    latent steps is compared as if it were alone."""
    own = column.run.summary.variants
    if len(own) == 1 or (column.entry is own[0] and has_latent_steps(column.entry.label)):
        baselines = [] if column.is_baseline else [c for c in group.columns if c.is_baseline]
        found = min(baselines or group.columns[:1], key=lambda c: _distance(c, column))
        return None if found is column else found
    if column.entry is own[0]:
        return None
    # Where an earlier run measured it alike, it stands there.
    shown = (c for c in group.columns if c.entry is own[0])
    return next(shown, replace(column, entry=own[0], label=own[0].label))


def _distance(one: Column, other: Column) -> int:
    """In how many keys the runs of two columns differ."""
    return len(config_diff({"one": one.settings, "other": other.settings}))


def selection(runs: Sequence[Run]) -> str | None:
    """The split that chooses thresholds for the others: the first that the dataset names, where one run has it."""
    named = named_splits(runs[0])
    return named[0] if len(named) > 1 and [r.split for r in runs].count(named[0]) == 1 else None


def one_threshold(group: Group, groups: Sequence[Group]) -> float | None:
    """The threshold at which the expressions of a group are compared, whatever the variant: the one that another split
    chose for the group's first column, else the first column's own."""
    runs = [run for g in groups for run in g.runs]
    split, first = selection(runs), group.columns[0].entry
    chooser = next((run for run in runs if run.split == split and run not in group.runs), None)
    held = chosen_threshold(chooser, first.label)
    return first.threshold if held is None else held


def _data(run: Run) -> str:
    """What was scored, as text that is equal for equal data."""
    config = read_config(run.folder)
    about = dataset_config(config) or {"name": run.summary.dataset, "split": run.split}
    kept = {k: v for k, v in about.items() if k not in ("splits", "_target_")}
    part = {"scored": run.summary.scored, "shard": config.get("shard"), "refine": refinement_of(run)}
    return json.dumps({**kept, **part}, sort_keys=True, default=str)


def _name(run: Run) -> str:
    """shapes(made), test."""
    name, split = run.summary.dataset or "data", run.summary.split
    parts = [name, None if split is None or split in name else split, refinement_of(run)]
    return ", ".join(filter(None, parts))


def _columns(runs: Sequence[Run], root: Path) -> list[Column]:
    """The variants of runs on the same data, runs of the baseline alone first. Labels that would stand twice also name
    in what the configurations of those runs differ, or their folders, where a run and a scoring have hardly a key in
    common."""
    found: list[Column] = []
    for run in runs:
        settings = flatten(read_config(run.folder))
        for entry in run.summary.variants:
            if not any(_measured(entry) == _measured(c.entry) for c in found):
                found.append(Column(run, entry, entry.label, settings))
    found.sort(key=lambda c: any(map(is_rival, c.run.summary.variants)))
    columns = []
    for c in found:
        own = str(c.run.folder.relative_to(root))
        alike = {str(other.run.folder.relative_to(root)): other for other in found if other.label == c.label}
        comparable = len({other.run.summary.command for other in alike.values()}) == 1
        said = _differing({name: other.settings for name, other in alike.items()}, own) if comparable else own
        columns.append(replace(c, label=f"{c.label} · {said}") if len(alike) > 1 else c)
    return columns


def _measured(entry: VariantFigures) -> VariantFigures:
    """A variant's figures without its differences, which say as much of other variants of the run."""
    return replace(entry, difference=None, beyond=None)


def _differing(of: Mapping[str, Config], name: str) -> str:
    """What tells `name` from the others: "seed=1, heatmap=elbo"; its own name where nothing does. A reading that some
    of them do not have is said by its name, without its constants."""
    readings = {folder: _readings(settings) for folder, settings in of.items()}
    shared = set.intersection(*map(set, readings.values()))
    own = [reading for reading in readings[name] if reading not in shared]
    said = [f"heatmap={','.join(own)}"] if own else []
    for key, values in config_diff(of).items():
        group, _, rest = key.partition(".")
        if group != "heatmap" or rest.partition(".")[0] in shared:
            said.append(f"{key}={values[name]}")
    return ", ".join(said) or name


def _readings(settings: Config) -> list[str]:
    """The ways of reading attention that flat settings have, in their order."""
    keys = (key.split(".") for key in settings)
    return list(dict.fromkeys(parts[1] for parts in keys if parts[0] == "heatmap" and len(parts) > 1))
