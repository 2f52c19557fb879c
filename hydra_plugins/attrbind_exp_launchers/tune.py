"""A search is a sweeper: sweep=tune looks for the constants of every way of reading attention on one split.

A trial is a run, in a folder that its constants name. So a search goes on like a sweep: nothing is kept of it but the
runs. Started again it draws the same constants in the same order, finds their runs finished, and goes on at the first
that is not. Hydra's own plugin for Optuna (1.3.0) wants an Optuna below 3, which is of 2022, and keeps a search in a
database or nowhere; so Optuna is asked directly.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra_plugins.attrbind_exp_launchers._search import Constants, Search

NOT_SAID = ("heatmap", "dataset.split", "dataset.fraction")  # a trial has its own


class TuneSweeper(BasicSweeper):
    """`trials` of every heat-map method of the run on a `fraction` of the first split, then the authors' constants
    beside the best ones on every split, one run each.

    A round of trials, one of each method, is launched together. `seed`: of the search; `every`: what is searched of
    every method, `spaces`: what more of those that it names.
    """

    def __init__(
        self,
        trials: int,
        fraction: float,
        seed: int,
        every: DictConfig,
        spaces: DictConfig,
        **_of_a_plain_sweep: object,
    ) -> None:
        super().__init__(None, None)
        self.trials, self.fraction, self.seed = trials, fraction, seed
        self.every, self.spaces = plain(every), plain(spaces)

    def sweep(self, arguments: list[str]) -> None:
        """Search, then compare. `arguments`: the overrides that were typed."""
        from attrbind_exp.log import log
        from attrbind_exp.reporting.tuned import write_trials, write_tuned

        typed = self._read(arguments)
        splits = self._splits()
        searches = self._searches()
        folder, launched = Path(self._cfg.hydra.sweep.dir), 0
        for trial in range(self.trials + 1):
            jobs = [self._trial(typed, search.name, search.ask(), splits[0]) for search in searches]
            for search, mIoU in zip(searches, self._launch(jobs, launched), strict=True):
                search.tell(mIoU)
            launched += len(jobs)
            write_trials(folder, {search.name: search.trials for search in searches})
            log.info(f"trial {trial} of {self.trials}, mIoU: {'; '.join(search.said() for search in searches)}")
        best = {search.name: search.best() for search in searches}
        tuned = self._tuned({name: constants for name, (constants, _) in best.items() if constants})
        if None not in self._launch([self._comparison(typed, tuned, split) for split in splits], 0):
            write_tuned(folder, plain(self._cfg.heatmap), tuned, splits, self._about())

    @property
    def _cfg(self) -> DictConfig:
        assert self.config is not None  # Hydra has called setup
        return self.config

    @property
    def _suffix(self) -> str:
        return f"tuned_on_{self._cfg.hydra.runtime.choices.dataset}"

    def _about(self) -> str:
        """One line of what constants were found on."""
        many = f"the best of {self.trials} trials on dataset.fraction={self.fraction} of {self._splits()[0]}"
        return f"model {self._cfg.model.name}; data {self._cfg.hydra.runtime.choices.dataset}; {many}"

    def _read(self, arguments: Sequence[str]) -> dict[str, str]:
        """The typed overrides by key, with the values of this sweeper checked. Raises UserError for several values."""
        from attrbind_exp.types import UserError

        assert self.hydra_context is not None
        found = {}
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        for override in parser.parse_overrides(list(arguments)):
            if override.is_sweep_override():
                raise UserError(f"'{override.input_line}' has several values; start a search for each of them")
            found[override.get_key_element().lstrip("+~")] = str(override.input_line)
        if type(self.trials) is not int or self.trials < 1:
            raise UserError(f"hydra.sweeper.trials={self.trials!r}; give a whole number, 1 or more")
        if not isinstance(self.fraction, int | float) or not 0 < self.fraction <= 1:
            raise UserError(f"hydra.sweeper.fraction={self.fraction!r}; give a number above 0, up to 1")
        return found

    def _splits(self) -> list[str]:
        from attrbind_exp.types import UserError

        splits = str(self._cfg.dataset.splits).split(",")
        if len(splits) < 2 or "split" not in self._cfg.dataset:
            raise UserError(
                f"dataset.splits={self._cfg.dataset.splits}; a search chooses constants on one split and judges "
                "them on others: give a dataset with two, as dataset.splits='val,test'"
            )
        return splits

    def _searches(self) -> list["Search"]:
        """A search for every heat-map method of the run."""
        from attrbind_exp.paths import options
        from attrbind_exp.types import UserError
        from hydra_plugins.attrbind_exp_launchers.launchers import load

        names, known = list(self._cfg.heatmap), options("heatmap")
        if unknown := sorted({*names, *self.spaces} - set(known)):
            raise UserError(f"no option '{unknown[0]}' of heatmap can be searched; choose from {', '.join(known)}")
        search = load("_search", "tune", "sweep=tune").Search
        spaces = {name: self.every | self.spaces.get(name, {}) for name in names}
        for name, space in spaces.items():
            check_keys(name, space, self._cfg.heatmap[name]._target_)
        return [search(name, space, self.seed) for name, space in spaces.items()]

    def _trial(self, typed: Mapping[str, str], name: str, constants: "Constants", split: str) -> list[str]:
        """The overrides of a trial, which name its folder."""
        from attrbind_exp.commands.command_line import sweep_name

        def of_another(key: str) -> bool:
            return key in NOT_SAID or (key.startswith("heatmap.") and not key.startswith(f"heatmap.{name}."))

        kept = {key: override for key, override in typed.items() if not of_another(key)}
        part = f"dataset.fraction={self.fraction}"
        chosen = [f"{key}={grammar(value)}" for key, value in constants.items()]
        unnamed = self._cfg.hydra.job.config.override_dirname.exclude_keys
        named = sweep_name([part, *(o for key, o in kept.items() if key not in unnamed), *(chosen or ["own"])])
        own = [f"heatmap=[{name}]", f"dataset.split={split}", part, *(f"++heatmap.{name}.{c}" for c in chosen)]
        return [*kept.values(), *own, f"hydra.sweep.subdir='{name}/{named}'"]

    def _tuned(self, found: Mapping[str, "Constants"]) -> dict[str, dict[str, Any]]:
        """Heat-map methods with the constants found, under names that say what they were found on."""
        own = plain(self._cfg.heatmap)
        return {f"{name}_{self._suffix}": own[name] | constants for name, constants in found.items()}

    def _comparison(self, typed: Mapping[str, str], tuned: Mapping[str, Mapping[str, Any]], split: str) -> list[str]:
        """The overrides of a run of all methods, under the authors' constants and under those found."""
        kept = [o for k, o in typed.items() if k != "dataset.split"]
        added = [f"+heatmap.{name}={grammar(method)}" for name, method in tuned.items()]
        key = sha256(json.dumps([kept, added]).encode()).hexdigest()[:8]
        return [*kept, f"dataset.split={split}", *added, f"hydra.sweep.subdir='compared-{key}/{split}'"]

    def _launch(self, jobs: Sequence[list[str]], first: int) -> list[float | None]:
        """The mIoU of every run, by the summary in its folder; None where it failed."""
        from attrbind_exp.runs.index import read_launched
        from attrbind_exp.runs.summary import read_summary

        assert self.launcher is not None
        self.launcher.launch(jobs, initial_job_idx=first)
        runs = read_launched(Path(self._cfg.hydra.sweep.dir))[first:]
        return [read_summary(Path(run.folder)).mIoU if run.state == "done" else None for run in runs]


def check_keys(name: str, space: Mapping[str, Any], target: str) -> None:
    """Raise UserError for a constant that a heat-map method does not take."""
    import inspect
    import pydoc

    from attrbind_exp.types import UserError

    known = list(inspect.signature(pydoc.locate(target)).parameters)  # type: ignore[arg-type]
    if unknown := [key for key in space if key not in known]:
        raise UserError(f"heatmap={name} has no constant '{unknown[0]}' to be searched; choose from {', '.join(known)}")


def plain(node: DictConfig) -> dict[Any, Any]:
    """A part of the configuration as plain Python."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def grammar(value: object) -> str:
    """A value as Hydra's grammar has it: {8:0.1,4:0.9}."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{grammar(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(grammar, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
